"""MR series of a folder of DICOM: told by their descriptions or by their names, read as they were stored."""

import json
import shutil

import nibabel
import numpy as np
import pytest

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from dicom_files import write_series  # noqa: E402
from tiny_scans import tiny_pipeline  # noqa: E402

from difffuse_hf import DifFuseProcessor  # noqa: E402
from difffuse_hf.cli.main import main  # noqa: E402
from difffuse_hf.detection.sources import read_source  # noqa: E402
from difffuse_hf.errors import InputError  # noqa: E402
from difffuse_hf.preprocessing.mr_dicom import modality_in  # noqa: E402

PROCESSOR = DifFuseProcessor(modalities=("flair", "t1"))
SHAPE, SPACING, ORIGIN = (6, 20, 16), (6.0, 4.0, 3.0), (-24.0, -40.0, -10.0)


@pytest.mark.parametrize(
    ("description", "modality"),
    [
        ("AX T2 FLAIR", "flair"),
        ("flair_sag_fs", "flair"),
        ("T1 FLAIR", "t1"),
        ("t1_mprage_sag", "t1"),
        ("T1 MPRAGE post GAD", "t1ce"),
        ("AX T1+C", "t1ce"),
        ("T1_Gd", "t1ce"),
        ("AX T2 TSE", "t2"),
        ("T2*", None),
        ("DWI b1000", None),
        ("", None),
    ],
)
def test_a_description_says_what_a_series_is(description, modality):
    assert modality_in(description) == modality


def brain(seed):
    values = np.zeros(SHAPE, int)
    values[1:-1, 3:-3, 3:-3] = np.random.default_rng(seed).integers(200, 900, (4, 14, 10))
    return values


@pytest.fixture
def write(tmp_path):
    def write(name, seed, description, uid, **tags):
        tags = {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "StudyInstanceUID": "1.2", **tags}
        tags |= {"SeriesDescription": description, "SeriesInstanceUID": uid, "FrameOfReferenceUID": "1.2.1"}
        write_series(tmp_path / "P" / name, brain(seed), SPACING, ORIGIN, **tags)
        return tmp_path / "P"

    return write


def read(source, **options):
    return read_source(source, PROCESSOR, register=False, brain_extraction=False, **options)[0]


def test_each_modality_is_read_as_it_was_stored(write):
    write("a", 0, "AX T2 FLAIR", "1.2.5")
    write("b", 1, "T1 MPRAGE", "1.2.6")
    case = read(write("c", 2, "T1 MPRAGE post GAD", "1.2.7"))
    np.testing.assert_array_equal(case.volumes, np.stack([brain(0).T, brain(1).T]))
    np.testing.assert_allclose(case.affine @ [0, 0, 0, 1], [24, 40, -10, 1], atol=1e-4)
    np.testing.assert_allclose(case.affine[:3, :3], np.diag([-3, -4, 6]), atol=1e-4)
    assert case.name == "P" and case.read_as == "MR in DICOM" and "t1: it is the series T1 MPRAGE." in case.notes


def test_what_is_not_told_has_to_be_named(write):
    write("a", 0, "AX T2 FLAIR", "1.2.5")
    folder = write("b", 1, "anatomy", "1.2.6")
    with pytest.raises(
        InputError, match=r"no MR series that is told to be t1; it holds .*anatomy \(1.2.6, 6 slices\)"
    ):
        read(folder)
    case = read(folder, series=["t1=1.2.6"])
    np.testing.assert_array_equal(case.volumes[1], brain(1).T)
    for series, why in ((["1.2.6"], "takes MODALITY=UID"), (["t9=1.2.6"], "names t9"), (["t1=1.9"], r"t1 \(1.9\)")):
        with pytest.raises(InputError, match=why):
            read(folder, series=series)
    write("c", 2, "T1", "1.2.7")
    with pytest.raises(InputError, match="several MR series that may be t1"):
        read(write("d", 3, "SAG T1", "1.2.8"))


def test_a_series_that_the_model_does_without_may_be_missing(write, monkeypatch):
    folder = write("a", 0, "AX T2 FLAIR", "1.2.5")
    monkeypatch.setattr(PROCESSOR, "optional_modalities", ("t1",))
    case = read(folder)
    assert list(case.files) == ["flair"]
    np.testing.assert_array_equal(case.volumes, brain(0).T[None])
    with pytest.raises(InputError, match=r"t1 \(1.9\)"):
        read(folder, series=["t1=1.9"])


def test_slices_that_do_not_follow_each_other_evenly_are_no_volume(write):
    write("a", 0, "AX T2 FLAIR", "1.2.5")
    heights = (0, 6, 12, 24, 30, 36)
    folder = write("b", 1, "T1", "1.2.6", ImagePositionPatient=lambda i: (*ORIGIN[:2], float(heights[i])))
    with pytest.raises(InputError, match="1.2.6 .T1. is no volume: its 6 slices do not follow each other evenly"):
        read(folder)


def test_a_zip_of_mr_series_goes_through_the_command_with_what_lies_beside_them(write, tmp_path, capsys):
    write("a", 0, "AX T2 FLAIR", "1.2.5")
    folder = write("b", 1, "T1 MPRAGE", "1.2.6")
    (folder / "DICOMDIR").write_bytes(b"an index of other files")
    beside = folder / "__MACOSX" / "a" / "._0000.dcm"
    beside.parent.mkdir(parents=True)
    beside.write_bytes(b"\0\x05\x16\x07Mac OS X")
    archive = shutil.make_archive(str(tmp_path / "patient 7"), "zip", tmp_path, "P")
    pipeline = tiny_pipeline(PROCESSOR.modalities)
    pipeline.processor.pixel_spacing_mm = 4.0
    pipeline.save_pretrained(tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["detect", archive, *options, "--preset", "thesis", "--noise-level", "2"]) == 0
    result = tmp_path / "out" / "patient 7"
    image = nibabel.load(result / "patient 7_counterfactual_t1.nii.gz")
    mask = np.asarray(nibabel.load(result / "patient 7_mask.nii.gz").dataobj) > 0
    np.testing.assert_array_equal(np.asarray(image.dataobj)[~mask], brain(1).T[~mask])
    np.testing.assert_allclose(image.affine[:3, :3], np.diag([-3, -4, 6]), atol=1e-4)
    summary = json.loads((result / "summary.json").read_text())
    assert summary["read_as"] == "MR in DICOM" and "t1: it is the series T1 MPRAGE." in summary["notes"]
    shutil.rmtree(folder / "b")
    archive = shutil.make_archive(str(tmp_path / "patient 8"), "zip", tmp_path, "P")
    capsys.readouterr()
    assert main(["detect", archive, *options]) == 1
    assert f"{archive} holds no MR series that is told to be t1" in capsys.readouterr().err
