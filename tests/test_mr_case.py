"""Modalities that lie apart come onto one grid, and a head comes out of its skull; what was done is said."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from test_skull import AFFINE, SMALL_MM, head

from difffuse_hf import read_case
from difffuse_hf.errors import InputError
from difffuse_hf.io.volume_file import VolumeFile
from difffuse_hf.preprocessing import mr_case
from difffuse_hf.preprocessing.mr_case import prepare_case

align = pytest.importorskip("difffuse_hf.preprocessing.align", reason="needs SimpleITK").align
extract_brain = pytest.importorskip("difffuse_hf.preprocessing.mri", reason="needs SimpleITK").extract_brain

SHAPE, GRID = (40, 48, 30), np.diag([-4.0, -4.0, 5.0, 1.0])
MODALITIES = ("flair", "t1", "t2")


def brain(seed=0):
    """Tissue with structure at all scales inside an ellipsoid; every seed another one."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radii = 0.85 + 0.1 * rng.uniform(-1, 1, 3)
    inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, radii)) < 1
    texture = sum(ndimage.gaussian_filter(rng.standard_normal(SHAPE), s) * s**1.5 for s in (1.5, 3, 6))
    return np.where(inside, 1 + texture.clip(-0.8, 2), 0).astype(np.float32)


def contrasts(tissue):
    """The same tissue under three contrasts, in the order of `MODALITIES`."""
    return [np.where(tissue > 0, value, 0) for value in (300 * tissue, 900 / (tissue + 1), 200 * tissue**2 + 40)]


def rigid(degrees=3.0, shift_mm=5.0):
    """About the middle of the grid, in its world."""
    middle = (GRID @ [*(np.array(SHAPE) - 1) / 2, 1])[:3]
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * np.array([0.6, 0.64, 0.48])).as_matrix()
    return nibabel.affines.from_matvec(turn, middle - turn @ middle + shift_mm * np.array([0.48, -0.6, 0.64]))


def write(folder, volumes, affines=(GRID, GRID, GRID), reference=None):
    folder.mkdir(parents=True)
    for modality, volume, affine in zip(MODALITIES, volumes, affines):
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), affine), folder / f"P_{modality}.nii.gz")
    if reference is not None:
        nibabel.save(nibabel.Nifti1Image(reference.astype(np.uint8), GRID), folder / "P_seg.nii.gz")
    return folder


def turned(volume):
    """The volume as it lies on the same grid after the head has moved."""
    matrix = np.linalg.inv(GRID) @ np.linalg.inv(rigid()) @ GRID
    return ndimage.affine_transform(volume, matrix[:3, :3], matrix[:3, 3], order=1)


@pytest.mark.parametrize("moved", ["flair", "t1"])
@pytest.mark.parametrize("how", ["header", "voxels"])
def test_one_modality_that_has_moved_is_brought_back(how, moved, tmp_path):
    volumes, number = contrasts(brain()), MODALITIES.index(moved)
    affines, written = [GRID] * 3, list(volumes)
    if how == "header":
        affines[number] = rigid() @ GRID
    else:
        written[number] = turned(volumes[number])
    source = write(tmp_path / "P", written, affines, reference=volumes[0] > 500)
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    case, pictures = prepare_case(source, MODALITIES)
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    np.testing.assert_allclose(case.affine, GRID, atol=1e-4)
    (note,) = case.notes
    assert note.startswith(f"{moved}: it {'lay on another grid' if how == 'header' else 'had moved'}")
    assert list(pictures) == [f"registration_{moved}"] and pictures[f"registration_{moved}"].dtype == np.uint8
    deep = ndimage.binary_erosion(volumes[0] > 0, iterations=3)
    assert np.corrcoef(case.volumes[number][deep], volumes[number][deep])[0, 1] > 0.95
    for other in {0, 1, 2} - {number}:
        np.testing.assert_array_equal(case.volumes[other], volumes[other])


def test_without_registration_modalities_that_lie_apart_are_refused(tmp_path):
    source = write(tmp_path / "P", contrasts(brain()), [GRID, rigid() @ GRID, GRID])
    with pytest.raises(InputError, match="different affines; resample them to one grid first"):
        prepare_case(source, MODALITIES, register=False)


def test_a_case_on_one_grid_is_what_is_read_and_nothing_is_said(tmp_path):
    source = write(tmp_path / "P", contrasts(brain()), reference=brain() > 2)
    case, pictures = prepare_case(source, MODALITIES)
    read = read_case(source, MODALITIES)
    np.testing.assert_array_equal(case.volumes, read.volumes)
    np.testing.assert_array_equal(case.reference, read.reference)
    assert case.notes == [] == read.notes and pictures == {}


