"""The README's path from a folder of scans to a detection, with the scripts a user runs and tiny networks."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from test_training import TINY
from tiny_scans import tiny_volumes, write_case

from difffuse_hf import DifFusePipeline, cli

ROOT = Path(__file__).parents[1]


def run(script, *flags):
    path = ROOT / script
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main([str(flag) for flag in flags])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Prepare, train three networks for two steps each, assemble, evaluate."""
    root = tmp_path_factory.mktemp("examples")
    for number in range(8):
        write_case(root / "cases" / f"BraTS2021_{number:05d}", tiny_volumes(number))
    geometry = ("--image_size", 32, "--slice_margin", 0, "--min_foreground", 0.05)
    run("datasets_scripts/prepare_brats2021.py", root / "cases", root / "slices", *geometry)
    for name, output in (("classifier", "classifier"), ("autoencoder", "autoencoder"), ("diffusion", "diffusion")):
        script = f"train_{name}"
        flags = ("--dataset", root / "slices", "--output_dir", root / output, "--batch_size", 4, "--max_steps", 2)
        run(f"examples/{script}.py", *flags, "--cpu", "--report_to", "none", *TINY[script])
    parts = [flag for part in ("classifier", "autoencoder", "diffusion") for flag in (f"--{part}", root / part)]
    settings = ("--preset", "fast", "--noise_level", 30, "--morphology_size", 1, "--percentile", 80)
    options = ("--saliency_options", '{"num_steps": 2}', "--dtype", "float16")
    run("examples/assemble_pipeline.py", "--dataset", root / "slices", *parts, *settings, *options,
        "--output_dir", root / "model")  # fmt: skip
    run("examples/evaluate_anomaly.py", "--model", root / "model", "--dataset", root / "slices", "--limit", 2,
        "--seeds", 2, "--output_dir", root / "evaluation")  # fmt: skip
    return root


def test_the_assembled_model_carries_its_preprocessing_and_thresholds(results):
    pipeline = DifFusePipeline.from_pretrained(results / "model")
    assert pipeline.processor.image_size == (32, 32) and pipeline.processor.slice_margin == 0
    assert pipeline.processor.anomaly_threshold > 0
    assert 0 < pipeline.processor.lesion_probability_threshold < 1
    assert pipeline.config.noise_level == 30 and pipeline.config.preset == "fast"
    assert pipeline.unet.dtype == torch.float32  # saved in half precision, computed in single
    assert "not a medical device" in (results / "model" / "README.md").read_text()


def test_the_table_has_a_row_per_method_and_takes_its_thresholds_from_validation(results):
    table = (results / "evaluation" / "anomaly.md").read_text()
    runs = json.loads((results / "evaluation" / "anomaly.json").read_text())["runs"]
    assert len(runs) == 2 and all(name in table for name in runs[0])
    for row in runs[0].values():
        assert row["dice"] <= row["best_dice"] + 1e-6  # the ceiling picks a threshold for every test slice
        assert row["iou"] <= row["dice"]
    assert runs[0]["ACAT map alone"] == runs[1]["ACAT map alone"]  # nothing is sampled there


def test_the_assembled_model_detects(results, capsys):
    case = results / "cases" / "BraTS2021_00000"
    assert cli.main(["detect", str(case), "--model", str(results / "model"), "--output", str(results / "out")]) == 0
    assert (results / "out" / case.name / "report.html").exists()
