"""A result that nobody should trust is an error, and nothing of a header's texts comes out."""

import gzip
import math

import nibabel
import numpy as np
import pytest
import torch
from tiny_scans import tiny_pipeline, tiny_volumes, write_case

from difffuse_hf import BraTS2021, read_case
from difffuse_hf.cli import main as cli
from difffuse_hf.detection.volume import detect_volume
from difffuse_hf.errors import InputError
from difffuse_hf.io.nifti import SYNTHETIC, TEXT_FIELDS, without_text

SECRET = b"DOE^JANE"


def poison(network, layer=-1):
    with torch.no_grad():
        list(network.parameters())[layer].fill_(math.nan)


def of_nan_in(part):
    return lambda pipeline: poison(getattr(pipeline, part))


def without_a_threshold_to_compare(pipeline):
    pipeline.processor.lesion_probability_threshold = math.nan


@pytest.mark.parametrize(
    "spoil, options, sentence",
    [
        (of_nan_in("classifier"), {}, "classifier answers NaN"),
        (of_nan_in("unet"), {}, "answer NaN"),
        (of_nan_in("autoencoder"), {}, "NaN"),
        (without_a_threshold_to_compare, {}, "threshold"),
        (lambda pipeline: None, {"anomaly_threshold": math.nan}, "threshold is nan"),
    ],
)
def test_what_is_not_a_number_is_an_error_and_never_no_lesion(spoil, options, sentence, tmp_path):
    pipeline = tiny_pipeline(("flair",))
    spoil(pipeline)
    case = read_case(write_case(tmp_path / "case", {"flair": tiny_volumes()["flair"]}), ("flair",))
    with pytest.raises(InputError, match=sentence):
        detect_volume(pipeline, case, num_inference_steps=2, noise_level=10, progress=False, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dark_bright_constant_and_extreme_images_give_no_nan(dtype, whole_pipeline):
    checkered = torch.ones(2, 16, 16)
    checkered[:, ::2, 1::2] = checkered[:, 1::2, ::2] = 0
    images = torch.stack([torch.full((2, 16, 16), value) for value in (0.0, 0.5, 1.0)] + [checkered])
    whole_pipeline.unet.to(dtype)
    output = whole_pipeline(images, generator=torch.Generator().manual_seed(0), num_inference_steps=3)  # or an error
    for made in (output.counterfactuals, output.anomaly_maps, output.masks, output.saliency):
        assert made.isfinite().all() and 0 <= made.min() and made.max() <= 1


@pytest.mark.parametrize("option", ["--threshold", "--percentile"])
def test_nan_is_bad_usage(option, capsys):
    assert cli.main(["detect", "case", "--model", "demo", "--output", "out", option, "nan"]) == 2
    assert option in capsys.readouterr().err


def with_texts(file):
    """The file again, with a name in every text of its header and in an extension."""
    image = nibabel.load(file)
    for field in set(TEXT_FIELDS) & set(image.header.keys()):
        image.header[field] = SECRET
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET))
    nibabel.save(image, file)


def content(file):
    return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()


def test_no_text_of_a_header_reaches_an_output(tmp_path):
    folder = write_case(tmp_path / "case", {"flair": tiny_volumes()["flair"]})
    for file in folder.iterdir():
        with_texts(file)
        assert content(file).count(SECRET) >= 5
    result = detect_volume(
        tiny_pipeline(("flair",)), read_case(folder, ("flair",)), num_inference_steps=2, noise_level=10, progress=False
    )
    written = result.save(tmp_path / "out")
    assert len(written) == 5 and not [file for file in written if SECRET in content(file)]


@pytest.mark.parametrize("kind, ending", [(nibabel.Nifti1Image, ".nii"), (nibabel.Nifti2Image, ".nii.gz")])
def test_a_file_is_embedded_without_its_texts_and_with_all_else(kind, ending, tmp_path):
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = kind(voxels, np.diag([2.0, 2, 3, 1]))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / f"a{ending}")
    assert without_text(tmp_path / f"a{ending}") == str(tmp_path / f"a{ending}")
    with_texts(tmp_path / f"a{ending}")
    before = nibabel.load(tmp_path / f"a{ending}").get_fdata()
    embedded = without_text(tmp_path / f"a{ending}")
    (tmp_path / embedded["path"]).write_bytes(embedded["bytes"])
    after = nibabel.load(tmp_path / f"a{ending}")
    assert SECRET not in content(tmp_path / f"a{ending}")
    assert np.array_equal(before, after.get_fdata()) and np.array_equal(image.affine, after.affine)


def test_the_mark_of_a_synthetic_subject_stays(tmp_path):
    folder = write_case(tmp_path / "BraTS2021_00001", descrip=SYNTHETIC)
    for file in folder.glob("*_t1.*"):
        with_texts(file)
    builder = BraTS2021("volumes", data_dir=tmp_path, modalities=("flair", "t1"))
    ((_, row),) = builder.examples(str(folder))
    assert row["flair"] == str(next(folder.glob("*_flair.*"))) and SECRET not in gzip.decompress(row["t1"]["bytes"])
