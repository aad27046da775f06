"""What a model of the package finds of each kind of lesion, beside its own map and two rivals with its networks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from difffuse_hf.errors import require_choice
from difffuse_hf.io.hub import model_folder

from .models import DEMO_SPLITS, add_heads
from .steps import Steps

SALIENCY = {"reference": "reconstruction", "num_steps": 6, "step_size": 0.03}  # as the model `demo` makes its own
RIVALS = ("ACAT, calibrated map", "RePaint, calibrated", "DDIM-DDPM")


@dataclass(frozen=True)
class KindsSize:
    """What differs between a smoke test and a run whose figures mean something."""

    subjects: tuple[int, int]  # to choose settings and thresholds on, and to test
    tuning: int  # validation slices of a class that choose the rivals' settings
    scored: tuple[int, int]  # validation and test slices with a lesion, and without
    seeds: Sequence[int]  # of the sampling
    inference: int  # steps of DDIM-DDPM over all noise levels
    repaint: str  # levels, length of a jump, times that each stretch is gone


KINDS = {
    "smoke": KindsSize((3, 4), tuning=2, scored=(3, 3), seeds=[0], inference=6, repaint="3 1 1"),
    "evening": KindsSize((20, 40), tuning=24, scored=(30, 8), seeds=[0, 1, 2], inference=10, repaint="6 2 2"),
    "full": KindsSize((40, 200), tuning=100, scored=(250, 250), seeds=[0, 1, 2], inference=50, repaint="250 10 10"),
}
SEEDS = {"validation": 902, "test": 912}  # of the subjects; the demo model was trained on seed 100


def kinds(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """The model `demo` on gliomas, metastases, white-matter lesions and infarcts of anatomies it has never seen."""
    require_choice("SIZE", name, KINDS)
    size, steps, slices = KINDS[name], Steps(), f"{out}/slices"
    for (split, seed), number in zip(SEEDS.items(), size.subjects):
        raw, heads = f"{out}/scans/{split}", add_heads(steps, out, anatomies, split, DEMO_SPLITS[split][0])
        steps.add(f"scans/{split}", "difffuse", "phantom", raw, "--layout", "mr", "--subjects", number, "--seed", seed,
                  "--anatomies", heads, to=raw)  # fmt: skip
        steps.add(f"slices/{split}", "difffuse", "prepare", "brats2021", raw, slices, "--split", split,
                  "--image-size 96 96 --pixel-spacing-mm 2 --slice-margin 0 --min-foreground 0.08".split(),
                  to=slices)  # fmt: skip
    demo, methods, tables = model_folder("demo"), f"{out}/methods", f"{out}/tables"
    steps.add("methods", "python", "examples/assemble_competitors.py", "--dataset", slices, "--methods", *RIVALS,
              "--classifier", f"{demo}/classifier", "--autoencoder", f"{demo}/autoencoder", "--diffusion", demo,
              "--num_inference_steps", size.inference, "--repaint_steps", size.repaint.split(), "--limit", size.tuning,
              "--anomaly_channels 0 --morphology_size 3".split(), "--saliency_options", json.dumps(SALIENCY),
              "--output_dir", methods, to=methods)  # fmt: skip
    again = f"{out}/calibrated"  # with as many percentiles to choose from as RePaint
    steps.add("calibrated", "python", "examples/calibrate_pipeline.py", demo, "--dataset", slices, "--limit",
              size.tuning, "--grid", json.dumps({"percentile": [80, 90, 95], "noise_level": [350]}),
              "--output_dir", again, to=again)  # fmt: skip
    plain = json.dumps({"display_steps": 0})  # no picture for the eye
    rows = ["--method", "Dif-fuse", demo, slices, plain, "--method", "Dif-fuse, calibrated here", again, slices, plain,
            "--all", methods, slices] * len(size.seeds)  # fmt: skip
    sick, healthy = size.scored
    steps.add("tables", "python", "examples/evaluate_anomaly.py", rows, "--limit", sick, "--limit_healthy", healthy,
              "--group_by", f"{out}/scans/test", "kind", "--output_dir", tables, to=tables)  # fmt: skip
    found = f"{out}/found"
    steps.add("found", "python", "examples/evaluate_scans.py", demo, "--cases", f"{out}/scans/test", "--group_by",
              "kind", "--seeds", list(size.seeds), "--output_dir", found, to=found)  # fmt: skip
    return steps
