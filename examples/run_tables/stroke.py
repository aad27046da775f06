"""Chapter 6 on head CT: the methods of Table 6.1 on synthetic stroke patients, and the model `ct` of the package."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from difffuse_hf.errors import require_choice

from .steps import Steps

METHODS = (
    "DenoisingAE", "IterMask2", "IterMask2, calibrated map", "AnoFPDM", "AnoFPDM, calibrated map", "AutoDDPM", "THOR",
    "ACAT", "ACAT, calibrated map", "Dif-fuse", "Dif-fuse, calibrated", "Dif-fuse, adaptive mask",
    "RePaint", "RePaint, calibrated", "RePaint, adaptive mask", "DDPM", "DDIM-DDPM", "DDPM-DDIM", "DDIM",
)  # fmt: skip
RIVALS = {"denoising_autoencoder": "denoising_ae", "itermask": "itermask", "conditional": "conditional"}  # their own
WINDOW_HU = (0, 80)  # the brain window of a reading room
MAPS = {"reference": "reconstruction", "num_steps": 10, "step_rule": "proximal", "step_growth": 1.5}


@dataclass(frozen=True)
class StrokeSize:
    """What differs between a smoke test and a run whose figures mean something."""

    patients: int  # two scans of each
    seeds: Sequence[int]
    steps: tuple[int, int, int, int]  # of classifier, autoencoder, each U-Net, and each other rival's network
    tuned: int  # validation slices of each class that methods are tuned on
    scored: int  # validation and test slices of each class
    calibrated: int  # validation slices of each class that the model's thresholds are chosen on
    inference: int  # steps of sampling
    repaint: tuple[int, int, int]
    unet: str = "--block_out_channels 48 64 96 128"
    common: str = ""


STROKE = {
    "smoke": StrokeSize(  # of fewer patients, a split has no lesion
        12, [0], (3, 3, 3, 3), tuned=2, scored=2, calibrated=3, inference=2, repaint=(4, 2, 2),
        unet="--block_out_channels 16 16",
        common="--mixed_precision no --batch_size 4 --warmup_steps 0 --validation_steps 3 --validation_samples 8",
    ),
    "evening": StrokeSize(
        560, [0, 1, 2], (2600, 700, 1500, 1000), tuned=10, scored=20, calibrated=60, inference=12, repaint=(12, 4, 3),
    ),
}  # fmt: skip


def stroke(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """One cohort, dealt anew by anatomy for each seed; the model is that of the first seed."""
    require_choice("SIZE", name, STROKE)
    size, steps, scored = STROKE[name], Steps(), []
    cohort = f"{out}/cohort"
    steps.add("cohort", "difffuse", "phantom", cohort, "--layout", "ist3", "--arrays", "--subjects", size.patients,
              "--seed", 700, "--anatomies", anatomies, to=cohort)  # fmt: skip
    for seed in size.seeds:
        here, data = f"{out}/{seed}", f"{out}/{seed}/data"
        steps.add(f"{seed}/data", "difffuse", "prepare", "ist3", cohort, data, "--window-hu", WINDOW_HU,
                  "--split-seed", seed, to=data)  # fmt: skip
        add_networks(steps, size, seed, here)
        steps.add(f"{seed}/methods", "python", "examples/assemble_competitors.py", "--dataset", data,
                  "--output_dir", f"{here}/methods", networks(here),
                  [word for flag, part in RIVALS.items() for word in (f"--{flag}", f"{here}/{part}")],
                  "--methods", METHODS, "--seed", seed, "--limit", size.tuned, "--num_inference_steps", size.inference,
                  "--repaint_steps", size.repaint, shared(), "--dtype", "auto", to=f"{here}/methods")  # fmt: skip
        scored += ["--all", f"{here}/methods", data]
    judges = ["--classifier", *(f"{out}/{seed}/classifier" for seed in size.seeds)]
    steps.add("tables", "python", "examples/evaluate_anomaly.py", scored, judges, "--limit", size.scored,
              "--dtype", "auto", "--output_dir", f"{out}/tables", to=f"{out}/tables")  # fmt: skip
    first = f"{out}/{size.seeds[0]}"
    chosen = "--preset fast --percentile 90 --dtype float16 --sensitivity 0.8".split()
    model, calibrated, grid = f"{out}/model", f"{out}/ct", {"noise_level": [350], "percentile": [80, 90]}
    steps.add("model", "python", "examples/assemble_pipeline.py", "--dataset", f"{first}/data", networks(first),
              "--output_dir", model, shared(), chosen,
              "--limit", size.calibrated, "--training_data",
              "Synthetic stroke patients only: BrainPhantom over the label maps of SynthSeg.", to=model)  # fmt: skip
    steps.add("ct", "python", "examples/calibrate_pipeline.py", model, "--dataset", f"{first}/data",
              "--limit", size.calibrated, "--grid", json.dumps(grid), "--healthy_threshold",
              "--output_dir", calibrated, to=calibrated)  # fmt: skip
    return steps


def networks(here: str) -> list[str]:
    """Flags that name the networks of one seed."""
    return [word for part in ("classifier", "autoencoder", "diffusion") for word in (f"--{part}", f"{here}/{part}")]


def shared() -> list[str]:
    """How masks and maps are made, of every method."""
    masks = "--percentile_over foreground --morphology_size 3".split()
    return [*masks, "--saliency_options", json.dumps(MAPS)]


def add_networks(steps: Steps, size: StrokeSize, seed: int, here: str) -> None:
    """The networks of one seed."""
    loop = "--cpu --report_to none --resume_from_checkpoint latest".split()
    classifier, autoencoder, unet, rival = size.steps
    diffusion = f"--preset demo --intensity_augmentation 0.03 --patch_size 2 {size.unet} --max_steps {unet}"
    of_rivals = f"--mixed_precision auto --validation_steps 250 --validation_samples 256 --flip --max_steps {rival}"
    recipes = {
        "classifier": "--preset demo --intensity_augmentation 0.05 --noise_augmentation 0.03 --batch_size 48 "
        f"--lr_scheduler cosine --validation_steps 200 --validation_samples 600 --max_steps {classifier}",
        "autoencoder": f"--preset demo --intensity_augmentation 0.05 --strides 2 1 1 --max_steps {autoencoder}",
        "diffusion": diffusion,
        "conditional": f"{diffusion} --class_conditional",
        "denoising_ae": f"--channels 16 32 64 96 --learning_rate 1e-3 --cosine_steps 0 {of_rivals}",
        "itermask": "--block_out_channels 16 32 64 96 --layers_per_block 1 --attention_levels 1 --norm_num_groups 16 "
        f"{of_rivals}",
    }
    for part, recipe in recipes.items():
        to = f"{here}/{part}"
        script = "diffusion" if part == "conditional" else part
        steps.add(f"{seed}/{part}", "launch", f"examples/train_{script}.py", recipe.split(), size.common.split(),
                  "--dataset", f"{here}/data", "--seed", seed, loop, "--output_dir", to, to=to)  # fmt: skip
