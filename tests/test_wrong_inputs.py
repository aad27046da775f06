"""Scans and models that cannot be used: one sentence that names the file, code 1, and nothing half-written."""

import gzip
import shutil

import nibabel
import numpy as np
import pytest
from tiny_scans import AFFINE, MODALITIES, everything_in, tiny_pipeline, tiny_volumes, write_case

from difffuse_hf import read_case
from difffuse_hf.cli import main as cli
from difffuse_hf.errors import InputError


def rewrite(file, data=None, affine=AFFINE):
    data = np.asarray(nibabel.load(file).dataobj) if data is None else data
    nibabel.save(nibabel.Nifti1Image(data, affine), file)


def lacks_a_modality(file):
    file.unlink()


def has_another_shape(file):
    rewrite(file, tiny_volumes()["t2"][:, :, :-1])


def has_another_affine(file):
    rewrite(file, affine=np.diag([-1.0, -1.0, 2.0, 1.0]))


def holds_nan(file):
    data = tiny_volumes()["t2"].astype(np.float32)
    data[16, 16, 5] = np.nan
    rewrite(file, data)


def holds_infinity(file):
    data = tiny_volumes()["t2"].astype(np.float32)
    data[16, 16, 5] = np.inf
    rewrite(file, data)


def is_empty(file):
    rewrite(file, np.zeros((32, 32, 10), np.int16))


def is_four_dimensional(file):
    rewrite(file, np.stack([tiny_volumes()["t2"]] * 2, axis=-1))


def is_a_truncated_gzip(file):
    file.write_bytes(file.read_bytes()[:-200])


def is_a_corrupt_gzip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    file.write_bytes(data)


def is_text(file):
    file.write_text("Dear colleague, the scan is attached.\n")


def is_gzipped_text(file):
    file.write_bytes(gzip.compress(b"Dear colleague, the scan is attached.\n"))


def has_zero_bytes(file):
    file.write_bytes(b"")


def is_z_scored(file):
    data = tiny_volumes()["t2"].astype(np.float32)
    tissue = data > 0
    data[tissue] = (data[tissue] - data[tissue].mean()) / data[tissue].std()
    rewrite(file, data)


def is_negative(file):
    rewrite(file, -tiny_volumes()["t2"])


def is_there_twice(file):
    shutil.copy(file, file.with_name("Other_t2.nii.gz"))


