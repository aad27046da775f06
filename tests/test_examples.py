"""The README's path from a folder of scans to a detection, with the scripts a user runs and tiny networks."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_choosing import rows_of
from tiny_models import tiny_unet
from tiny_scans import tiny_volumes, write_case
from tiny_trainings import TINY

from difffuse_hf import (
    DenoisingAutoencoder,
    DifFusePipeline,
    DifFuseProcessor,
    DifFuseScheduler,
    ReconstructionPipeline,
)
from difffuse_hf.cli import main as cli
from difffuse_hf.errors import InputError
from difffuse_hf.evaluation.anomaly_runs import assembled_methods
from difffuse_hf.evaluation.needs import labels_needed, networks_needed
from difffuse_hf.pipelines.auto import load_pipeline

ROOT = Path(__file__).parents[1]


def load(script):
    path = ROOT / script
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(script, *flags, grids=None):
    module = load(script)
    if grids is not None:
        module.GRIDS, module.BEYOND = grids(module.GRIDS), {}
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
    options = ("--saliency_options", '{"num_steps": 2}', "--dtype", "float16", "--false_positives", 0.1, 0.01)
    run("examples/assemble_pipeline.py", "--dataset", root / "slices", *parts, *settings, *options,
        "--output_dir", root / "model")  # fmt: skip
    model = (root / "model", root / "slices")
    short = '{"preset": "exact", "num_inference_steps": 2}'
    flat = '{"preset": "exact", "num_inference_steps": 2, "percentile": 0}'
    (root / "again").symlink_to(root / "slices")
    run("examples/evaluate_anomaly.py", "--method", "Dif-fuse", *model, short, "--method", "Dif-fuse", *model, short,
        "--method", "no mask", *model, flat, "--classifier", root / "classifier",
        "--out_of_domain", root / "slices", root / "again", "--out_of_domain_cohort", "wmh",
        "--limit", 2, "--output_dir", root / "evaluation", "--cohort", "brats", "--device", "cpu")  # fmt: skip
    return root


def test_the_assembled_model_carries_its_preprocessing_and_thresholds(results):
    pipeline = DifFusePipeline.from_pretrained(results / "model")
    assert pipeline.processor.image_size == (32, 32) and pipeline.processor.slice_margin == 0
    assert pipeline.processor.anomaly_threshold > 0
    assert 0 < pipeline.processor.threshold_for(0.1) <= pipeline.processor.threshold_for(0.01)
    assert 0 < pipeline.processor.lesion_probability_threshold < 1
    assert pipeline.config.noise_level == 30 and pipeline.config.preset == "fast"
    assert pipeline.unet.dtype == torch.float32  # saved in half precision, computed in single
    assert "not a medical device" in (results / "model" / "README.md").read_text()


def test_a_model_whose_maps_are_zeros_is_saved_without_a_threshold(results, tmp_path, capsys):
    parts = [flag for part in ("classifier", "autoencoder", "diffusion") for flag in (f"--{part}", results / part)]
    run(
        "examples/assemble_pipeline.py",
        "--dataset",
        results / "slices",
        *parts,
        "--preset",
        "fast",
        "--noise_level",
        30,
        "--percentile",
        100,
        "--limit",
        2,
        "--saliency_options",
        '{"num_steps": 1}',
        "--output_dir",
        tmp_path / "model",
    )  # fmt: skip  nothing is repainted
    assert "and no anomaly threshold, for all maps are 0" in capsys.readouterr().out
    assert DifFusePipeline.from_pretrained(tmp_path / "model").processor.anomaly_threshold is None


def test_the_table_has_a_row_per_method_and_takes_its_thresholds_from_validation(results):
    table = (results / "evaluation" / "anomaly.md").read_text()
    data = json.loads((results / "evaluation" / "anomaly.json").read_text())
    assert {name: len(runs) for name, runs in data["results"].items()} == {"Dif-fuse": 2, "no mask": 1}
    assert "| Dif-fuse |" in table and "0.699" in table and "thesis (real data)" in table
    for runs in data["results"].values():
        for row in runs:
            assert row["dice"] <= row["best_dice"] + 1e-6  # the ceiling picks a threshold for every test slice
            assert row["iou"] <= row["dice"] and np.isfinite(row["kid"]) and row["seconds_per_slice"] > 0
    same = ("dice", "best_dice", "change_outside", "volume_dice")
    for elsewhere in data["out_of_domain"].values():  # the foreign sets are the same here, and so are their scores
        for name, runs in data["results"].items():
            assert [[run[key] for key in same] for run in elsewhere[name]] == [
                [run[key] for key in same] for run in runs
            ]
    assert len(data["out_of_domain"]) == 2 and "Lesions found in again (real data)" in table
    with Image.open(results / "evaluation" / "anomaly.png") as picture:
        assert picture.width > picture.height / 2


def test_the_sweep_draws_curves_of_the_validation_split_and_goes_on_where_it_stopped(results):
    script, folder = "examples/sweep_noise_and_threshold.py", results / "sweep"
    flags = ("--model", results / "model", "--dataset", results / "slices", "--output_dir", folder, "--limit", 1)
    flags += ("--seeds", 1, "--num_samples", 1, 2, "--options", '{"num_inference_steps": 2}', "--pictures", 10, 30)
    run(script, *flags, "--noise_levels", 10, "--percentiles", 80)
    points = json.loads((folder / "points.json").read_text())
    run(script, *flags, "--noise_levels", 10, 20, "--percentiles", 80)
    more = json.loads((folder / "points.json").read_text())
    assert points.items() <= more.items()
    assert set(more) - set(points) == {"noise_level 20 0", "noise_level 20 percentile 80 0"}
    table = (folder / "sweep.md").read_text()
    assert "| noise level K | τ = 80 |" in table and "| noise level K | Dice | best-possible Dice |" in table
    assert more["noise_level 20 percentile 80 0"] == more["noise_level 20 0"]  # 80 is the model's own percentile
    for name in ("sweep", "sweep_grid", "sweep_slices"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 100


def test_the_sweep_refuses_a_model_without_a_noise_level_and_a_mask(results, tmp_path):
    processor = DifFuseProcessor.from_pretrained(results / "slices")
    ReconstructionPipeline(DenoisingAutoencoder(2, [8, 8, 8]), processor=processor).save_pretrained(tmp_path)
    flags = ("--model", tmp_path, "--dataset", results / "slices", "--output_dir", tmp_path / "sweep")
    with pytest.raises(InputError, match="is a ReconstructionPipeline; the sweep is of a DifFusePipeline"):
        run("examples/sweep_noise_and_threshold.py", *flags)


def test_the_assembled_model_detects(results, capsys):
    case = results / "cases" / "BraTS2021_00000"
    assert cli.main(["detect", str(case), "--model", str(results / "model"), "--output", str(results / "out")]) == 0
    assert (results / "out" / case.name / "report.html").exists()
    pipeline = DifFusePipeline.from_pretrained(results / "model")
    common = ["detect", str(case), "--model", str(results / "model"), "--output", str(results / "strict")]
    assert cli.main([*common, "--false-positives", "0.01"]) == 0
    summary = json.loads((results / "strict" / case.name / "summary.json").read_text())
    assert summary["parameters"]["anomaly_threshold"] == pipeline.processor.threshold_for(0.01)
    assert cli.main([*common, "--false-positives", "0.5"]) == 1
    assert "it is for: 0.01, 0.1" in capsys.readouterr().err
    assert cli.main([*common, "--false-positives", "0.1", "--threshold", "1"]) == 2


def test_every_method_of_the_table_is_assembled_tuned_on_validation_and_scored(results, capsys):
    root, folder = results, results / "methods"
    common = ("--dataset", root / "slices", "--max_steps", 1, "--cpu", "--report_to", "none", "--batch_size", 2)
    unet = TINY["train_diffusion"]
    small = ("--block_out_channels", 8, 8, "--attention_levels", 1, "--norm_num_groups", 4, "--layers_per_block", 1)
    run("examples/train_diffusion.py", *common, *unet, "--noise", "simplex", "--output_dir", root / "simplex")
    run("examples/train_diffusion.py", *common, *unet, "--class_conditional", "--output_dir", root / "conditional")
    run("examples/train_noisy_classifier.py", *common, *small, "--attention_head_dim", 4, "--output_dir",
        root / "noisy_classifier")  # fmt: skip
    run("examples/train_denoising_ae.py", *common, "--channels", 4, 8, "--output_dir", root / "denoising_ae")
    run("examples/train_fanogan.py", *common, "--width", 2, "--sample_size", 16, "--latent_size", 4,
        "--output_dir", root / "fanogan")  # fmt: skip
    run("examples/train_itermask.py", *common, *small, "--output_dir", root / "itermask")
    parts = ("classifier", "autoencoder", "diffusion", "simplex", "conditional", "noisy_classifier", "fanogan",
             "itermask")  # fmt: skip
    networks = [flag for part in parts for flag in (f"--{part}", root / part)]
    settings = ("--num_inference_steps", 2, "--repaint_steps", 4, 2, 1, "--limit", 1, "--morphology_size", 1)
    assemble = ("examples/assemble_competitors.py", "--dataset", root / "slices", "--output_dir", folder, *networks)
    options = '{"num_steps": 2, "step_rule": "proximal"}'

    def short(grids):  # at most two points each, for what is fact of a grid is fact of a shorter one
        return {
            name: {one: values[: 1 if i else 2] for i, (one, values) in enumerate(grid.items())}
            for name, grid in grids.items()
        }

    run(*assemble, *settings, "--saliency_options", options, grids=short)
    assert "Left out for want of a network: DenoisingAE." in capsys.readouterr().out
    first = (folder / "DDPM" / "tuning.json").stat().st_mtime_ns
    DenoisingAutoencoder.from_pretrained(root / "denoising_ae").half().save_pretrained(root / "in 16 bits")
    run(*assemble, *settings, "--saliency_options", options, "--denoising_autoencoder", root / "in 16 bits",
        grids=short)  # fmt: skip
    assert (folder / "DDPM" / "tuning.json").stat().st_mtime_ns == first  # what is there is kept
    methods = {one["name"]: one for one in json.loads((folder / "methods.json").read_text())}
    assert len(methods) == 28
    page = rows_of((ROOT / "docs" / "choosing-a-method.md").read_text(encoding="utf-8"))
    for name in page.keys() & methods.keys():
        pipeline = load_pipeline(methods[name]["model"])
        assert page[name][-2:] == [", ".join(networks_needed(pipeline)), labels_needed(pipeline)], name
    assert len(page.keys() & methods.keys()) == len(page) - 2  # all but the head and the line below it
    calibrated = tuple(f"{name}, {how}" for name in ("Dif-fuse", "RePaint") for how in ("calibrated", "adaptive mask"))
    for name in calibrated:
        method = methods.pop(name)
        (chosen,) = (one["setting"] for one in method["tuning"] if one["chosen"])
        assert load_pipeline(method["model"]).calibration().to_dict() == chosen and chosen["recipe"]
    for name, method in methods.items():
        channels = [one["setting"]["anomaly_channels"] for one in method["tuning"]]
        assert (None in channels) and ([0] in channels) == (not name.startswith("ACAT"))
        best = max(one["dice"] for one in method["tuning"])
        chosen = next(one["setting"] for one in method["tuning"] if one["dice"] == best)
        config = load_pipeline(method["model"]).config
        assert {name: config[name] for name in chosen} == chosen
    rows = assembled_methods(str(folder), str(root / "slices"))
    assert {name for name, _ in rows} == {*methods, *calibrated}
    few = ["f-AnoGAN", "DenoisingAE", "Dif-fuse"]
    (folder / "methods.json").write_text(json.dumps([methods[name] for name in few]))
    run("examples/evaluate_anomaly.py", "--all", folder, root / "slices", "--limit", 1, "--device", "cpu",
        "--output_dir", root / "all methods")  # fmt: skip
    data = json.loads((root / "all methods" / "anomaly.json").read_text())
    assert list(data["results"]) == few and set(data["differences"]["Dif-fuse"]) == set(few[:2])
    (measures,) = data["results"]["Dif-fuse"]
    assert "flip_rate" in measures and "kid" not in measures  # its own classifier judges; of one slice there is no KID
    assert measures["calls"] == 2 * 2 and data["results"]["f-AnoGAN"][0]["calls"] == 1
    assert "Settings chosen on validation slices" in (root / "all methods" / "anomaly.md").read_text()

    blind = (*assemble[:4], folder.with_name("without masks"), *networks)
    some = ("--methods", "DDPM", "Dif-fuse, calibrated", "--without_masks")
    run(*blind, *settings, "--saliency_options", options, *some, grids=short)
    tuned = json.loads((folder.with_name("without masks") / "methods.json").read_text())
    assert [one["name"] for one in tuned] == ["DDPM", "Dif-fuse, calibrated"]
    with_masks = [one["dice"] for one in methods["DDPM"]["tuning"]]
    assert [one["dice"] for one in tuned[0]["tuning"]] != with_masks  # an estimate, of other slices too


def test_a_search_goes_on_beyond_the_end_of_its_grid_and_not_inside_of_it():
    further = load("examples/assemble_competitors.py").further
    tried = [{"noise_level": level, "percentile": share} for level in (100, 200, 350) for share in (80.0, 90.0)]
    names = ["noise_level", "percentile"]
    assert further({"noise_level": 100, "percentile": 90.0, "anomaly_channels": None}, tried, names) == [
        {"noise_level": 50, "percentile": 90.0},
        {"noise_level": 100, "percentile": 98.0},
    ]
    inside = [*tried, {"noise_level": 200, "percentile": 70.0}, {"noise_level": 200, "percentile": 98.0}]
    assert further({"noise_level": 200, "percentile": 80.0}, inside, names) == []
    assert further({"noise_level": 25, "percentile": 80.0}, [{"noise_level": 25, "percentile": 80.0}], names[:1]) == [
        {"noise_level": 50}
    ]


def test_no_noise_level_is_tried_that_the_unet_has_not_learned():
    script = load("examples/assemble_competitors.py")
    pipeline = DifFusePipeline(tiny_unet(), DifFuseScheduler(max_timestep=350))
    assert script.learned(pipeline, script.LEVELS) == {"noise_level": [100, 200, 350]}
    assert script.learned(pipeline, {"percentile": [80.0]}) == {"percentile": [80.0]}
    assert script.learned(ReconstructionPipeline(DenoisingAutoencoder(2, [4, 8])), script.LEVELS) == script.LEVELS
    tried = [{"noise_level": level} for level in (100, 200, 350)]
    assert script.further(tried[-1], tried, ["noise_level"], script.learned(pipeline, script.BEYOND)) == []


def test_a_level_that_is_not_tuned_is_lowered_to_what_the_unet_has_learned(results, tmp_path):
    script, kind = load("examples/assemble_competitors.py"), "AnoFPDMPipeline"
    for learned, level in ((None, 600), (500, 500)):
        DifFuseScheduler(max_timestep=learned).save_pretrained(tmp_path / "scheduler")
        args = SimpleNamespace(anomaly_channels=None, morphology_size=None, dataset=str(results / "slices"),
                               percentile_over="image", saliency_options={}, conditional=str(tmp_path))  # fmt: skip
        args.diffusion = args.simplex = None
        pipeline = script.build(kind, {"conditional": tiny_unet(num_class_embeds=3)}, {}, args)
        assert pipeline.config["noise_level"] == level