def test_the_grid_is_that_of_most_files_and_of_those_that_tie_the_finest(tmp_path):
    volumes = contrasts(brain())
    coarse = [GRID @ np.diag([1, 1, 2, 1]) + np.array([[0] * 4, [0] * 4, [0, 0, 0, 2], [0] * 4])]
    thick = (volumes[0][:, :, ::2] + volumes[0][:, :, 1::2]) / 2
    case, _ = prepare_case(write(tmp_path / "P", [thick, volumes[1]], [*coarse, GRID]), MODALITIES[:2])
    assert case.volumes.shape == (2, *SHAPE) and "flair: it lay on another grid" in case.notes[0]


def test_two_patients_are_not_one(tmp_path):
    volumes = [contrasts(brain(0))[0], contrasts(brain(5))[1]]
    with pytest.raises(InputError, match="P_t1.nii.gz could not be registered to .*P_flair.nii.gz.*of one patient"):
        prepare_case(write(tmp_path / "P", volumes, [GRID, rigid() @ GRID]), MODALITIES[:2])


def test_a_registration_does_not_change_the_grid_it_goes_to():
    fixed, moving = (
        VolumeFile(None, volume, affine, nibabel.Nifti1Image(volume, affine).header)
        for volume, affine in zip(contrasts(brain())[:2], (GRID, rigid(12, 25) @ GRID))
    )
    result = align(moving, fixed)
    assert result.turn_deg == pytest.approx(12, abs=2) and result.shift_mm == pytest.approx(25, abs=2)
    np.testing.assert_allclose(result.to_moving[:3, :3], rigid(12, 25)[:3, :3], atol=0.03)
    assert result.volume.voxels.shape == SHAPE and result.volume.voxels.min() == 0
    far = replace(moving, affine=nibabel.affines.from_matvec(np.eye(3), [300, -200, 90]) @ moving.affine)
    assert align(far, fixed).overlap > 0.95


@pytest.fixture
def found_at_once(monkeypatch):
    """The search for the brain stands on its own (see test_wmh.py) and takes its time; here it knows."""
    brain = head("T1", True, SMALL_MM) > 0
    monkeypatch.setattr("difffuse_hf.preprocessing.mri.extract_brain", lambda t1, affine: brain)
    return brain


def test_a_head_comes_out_of_its_skull(found_at_once, tmp_path):
    volumes = [head(name, False, SMALL_MM) for name in ("FLAIR with fat suppressed", "T1", "T2")]
    source = write(tmp_path / "P", volumes, [AFFINE] * 3)
    case, pictures = prepare_case(source, MODALITIES)
    np.testing.assert_array_equal(case.volumes, np.stack(volumes) * found_at_once)
    assert "its skull (flair, t1, t2); the brain was extracted on t1" in case.notes[0] and list(pictures) == ["brain"]
    np.testing.assert_array_equal(prepare_case(source, MODALITIES, brain_extraction=False)[0].volumes, volumes)


def test_the_outline_of_a_stripped_t1_serves_for_the_others(tmp_path):
    volumes = [head("T2", False, SMALL_MM), head("T1", True, SMALL_MM)]
    case, _ = prepare_case(write(tmp_path / "P", volumes, [AFFINE] * 2), MODALITIES[:2], register=False)
    assert ((case.volumes[0] > 0) == (volumes[1] > 0)).all()
    assert "its skull (flair); the outline of t1" in case.notes[0]


def test_a_head_of_one_slice_ends_in_a_sentence():
    with pytest.raises(InputError, match="No brain was found"):
        extract_brain(head("T1", stripped=False)[:, :, 20:21], AFFINE)


def test_a_head_without_a_t1_is_refused(tmp_path):
    source = write(tmp_path / "P", [head("T2", False, SMALL_MM)], [AFFINE])
    with pytest.raises(InputError, match="not skull-stripped: on flair.*the brain is found on a T1"):
        prepare_case(source, ["flair"])


def test_what_is_missing_for_it_is_named(monkeypatch, tmp_path):
    def gone(*names):
        raise ModuleNotFoundError("No module named 'SimpleITK'", name="SimpleITK")

    monkeypatch.setattr(mr_case, "import_module", gone)
    source = write(tmp_path / "P", contrasts(brain()), [GRID, rigid() @ GRID, GRID])
    with pytest.raises(InputError, match="SimpleITK.* is missing; install it: pip install"):
        prepare_case(source, MODALITIES)
