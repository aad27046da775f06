"""Facts about the synthetic subjects: reproducible, exactly known lesions, the layout of BraTS 2021."""

import os
import shutil
import signal
import subprocess
import sys
import time

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


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_several_workers_continue_a_cohort_and_leave_the_files_that_one_process_leaves(cohort, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra `preprocess`")
    for name in ("one", "two"):
        shutil.copytree(cohort[0], tmp_path / name)  # a run that was stopped after the first subject
    for name, workers in (("one", 1), ("two", 2)):
        places = list(BrainPhantom(seed=5).write(tmp_path / name, 3, workers=workers))
        assert sorted(places) == [tmp_path / name / f"BraTS2021_{index:05d}" for index in range(3)]
        assert places[0].name == "BraTS2021_00000"
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert (tmp_path / "two" / "subjects.csv").read_text().count("\n") == 4
    assert len(list((tmp_path / "two").iterdir())) == 4  # nothing is left behind


@pytest.mark.slow
def test_an_interrupt_of_several_workers_is_one_sentence_and_keeps_complete_subjects_only(tmp_path):
    pytest.importorskip("distributed", reason="needs the extra `preprocess`")
    process = subprocess.Popen(
        [sys.executable, "-m", "difffuse_hf.cli", "phantom", str(tmp_path), "--subjects", "50", "--workers", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    while not list(tmp_path.glob("BraTS2021_*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to all of its processes
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors.decode().strip().count("\n") == 0
    folders = {path.name for path in tmp_path.iterdir()} - {"subjects.csv"}
    listed = {line.split(",")[0] for line in (tmp_path / "subjects.csv").read_text().splitlines()[1:]}
    assert folders <= listed and all(len(list((tmp_path / name).iterdir())) == 5 for name in folders)


def test_a_subject_that_cannot_be_drawn_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "head.nii.gz").write_bytes(b"no label map")
    with pytest.raises(InputError, match=r"BraTS2021_00003 cannot be drawn: .*head\.nii\.gz cannot be read"):
        list(BrainPhantom(anatomies=tmp_path / "maps").write(tmp_path / "out", 1, start=3))
    assert not list((tmp_path / "out").iterdir())


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
