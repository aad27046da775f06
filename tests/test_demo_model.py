"""Facts about the embedded checkpoint: what is in the folder, and that it finds lesions it was not trained on."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from diffusers.utils import logging as diffusers_logging
from synthetic_head import SPACING, turn, turned_head
from transformers.utils import logging as transformers_logging

import difffuse_hf
from difffuse_hf import BrainPhantom, DifFusePipeline, dice, load_pipeline
from difffuse_hf.detection.load import load_model
from difffuse_hf.detection.run import detect_case
from difffuse_hf.io.hub import EMBEDDED
from difffuse_hf.reporting.report import write_report

ASSETS = Path(difffuse_hf.__file__).parent / "assets"
SCANS = Path(__file__).resolve().parents[2] / "shared" / "data" / "brats_sample"


@pytest.fixture(scope="module")
def pipeline():
    torch.set_num_threads(2)
    yield load_model("demo")[0]
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_folder_is_small_and_holds_no_pickles(name):
    files = [path for path in (ASSETS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


@pytest.mark.parametrize("name", EMBEDDED)
def test_its_card_says_that_it_was_trained_on_synthetic_subjects_only(name):
    card = (ASSETS / name / "README.md").read_text()
    assert "synthetic subjects only" in card and "not a medical device" in card


def test_the_model_of_head_ct_takes_the_brain_window_and_repaints_inside_the_skull():
    pipeline = load_model("ct")[0]
    assert pipeline.processor.recipe.kind == "head CT" and pipeline.processor.window_hu == (0, 80)
    assert pipeline.calibration("fast").threshold > 0 and pipeline.config.percentile_over == "foreground"
    head = turned_head(turn("x", 0))[0]  # of ellipsoids: brain in a skull
    volumes = head.hounsfield.transpose(2, 1, 0)[None].astype(np.float32)
    slices, geometry = pipeline.processor.preprocess_volume(volumes, np.diag([*SPACING[::-1], 1.0]))
    output = pipeline(slices[len(slices) // 2][None], generator=torch.Generator().manual_seed(0), display_steps=0)
    inside = pipeline.foreground(slices[len(slices) // 2][None])
    assert output.masks.any() and not output.masks[~inside].any()


def test_the_model_of_flair_alone_takes_one_file_and_looks_at_slices_together():
    pipeline = load_model("flair")[0]
    processor, plan = pipeline.processor, pipeline.calibration("fast")
    assert processor.modalities == ("flair",) and not processor.optional_modalities
    assert plan.threshold > 0 and plan.scan.together and plan.threshold_for(0.01) > 0
    image = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    output = pipeline(image, generator=torch.Generator().manual_seed(0), display_steps=0)
    assert output.counterfactuals.shape == image.shape and output.anomaly_maps.isfinite().all()


def test_preprocessing_and_thresholds_travel_with_it(pipeline):
    processor = pipeline.processor
    assert processor.modalities == ("flair", "t1", "t1ce", "t2")
    assert min(processor.image_size) >= 96
    chosen = pipeline.calibration("fast")
    assert chosen.recipe.signs == (1,) and chosen.threshold > 0 and chosen.threshold_for(0.01) > 0
    assert processor.anomaly_threshold > 0 and 0 < processor.lesion_probability_threshold < 1


def test_the_layout_for_convolutions_changes_saliency_by_rounding_only(pipeline):
    image = torch.rand(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    assert pipeline.classifier.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    expected = load_pipeline("demo").make_saliency(image.contiguous())
    torch.testing.assert_close(pipeline.make_saliency(image), expected, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_dif_fuse_finds_a_synthetic_lesion_better_than_its_saliency_alone(pipeline):
    """The ICBM152 anatomy was not trained on; thresholds are those saved with the model."""
    subject = BrainPhantom(seed=7).subject(0)
    volumes = np.stack([subject.volumes[name] for name in pipeline.processor.modalities]).astype(np.float32)
    slices, geometry = pipeline.processor.preprocess_volume(volumes, subject.affine)
    masks = pipeline.processor.preprocess_labels(subject.segmentation, geometry)[:, None]
    sick = torch.where(masks.sum((1, 2, 3)) > 60)[0][::6]
    generators = [torch.Generator().manual_seed(int(i)) for i in sick]
    output = pipeline(slices[sick], generator=generators, preset="fast", display_steps=0)
    found = dice(output.anomaly_maps >= pipeline.calibration("fast").threshold, masks[sick]).mean()
    assert found > 0.5
    outside = (output.masks == 0).expand_as(output.counterfactuals)
    assert torch.equal(output.counterfactuals[outside], slices[sick][outside])


@pytest.mark.slow
@pytest.mark.skipif(not SCANS.is_dir(), reason=f"needs the sample scans in {SCANS}")
def test_a_real_glioma_is_found_and_the_geometry_kept_exactly(pipeline, tmp_path):
    source = SCANS / "BraTS2021_96692"
    summary = detect_case(pipeline, source, tmp_path, write_report, preset="fast", display_steps=3, progress=False)
    assert summary["dice"] >= 0.6
    original = nibabel.load(source / "BraTS2021_96692_flair.nii.gz")
    for file in (tmp_path / "BraTS2021_96692").glob("*.nii.gz"):
        image = nibabel.load(file)
        assert image.shape == original.shape and np.array_equal(image.affine, original.affine)
        assert image.header["sform_code"] == original.header["sform_code"]
    mask = np.asarray(nibabel.load(tmp_path / "BraTS2021_96692" / "BraTS2021_96692_mask.nii.gz").dataobj)
    counterfactual = np.asarray(
        nibabel.load(tmp_path / "BraTS2021_96692" / "BraTS2021_96692_counterfactual_flair.nii.gz").dataobj
    )
    assert np.array_equal(counterfactual[mask == 0], np.asarray(original.dataobj)[mask == 0])
    assert json.loads((tmp_path / "BraTS2021_96692" / "summary.json").read_text())["synthetic"] is False


def test_it_survives_saving_and_loading(tmp_path):
    pipeline = load_pipeline("demo")
    pipeline.save_pretrained(tmp_path / "copy")
    copy = DifFusePipeline.from_pretrained(tmp_path / "copy")
    settings = {name: value for name, value in pipeline.config.items() if not name.startswith("_")}
    assert settings == {name: value for name, value in copy.config.items() if not name.startswith("_")}
    assert copy.processor.to_dict() == pipeline.processor.to_dict()
    for name in ("unet", "classifier", "autoencoder"):
        first, second = (getattr(one, name).state_dict() for one in (pipeline, copy))
        assert list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def test_loading_it_leaves_the_progress_bars_of_other_libraries_as_they_were():
    before = transformers_logging.is_progress_bar_enabled(), diffusers_logging.is_progress_bar_enabled()
    try:
        transformers_logging.enable_progress_bar()
        diffusers_logging.disable_progress_bar()
        load_model("demo")
        assert transformers_logging.is_progress_bar_enabled() and not diffusers_logging.is_progress_bar_enabled()
    finally:
        for library, shown in zip((transformers_logging, diffusers_logging), before):
            (library.enable_progress_bar if shown else library.disable_progress_bar)()