@pytest.mark.parametrize(
    "spoil",
    [
        lacks_a_modality,
        has_another_shape,
        has_another_affine,
        holds_nan,
        holds_infinity,
        is_empty,
        is_four_dimensional,
        is_a_truncated_gzip,
        is_a_corrupt_gzip,
        is_text,
        is_gzipped_text,
        has_zero_bytes,
        is_z_scored,
        is_negative,
        is_there_twice,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_a_case_is_refused_when_its_t2(spoil, tmp_path):
    case = write_case(tmp_path / "Case")
    spoil(case / "Case_t2.nii.gz")
    with pytest.raises(InputError, match="Case_t2.nii.gz") as refusal:
        read_case(case, MODALITIES)
    assert "\n" not in str(refusal.value)


def test_an_unreadable_file_ends_the_command_with_one_sentence(model, tmp_path, capsys):
    case = write_case(tmp_path / "Case")
    is_a_truncated_gzip(case / "Case_t2.nii.gz")
    refused(capsys, tmp_path, [case, "--model", model], names="Case_t2.nii.gz is not a readable NIfTI file")


def test_a_reference_on_another_grid_is_refused(model, tmp_path, capsys):
    case = write_case(tmp_path / "Case")
    has_another_shape(case / "Case_seg.nii.gz")
    refused(capsys, tmp_path, [case, "--model", model], names="Case_seg.nii.gz")


def test_a_scan_that_is_not_skull_stripped_is_refused(model, tmp_path, capsys):
    noise = np.random.default_rng(0)
    volumes = {name: volume + noise.integers(50, 90, volume.shape) for name, volume in tiny_volumes().items()}
    volumes = {name: volume.astype(np.int16) for name, volume in volumes.items()}
    case = write_case(tmp_path / "Case", volumes)
    refused(capsys, tmp_path, [case, "--model", model], names="The scan is not skull-stripped")


def test_a_constant_background_is_named(model, tmp_path, capsys):
    volumes = {name: (volume + 100).astype(np.int16) for name, volume in tiny_volumes().items()}
    case = write_case(tmp_path / "Case", volumes)
    refused(capsys, tmp_path, [case, "--model", model], names="constant background of 100 instead of 0")


@pytest.mark.parametrize("scale", [0.001, 0.01])
def test_a_scan_of_which_no_slice_can_be_looked_at_is_refused(scale, model, tmp_path, capsys):
    case = write_case(tmp_path / "Case", reference=False)
    for file in case.iterdir():
        rewrite(file, affine=np.diag([-scale, -scale, scale, 1]))
    refused(capsys, tmp_path, [case, "--model", model], names="axial slices can be looked at")


def test_a_missing_input_is_refused(model, tmp_path, capsys):
    refused(capsys, tmp_path, [tmp_path / "Nobody", "--model", model], names="Nobody")


def test_an_empty_folder_is_refused(model, tmp_path, capsys):
    (tmp_path / "Empty").mkdir()
    refused(capsys, tmp_path, [tmp_path / "Empty", "--model", model], names="Empty")


def test_one_file_is_refused_by_a_model_of_four_channels(model, tmp_path, capsys):
    file = write_case(tmp_path / "Case") / "Case_flair.nii.gz"
    refused(capsys, tmp_path, [file, "--model", model], names="Case_flair.nii.gz")


def test_a_model_whose_processor_has_another_number_of_channels_is_refused(tmp_path, capsys):
    pipeline = tiny_pipeline()
    pipeline.processor.modalities = ("flair", "t1")
    pipeline.save_pretrained(tmp_path / "mixed")
    refused(capsys, tmp_path, [write_case(tmp_path / "Case"), "--model", tmp_path / "mixed"], names="mixed")


@pytest.mark.parametrize("part", ["unet", "classifier", "autoencoder"])
def test_a_model_folder_without_weights_is_refused(part, tmp_path, capsys):
    tiny_pipeline().save_pretrained(tmp_path / "light")
    for weights in (tmp_path / "light" / part).glob("*.safetensors"):
        weights.unlink()
    refused(capsys, tmp_path, [write_case(tmp_path / "Case"), "--model", tmp_path / "light"], names="light")


def test_a_model_with_damaged_weights_is_refused(tmp_path, capsys):
    tiny_pipeline().save_pretrained(tmp_path / "damaged")
    weights = next((tmp_path / "damaged" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(capsys, tmp_path, [write_case(tmp_path / "Case"), "--model", tmp_path / "damaged"], names="damaged")


def test_a_model_without_a_calibrated_threshold_is_refused(tmp_path, capsys):
    tiny_pipeline(threshold=None).save_pretrained(tmp_path / "uncalibrated")
    refused(capsys, tmp_path, [write_case(tmp_path / "Case"), "--model", tmp_path / "uncalibrated"], names="threshold")


@pytest.mark.parametrize("name", ["no_such_folder", "no/such/folder"])
def test_a_model_that_is_not_there_is_refused(name, tmp_path, capsys):
    refused(capsys, tmp_path, [write_case(tmp_path / "Case"), "--model", name], names=name)


def test_a_folder_that_is_no_model_is_refused(tmp_path, capsys):
    case = write_case(tmp_path / "Case")
    refused(capsys, tmp_path, [case, "--model", case], names="Case")


def test_an_output_that_cannot_be_written_is_refused(model, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")  # also refused for root, unlike a folder without permission
    case = write_case(tmp_path / "Case")
    refused(capsys, tmp_path, [case, "--model", model], names="file", output=tmp_path / "file" / "out")


@pytest.mark.parametrize("output", ["file", "file/cohort"])
def test_phantoms_are_not_written_below_a_file(output, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert cli.main(["phantom", str(tmp_path / output), "--subjects", "1"]) == 1
    one_sentence(capsys.readouterr().err, "file")
    assert everything_in(tmp_path) == ["file"]


def test_phantoms_from_a_folder_without_anatomies_are_refused(tmp_path, capsys):
    (tmp_path / "anatomies").mkdir()
    arguments = ["phantom", str(tmp_path / "cohort"), "--anatomies", str(tmp_path / "anatomies")]
    assert cli.main(arguments) == 1
    one_sentence(capsys.readouterr().err, "anatomies")
    assert everything_in(tmp_path) == ["anatomies"]


def refused(capsys, folder, arguments, names, output=None):
    """`difffuse detect` ends with code 1, says one sentence that names the culprit, and leaves the disk as it was."""
    before = everything_in(folder)
    output = output or folder / "new" / "out"
    command = ["detect", *map(str, arguments), "--output", str(output), "--device", "cpu"]
    assert cli.main(command) == 1
    one_sentence(capsys.readouterr().err, names)
    assert everything_in(folder) == before


def one_sentence(error, names):
    lines = [line for line in error.splitlines() if line.startswith("difffuse: ")]
    assert len(lines) == 1 and names in lines[0] and lines[0].endswith("."), error
    assert "Traceback" not in error
