"""Facts about the synthetic subjects: reproducible, exactly known lesions, the layout of BraTS 2021."""

import nibabel
import numpy as np
import pytest

from difffuse_hf import BrainPhantom
from difffuse_hf.errors import InputError
from difffuse_hf.phantoms.anatomy import Tissue, load_anatomy
from difffuse_hf.phantoms.fields import smooth_field


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom")
    (folder,) = BrainPhantom(seed=5).write(root, 1)
    return root, folder


def read(folder, suffix):
    return nibabel.load(folder / f"{folder.name}_{suffix}.nii.gz")


def test_files_are_those_of_brats_2021_and_say_that_they_are_synthetic(cohort):
    _, folder = cohort
    assert sorted(path.name for path in folder.iterdir()) == [
        f"BraTS2021_00000_{suffix}.nii.gz" for suffix in ("flair", "seg", "t1", "t1ce", "t2")
    ]
    for suffix in ("flair", "t1", "t1ce", "t2", "seg"):
        image = read(folder, suffix)
        assert image.shape == (240, 240, 155)
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        assert b"SYNTHETIC" in image.header["descrip"].item()
    assert set(np.unique(read(folder, "seg").dataobj)) <= {0, 1, 2, 4}


def test_without_its_lesion_a_subject_differs_inside_the_mask_only(cohort):
    _, folder = cohort
    healthy = BrainPhantom(seed=5).subject(0, lesion=False)
    mask = np.asarray(read(folder, "seg").dataobj) > 0
    assert mask.sum() > 1000 and not healthy.segmentation.any()
    for modality, volume in healthy.volumes.items():
        changed = volume != np.asarray(read(folder, modality).dataobj)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.9


def test_a_subject_that_is_listed_but_not_there_is_drawn_again_and_the_same_seed_makes_the_same(cohort, tmp_path):
    """As after an interrupt between the list and the folder."""
    root, folder = cohort
    (tmp_path / "subjects.csv").write_bytes((root / "subjects.csv").read_bytes())
    (again,) = BrainPhantom(seed=5).write(tmp_path, 1)
    assert again.name == folder.name
    for suffix in ("flair", "t1", "t1ce", "t2", "seg"):
        assert np.array_equal(read(again, suffix).dataobj, read(folder, suffix).dataobj)


def test_a_cohort_is_continued_where_it_stopped_and_never_mixed_with_another(cohort):
    root, folder = cohort
    before = (folder / "BraTS2021_00000_flair.nii.gz").stat().st_mtime_ns
    assert list(BrainPhantom(seed=5).write(root, 1)) == [folder]
    assert (folder / "BraTS2021_00000_flair.nii.gz").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="not written by this cohort"):
        list(BrainPhantom(seed=6).write(root, 1))


def test_the_built_in_anatomy_has_the_volume_of_a_brain():
    tissue = load_anatomy().tissue
    assert 1300 < (tissue > 0).sum() / 1000 < 2200  # ml; the ICBM152 template is larger than most brains
    assert 350 < (tissue == Tissue.WHITE_MATTER).sum() / 1000 < 800


def test_smooth_fields_have_unit_variance_and_the_spacing_they_are_asked_for():
    field = smooth_field(np.random.default_rng(0), (64, 64, 64), spacing=8)
    assert abs(field.std() - 1) < 1e-3
    correlation = [float((field[:-lag] * field[lag:]).mean()) for lag in (1, 16)]
    assert correlation[0] > 0.9 and abs(correlation[1]) < 0.3


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no NIfTI label maps"):
        BrainPhantom(anatomies=tmp_path)
