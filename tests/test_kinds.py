"""A scan of another kind than the model takes is told so, by its voxels and whatever its files are called."""

import nibabel
import numpy as np
import pytest
from synthetic_chest import AFFINE, chest
from tiny_scans import tiny_volumes, write_case

from difffuse_hf import DifFuseProcessor
from difffuse_hf.detection.sources import files_of, read_source
from difffuse_hf.errors import InputError
from difffuse_hf.io.case import looks_like

MR, ONE_MR = DifFuseProcessor(), DifFuseProcessor(modalities=("flair",))
HEAD = DifFuseProcessor(modalities=("ct",), window_hu=(0, 100))
LUNG = DifFuseProcessor(modalities=("ct",), window_hu=(-1000, 400), body_part="chest")


def write(file, voxels, affine=AFFINE):
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), file)
    return file


def sentence(source, processor):
    with pytest.raises(InputError) as error:
        files_of(source, processor)
        read_source(source, processor)
    return str(error.value)


@pytest.mark.parametrize(("processor", "kind"), [(HEAD, "head CT"), (LUNG, "lung CT")], ids=["head", "lung"])
def test_mr_for_a_model_of_ct_is_said_to_look_like_mr(tmp_path, processor, kind):
    folder = write_case(tmp_path / "P", reference=False)
    first = folder / "P_flair.nii.gz"
    for source, file in ((folder, first), (first, first), ({"ct": first}, first), ({"flair": first}, first)):
        said = sentence(source, processor)
        assert said.startswith(f"{file} looks like MR: its values go from 0 to 650; the model takes {kind} (ct), so ")
        assert "CT is taken in Hounsfield units" in said


@pytest.mark.parametrize("name", ["ct.nii.gz", "flair.nii.gz", "scan.nii.gz"])
def test_ct_for_a_model_of_mr_is_said_to_look_like_ct(tmp_path, name):
    file = write(tmp_path / "P" / name, chest()[0])
    for processor in (MR, ONE_MR):
        for source in (file, file.parent):
            said = sentence(source, processor)
            assert said.startswith(f"{file} looks like CT: its values go from -10") and "choose a model of CT." in said


def test_what_is_of_the_kind_that_the_model_takes_keeps_its_own_sentence(tmp_path):
    folder = write_case(tmp_path / "P", {"flair": tiny_volumes()["flair"]})
    assert "lacks t1, t1ce, t2" in sentence(folder, MR)
    assert "lacks ct" in sentence(write(tmp_path / "Q" / "scan.nii.gz", chest()[0]).parent, HEAD)
    assert "does not exist" in sentence(tmp_path / "R", HEAD)
    odd = write(tmp_path / "S" / "ct.nii.gz", np.random.default_rng(0).normal(0, 1, (8, 8, 8)))
    assert "is not in Hounsfield units: its values go from" in sentence(odd, HEAD)


def test_a_flair_alone_is_told_of_the_model_that_needs_no_more(tmp_path):
    named, hint = tiny_volumes(), "A model of the package needs flair alone: --model flair."
    flair = write_case(tmp_path / "P", {"flair": named["flair"]}, reference=False)
    for source in (flair, flair / "P_flair.nii.gz", {"flair": flair / "P_flair.nii.gz"}):
        assert sentence(source, MR).endswith(hint)
    assert "--model flair" not in sentence(write_case(tmp_path / "Q", {"t1": named["t1"]}, reference=False), MR)
    for damaged in write_case(tmp_path / "R").glob("*_t2.nii.gz"):
        damaged.write_bytes(b"no gzip")
    assert "--model flair" not in sentence(tmp_path / "R", MR)  # nothing is lacking


def test_intensities_say_a_kind_or_none():
    brain = tiny_volumes()["t1"].astype(np.float32)
    assert looks_like(brain) == "MR" and looks_like(chest()[0]) == "CT"
    ringing = brain.copy()
    ringing[0, 0, 0] = -600  # one voxel, as interpolation leaves it
    assert looks_like(ringing) == "MR"
    assert looks_like((brain - brain.mean()) / brain.std()) is None
    assert looks_like(np.where(brain > 0, brain, np.nan)) is None and looks_like(0 * brain) is None


def test_dicom_of_another_kind_is_said_to_be_that(tmp_path):
    pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")
    from dicom_files import write_series

    mr = {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "SeriesDescription": "AX T2 FLAIR"}
    write_series(tmp_path / "mr", np.full((3, 8, 8), 100), **mr)
    write_series(tmp_path / "ct", np.zeros((3, 8, 8), int))
    assert "holds MR in DICOM and no CT, and the model takes head CT" in sentence(tmp_path / "mr", HEAD)
    assert "holds DICOM but no MR, and the model takes MR volumes" in sentence(tmp_path / "ct", MR)
    assert "of which only heads are read, and the model takes lung CT" in sentence(tmp_path / "ct", LUNG)
