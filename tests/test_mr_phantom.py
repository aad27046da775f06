"""Synthetic MR of many lesion kinds: what is drawn is where the mask says it is, and every kind looks like itself."""

from collections import Counter

import numpy as np
import pytest
from test_glioma_phantom import SHAPE, brain

from difffuse_hf.phantoms import brats2021, mr
from difffuse_hf.phantoms.anatomy import Anatomy, Tissue
from difffuse_hf.phantoms.glioma import ENHANCING, NECROTIC, OEDEMA

DRAWN = mr.LOOK["flair"]  # before the fixture below
TISSUES = {  # proton density, T1, T2 in ms of white and grey matter; T1: Wright et al. 2008, T2: Stanisz et al. 2005
    1.5: ((0.70, 646, 72), (0.82, 1197, 95)),
    3.0: ((0.70, 838, 69), (0.82, 1607, 99)),
}
PROTOCOLS = (  # tesla, TR, TI and TE in ms: FLAIR as it is run
    *((1.5, tr, ti, te) for tr, ti in ((8000, 2000), (9000, 2200), (9000, 2500)) for te in (90, 105, 120, 140)),
    *((3.0, tr, ti, te) for tr, ti in ((8000, 2370), (9000, 2500), (11000, 2800)) for te in (90, 105, 120, 140)),
)
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


def test_the_cortex_that_the_signal_equation_gives_on_flair_is_among_what_is_drawn():
    def signal(density, t1, t2, tr, ti, te):
        return density * (1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)

    given = [signal(*TISSUES[b][1], tr, ti, te) / signal(*TISSUES[b][0], tr, ti, te) for b, tr, ti, te in PROTOCOLS]
    standing_off = brats2021.CONTRAST["flair"][Tissue.CORTEX - Tissue.WHITE_MATTER] - 1
    low, high = (1 + factor * standing_off for factor in DRAWN.contrast)
    assert (min(given), max(given)) == pytest.approx((1.08, 1.52), abs=0.005)
    assert low <= min(given) and max(given) <= high
