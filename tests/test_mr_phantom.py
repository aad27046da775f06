"""Synthetic MR of many lesion kinds: what is drawn is where the mask says it is, and every kind looks like itself."""

from collections import Counter

import numpy as np
import pytest
from test_glioma_phantom import SHAPE, brain

from difffuse_hf.phantoms import brats2021, mr
from difffuse_hf.phantoms.anatomy import Anatomy, Tissue
from difffuse_hf.phantoms.glioma import ENHANCING, NECROTIC, OEDEMA

BOX = (slice(94, 146), slice(72, 132), slice(46, 92))  # even sides, around the MNI origin


@pytest.fixture(autouse=True)
def small_head(monkeypatch):
    """A small brain in a small box of BraTS's grid."""
    anatomy = Anatomy("small", brain(), (np.array(SHAPE) - 1) / 2, np.eye(3))
    for module in (mr, brats2021):
        monkeypatch.setattr(module, "BRAIN_BOX", BOX)
    monkeypatch.setattr(brats2021, "SHAPE", (150, 136, 96))
    monkeypatch.setattr(mr, "load_anatomy", lambda path: anatomy)
    monkeypatch.setitem(mr.LOOK, "flair", mr.MRLook((0.5, 0.9), (0.5, 1.0), 0.0))


def drawn(kind, monkeypatch, lesion=True, index=1):
    monkeypatch.setattr(mr, "kind_of", lambda seed, index: kind)
    return mr.draw(5, index, None, lesion)


TUMOUR = {NECROTIC, OEDEMA, ENHANCING}
LABELS = {
    "glioma": TUMOUR,
    "metastases": TUMOUR,
    "white_matter": {mr.WHITE_MATTER_LESION},
    "infarct": {mr.INFARCT},
    "old_infarct": {mr.CAVITY, mr.SCAR},
}


@pytest.mark.parametrize("kind", mr.KINDS)
def test_without_its_lesions_a_subject_differs_inside_the_mask_only(kind, monkeypatch):
    sick, well = (drawn(kind, monkeypatch, lesion) for lesion in (True, False))
    lesion = sick.segmentation > 0
    assert lesion.any() and not well.segmentation.any() and mr.row(sick) == {"kind": kind}
    assert set(np.unique(sick.segmentation[lesion])) <= LABELS[kind]
    for modality in mr.CONTRAST:
        inside = np.abs(sick.volumes[modality].astype(int) - well.volumes[modality])[lesion]
        assert inside.mean() > 0, modality
        assert np.array_equal(sick.volumes[modality] > 0, well.volumes[modality] > 0)
    assert (sick.volumes["flair"][lesion] > 0).all()  # no lesion where the brain was stripped away


def test_kinds_come_as_often_as_they_are_to():
    counts = Counter(mr.kind_of(0, index) for index in range(400))
    assert sum(mr.KINDS.values()) == pytest.approx(1)
    assert all(abs(counts[kind] / 400 - share) < 0.06 for kind, share in mr.KINDS.items())


def test_age_widens_the_ventricles_at_the_cost_of_white_matter_only():
    tissue = brain()
    older = [mr.older(np.random.default_rng(seed), tissue) for seed in range(12)]
    sizes = {int((one == Tissue.VENTRICLE).sum()) for one in older}
    assert len(sizes) > 2 and min(sizes) == (tissue == Tissue.VENTRICLE).sum()
    for one in older:
        changed = one != tissue
        assert set(np.unique(tissue[changed])) <= {Tissue.WHITE_MATTER, Tissue.CORTEX}
        assert np.array_equal(one > 0, tissue > 0)
