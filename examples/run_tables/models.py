"""The models that come with the package, from label maps to a calibrated folder; synthetic subjects only."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from difffuse_hf.errors import require_choice

from .steps import Steps

DEMO_SPLITS = {  # SynthSeg's label maps, subjects and seed of each split; no anatomy is in two
    "train": ("01 03 04 06 07 08 09 11 13 14", 80, 100),
    "validation": ("02 10", 12, 200),
    "test": ("05 12", 16, 300),
}


def add_heads(steps: Steps, out: str, anatomies: str, split: str, members: str) -> str:
    """A folder of the label maps with these numbers."""
    heads = f"{out}/anatomies/{split}"
    files = [f"{anatomies}/training_seg_{number}.nii.gz" for number in members.split()]
    steps.add(f"anatomies/{split}", "mkdir", "-p", heads, to=heads)
    return steps.add(f"anatomies/{split}/links", "ln", "-sf", files, f"{heads}/", to=heads)


def add_brain_slices(
    steps: Steps, out: str, anatomies: str, splits: dict, layout: list[str], size: Sequence[int], mm: float
) -> str:
    """Synthetic MR subjects of each split on anatomies of its own, and their slices; the folder of these."""
    slices = f"{out}/slices"
    for split, (members, subjects, seed) in splits.items():
        phantom, heads = f"{out}/phantom/{split}", add_heads(steps, out, anatomies, split, members)
        steps.add(f"phantom/{split}", "difffuse", "phantom", phantom, layout, "--subjects", subjects, "--seed", seed,
                  "--anatomies", heads, to=phantom)  # fmt: skip
        steps.add(f"slices/{split}", "python", "datasets_scripts/prepare_brats2021.py", phantom, slices,
                  "--split", split, "--image_size", list(size), "--pixel_spacing_mm", mm, "--slice_margin", 0,
                  "--min_foreground", 0.08, to=slices)  # fmt: skip
    return slices


def demo_model(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """The embedded checkpoint, from label maps to model folder, and its scores; synthetic subjects only."""
    require_choice("SIZE", name, ["full"])
    steps = Steps()
    slices = add_brain_slices(steps, out, anatomies, DEMO_SPLITS, [], [96], 2)
    parts = []
    for part in ("classifier", "autoencoder", "diffusion"):
        to = f"{out}/{part}"
        steps.add(part, "launch", f"examples/train_{part}.py", "--preset", "demo", "--dataset", slices,
                  "--output_dir", to, "--resume_from_checkpoint", "latest", "--cpu", "--report_to", "none",
                  to=to)  # fmt: skip
        parts += [f"--{part}", to]
    maps = ["--saliency_options", json.dumps({"reference": "reconstruction", "num_steps": 6, "step_size": 0.03})]
    shared = "--anomaly_channels 0 --morphology_size 3".split()
    model, methods = f"{out}/model", f"{out}/methods"
    steps.add("model", "python", "examples/assemble_pipeline.py", "--dataset", slices, parts, "--output_dir", model,
              "--dtype float16 --preset fast --percentile 95".split(), shared, "--limit", 60, maps,
              "--training_data", "Synthetic subjects only: BrainPhantom over the label maps of SynthSeg.",
              to=model)  # fmt: skip
    calibrated, grid = f"{out}/calibrated", {"noise_level": [350, 500], "percentile": [90, 95]}
    steps.add("calibrated", "python", "examples/calibrate_pipeline.py", model, "--dataset", slices, "--limit", 48,
              "--grid", json.dumps(grid), "--output_dir", calibrated, to=calibrated)  # fmt: skip
    steps.add("methods", "python", "examples/assemble_competitors.py", "--dataset", slices, parts,
              "--methods", "ACAT, calibrated map", "DDIM-DDPM", "--num_inference_steps", 10, shared,
              "--output_dir", methods, maps, to=methods)  # fmt: skip
    rows = ["--all", methods, slices, "--method", "Dif-fuse", calibrated, slices] * 3  # seeds of the sampling
    steps.add("evaluation", "python", "examples/evaluate_anomaly.py", rows, "--limit", 30,
              "--output_dir", f"{out}/evaluation", to=f"{out}/evaluation")  # fmt: skip
    return steps


BRAIN_SALIENCY = {"reference": "reconstruction", "counterfactuals": ["negative"], "num_steps": 6, "step_size": 0.03}
BRAIN_SCHEDULES = {  # with and without a first look that narrows the mask
    "noise_level": [350],
    "percentile": [80, 90],
    "scout_samples": [0, 2],
    "scout_threshold": [0.0, 0.08],
    "scout_margin_mm": [6.0],
}


@dataclass(frozen=True)
class BrainModelSize:
    """A model of brain MR that does without some modalities: what differs between a smoke test and a model of use."""

    subjects: tuple[int, int, int]  # to train, validate and test
    image: tuple[int, int]  # height and width in pixels
    pixel_mm: float
    classifier: str  # flags of its training, as the next two
    autoencoder: str
    diffusion: str
    assembly: int  # validation slices of a class that choose the lesion probability
    calibration: int  # those that choose schedule, map and threshold
    rivals: int  # validation and test slices of a class, for the table of methods
    scored: tuple[int, ...]  # seeds of the sampling


TINY = "--max_steps 3 --mixed_precision no --batch_size 4 --warmup_steps 1 --validation_steps 3 --validation_samples 8"
BRAIN_MODEL = {
    "smoke": BrainModelSize(
        subjects=(2, 2, 2),
        image=(32, 32),
        pixel_mm=6,
        classifier=TINY,
        autoencoder=TINY,
        diffusion=f"{TINY} --block_out_channels 16 16",
        assembly=4,
        calibration=4,
        rivals=4,
        scored=(0,),
    ),
    "evening": BrainModelSize(
        subjects=(220, 24, 40),
        image=(128, 112),
        pixel_mm=1.5,
        classifier="--max_steps 3000 --batch_size 48 --lr_scheduler cosine",
        autoencoder="--max_steps 1000 --strides 2 1 1 --lr_scheduler cosine",
        diffusion="--max_steps 2800 --block_out_channels 32 64 96 128 --intensity_augmentation 0.2",
        assembly=60,
        calibration=40,
        rivals=24,
        scored=(0, 1, 2),
    ),
    "full": BrainModelSize(
        subjects=(300, 24, 32),
        image=(128, 112),
        pixel_mm=1.5,
        classifier="--max_steps 6000 --lr_scheduler cosine",
        autoencoder="--max_steps 6000 --strides 2 1 1 --lr_scheduler cosine",
        diffusion="--max_steps 40000 --block_out_channels 64 96 160 192 --intensity_augmentation 0.2",
        assembly=200,
        calibration=200,
        rivals=100,
        scored=(0, 1, 2),
    ),
}
FLAIR_ALONE = {"all": [], "flair": ["--modalities", "flair"]}


def brain_model(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """The model of MR with lesions of five kinds that needs FLAIR alone, and its scores; synthetic subjects only."""
    require_choice("SIZE", name, BRAIN_MODEL)
    steps, size = Steps(), BRAIN_MODEL[name]
    splits = {
        split: (members, subjects, 400 + seed)
        for (split, (members, _, seed)), subjects in zip(DEMO_SPLITS.items(), size.subjects)
    }
    slices = add_brain_slices(steps, out, anatomies, splits, ["--layout", "mr"], size.image, size.pixel_mm)
    parts = []
    for part, flags in (
        ("classifier", size.classifier),
        ("autoencoder", size.autoencoder),
        ("diffusion", size.diffusion),
    ):
        to = f"{out}/{part}"
        patches = ["--patch_size", 2] if part == "diffusion" else []
        steps.add(part, "launch", f"examples/train_{part}.py", "--preset", "demo", "--dataset", slices,
                  "--output_dir", to, "--modality_dropout", 0.5, patches, flags.split(),
                  "--resume_from_checkpoint latest --report_to none".split(), to=to)  # fmt: skip
        parts += [f"--{part}", to]
    maps = ["--saliency_options", json.dumps(BRAIN_SALIENCY)]
    shared = "--anomaly_channels 0 --morphology_size 3".split()
    model, calibrated, methods = f"{out}/model", f"{out}/calibrated", f"{out}/methods"
    steps.add("model", "python", "examples/assemble_pipeline.py", "--dataset", slices, parts, "--output_dir", model,
              "--dtype float16 --preset fast --percentile 95".split(), shared,
              "--optional_modalities t1 t1ce t2".split(), "--limit", size.assembly, maps,
              "--training_data", "Synthetic subjects only: BrainPhantom over the label maps of SynthSeg.",
              to=model)  # fmt: skip
    steps.add("calibrated", "python", "examples/calibrate_pipeline.py", model, "--dataset", slices, "--limit",
              size.calibration, "--channels", 0, "--scanner_spread", 0.35, "--grid",
              json.dumps(BRAIN_SCHEDULES), "--output_dir", calibrated, to=calibrated)  # fmt: skip
    for given, flags in FLAIR_ALONE.items():
        to = f"{out}/scans/{given}"
        steps.add(f"scans/{given}", "python", "examples/evaluate_scans.py", calibrated, "--cases",
                  f"{out}/phantom/test", "--group_by", "kind", "--seeds", list(size.scored), flags,
                  "--output_dir", to, to=to)  # fmt: skip
    steps.add("methods", "python", "examples/assemble_competitors.py", "--dataset", slices, parts,
              "--methods", "ACAT, calibrated map", "RePaint, calibrated", "DDIM-DDPM", "--num_inference_steps", 12,
              shared, "--limit", size.rivals, "--output_dir", methods, maps, to=methods)  # fmt: skip
    rows = ["--all", methods, slices, "--method", "Dif-fuse", calibrated, slices] * len(size.scored)
    steps.add("evaluation", "python", "examples/evaluate_anomaly.py", rows, "--limit", size.rivals, "--dtype", "auto",
              "--output_dir", f"{out}/evaluation", to=f"{out}/evaluation")  # fmt: skip
    return steps


FLAIR_SCANS = {  # SynthSeg's label maps, subjects of five kinds and seed of each split
    split: (DEMO_SPLITS[split][0], number, seed)
    for split, number, seed in (("train", 160, 700), ("validation", 18, 901), ("test", 16, 911))
}


TOGETHER = {"smoothing_mm": 4, "together": True, "neighbour_probability": 0.5}


@dataclass(frozen=True)
class FlairSize:
    """A model of FLAIR by itself: what differs between a smoke test and the one in the package."""

    share: float  # of the subjects of `FLAIR_SCANS`
    classifier: str  # flags of its training, as the next two
    autoencoder: str
    diffusion: str
    calibration: int  # validation slices of a class that choose schedule, map and threshold
    rules: Sequence[dict]  # of the slices of a scan together; the first is what the others are compared with
    scored: Sequence[int]  # seeds of the sampling


FLAIR = {
    "smoke": FlairSize(0.01, TINY, TINY, TINY, calibration=4, rules=[{}], scored=[0]),
    "evening": FlairSize(
        share=1,
        classifier="--max_steps 1600 --validation_steps 400 --lr_scheduler cosine",
        autoencoder="--max_steps 700 --validation_steps 350 --lr_scheduler cosine",
        diffusion="--max_steps 600 --warmup_steps 40 --learning_rate 4e-4 --ema_decay 0.99 --validation_steps 200 "
        "--validation_samples 96 --checkpointing_steps 100 --intensity_augmentation 0.2",
        calibration=48,
        rules=[TOGETHER, {**TOGETHER, "peak_saliency": 0.5}],  # as was chosen for `demo`
        scored=[0, 1, 2],
    ),
}


def flair_model(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """The model `flair` of the package: the demo model's networks cut to FLAIR and trained on; synthetic only."""
    require_choice("SIZE", name, FLAIR)
    steps, size, slices, scans = Steps(), FLAIR[name], f"{out}/slices", f"{out}/scans"
    for split, (members, number, seed) in FLAIR_SCANS.items():
        raw, heads = f"{scans}/{split}", add_heads(steps, out, anatomies, split, members)
        steps.add(f"scans/{split}", "difffuse", "phantom", raw, "--layout", "mr", "--subjects",
                  math.ceil(size.share * number), "--seed", seed, "--anatomies", heads, to=raw)  # fmt: skip
        steps.add(f"slices/{split}", "difffuse", "prepare", "brats2021", raw, slices, "--split", split,
                  "--modalities flair --image-size 96 96 --pixel-spacing-mm 2 --slice-margin 0".split(),
                  "--min-foreground", 0.08, to=slices)  # fmt: skip
    start, parts = f"{out}/start", []
    steps.add("start", "python", "examples/select_modalities.py", "demo", "flair", "--output_dir", start, to=start)
    for part in ("classifier", "autoencoder", "diffusion"):
        to = f"{out}/{part}"
        steps.add(part, "launch", f"examples/train_{part}.py", "--preset", "demo", "--dataset", slices,
                  "--initial_weights", f"{start}/{'unet' if part == 'diffusion' else part}", "--output_dir", to,
                  getattr(size, part).split(), "--resume_from_checkpoint latest --report_to none".split(),
                  to=to)  # fmt: skip
        parts += [f"--{part}", to]
    model, calibrated, shipped = f"{out}/model", f"{out}/calibrated", f"{out}/flair"
    maps = ["--saliency_options", json.dumps({"reference": "reconstruction", "num_steps": 6, "step_size": 0.03})]
    steps.add("model", "python", "examples/assemble_pipeline.py", "--dataset", slices, parts, "--output_dir", model,
              "--dtype float16 --preset fast --percentile 95 --morphology_size 3 --limit 60".split(), maps,
              "--training_data", "Synthetic subjects only: BrainPhantom over the label maps of SynthSeg.",
              to=model)  # fmt: skip
    grid = {"noise_level": [350], "percentile": [80, 85, 90, 95]}
    steps.add("calibrated", "python", "examples/calibrate_pipeline.py", model, "--dataset", slices, "--limit",
              size.calibration, "--scanner_spread", 0.35, "--grid", json.dumps(grid), "--output_dir", calibrated,
              to=calibrated)  # fmt: skip
    steps.add("flair", "python", "examples/calibrate_scans.py", calibrated, "--cases", f"{scans}/validation",
              "--rules", json.dumps(size.rules), "--false_positives", 0.01, 0.001, "--output_dir", shipped,
              to=shipped)  # fmt: skip
    found = f"{out}/found"
    steps.add("found", "python", "examples/evaluate_scans.py", shipped, "--cases", f"{scans}/test", "--group_by",
              "kind", "--seeds", list(size.scored), "--output_dir", found, to=found)  # fmt: skip
    return steps
