"""The models that come with the package, from label maps to a calibrated folder; synthetic subjects only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from difffuse_hf.errors import require_choice

from .steps import Steps

DEMO_SPLITS = {  # SynthSeg's label maps, subjects and seed of each split; no anatomy is in two
    "train": ("01 03 04 06 07 08 09 11 13 14", 80, 100),
    "validation": ("02 10", 12, 200),
    "test": ("05 12", 16, 300),
}


def add_brain_slices(
    steps: Steps, out: str, anatomies: str, splits: dict, layout: list[str], size: Sequence[int], mm: float
) -> str:
    """Synthetic MR subjects of each split on anatomies of its own, and their slices; the folder of these."""
    slices = f"{out}/slices"
    for split, (members, subjects, seed) in splits.items():
        heads, phantom = f"{out}/anatomies/{split}", f"{out}/phantom/{split}"
        steps.add(f"anatomies/{split}", "mkdir", "-p", heads, to=heads)
        files = [f"{anatomies}/training_seg_{number}.nii.gz" for number in members.split()]
        steps.add(f"anatomies/{split}/links", "ln", "-sf", files, f"{heads}/", to=heads)
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


@dataclass(frozen=True)
class BrainModelSize:
    """A model of brain MR that does without some modalities: what differs between a smoke test and a model of use."""

    subjects: tuple[int, int, int]  # to train, validate and test
    image: tuple[int, int]  # height and width in pixels
    pixel_mm: float
    steps: tuple[int, int, int]  # of classifier, autoencoder and U-Net
    unet: str
    limit: int  # validation slices of a class
    common: str = ""


BRAIN_MODEL = {
    "smoke": BrainModelSize(
        subjects=(2, 2, 2),
        image=(32, 32),
        pixel_mm=6,
        steps=(3, 3, 3),
        unet="--block_out_channels 16 16",
        limit=4,
        common="--mixed_precision no --batch_size 4 --warmup_steps 1 --validation_steps 3 --validation_samples 8",
    ),
    "full": BrainModelSize(
        subjects=(300, 24, 32),
        image=128,
        pixel_mm=1.5,
        steps=(6000, 6000, 40_000),
        unet="--block_out_channels 64 96 160 192",
        limit=60,
    ),
}


def brain_model(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """A model of MR with lesions of five kinds that needs FLAIR alone; synthetic subjects only."""
    require_choice("SIZE", name, BRAIN_MODEL)
    steps, size = Steps(), BRAIN_MODEL[name]
    splits = {
        split: (members, subjects, 400 + seed)
        for (split, (members, _, seed)), subjects in zip(DEMO_SPLITS.items(), size.subjects)
    }
    slices = add_brain_slices(steps, out, anatomies, splits, ["--layout", "mr"], size.image, size.pixel_mm)
    parts = []
    for part, count in zip(("classifier", "autoencoder", "diffusion"), size.steps):
        to = f"{out}/{part}"
        words = [*size.unet.split(), "--patch_size", 2] if part == "diffusion" else []
        steps.add(part, "launch", f"examples/train_{part}.py", "--preset", "demo", "--dataset", slices,
                  "--output_dir", to, "--max_steps", count, "--modality_dropout", 0.5, words, size.common.split(),
                  "--resume_from_checkpoint latest --report_to none".split(), to=to)  # fmt: skip
        parts += [f"--{part}", to]
    maps = ["--saliency_options", json.dumps({"reference": "reconstruction", "num_steps": 6, "step_size": 0.03})]
    model, calibrated = f"{out}/model", f"{out}/calibrated"
    steps.add("model", "python", "examples/assemble_pipeline.py", "--dataset", slices, parts, "--output_dir", model,
              "--dtype float16 --preset fast --percentile 95 --anomaly_channels 0 --morphology_size 3".split(),
              "--optional_modalities t1 t1ce t2".split(), "--limit", size.limit, maps,
              "--training_data", "Synthetic subjects only: BrainPhantom over the label maps of SynthSeg.",
              to=model)  # fmt: skip
    steps.add("calibrated", "python", "examples/calibrate_pipeline.py", model, "--dataset", slices, "--limit",
              size.limit, "--channels", 0, "--grid", json.dumps({"noise_level": [350], "percentile": [90, 95]}),
              "--output_dir", calibrated, to=calibrated)  # fmt: skip
    for given, channels in (("all", []), ("flair", ["--channels", 0])):
        to = f"{out}/evaluation/{given}"
        steps.add(f"evaluation/{given}", "python", "examples/evaluate_anomaly.py", "--method", "Dif-fuse", calibrated,
                  slices, channels, "--limit", size.limit, "--output_dir", to, to=to)  # fmt: skip
    return steps
