"""What the schedules of Dif-fuse cost and find, side by side: the same weights, slices and saliency.

python benchmarks/sampling.py --validation slices --test slices --output_dir out/sampling [--slices 20] [--threads 1]

Methods: the author's loop written out by itself (cost only: `reference_code` computes the same), the presets with the
thesis's map, the preset `fast` as it was before maps were calibrated, and `fast` as the model is calibrated.
Thresholds are chosen on the validation split, for calibrated presets they are the model's. Dice is of test slices with
a lesion. On healthy test slices: `sharpness`, the energy of the gradient inside the mask against that of the slice
itself, and `identity_error`, the mean absolute change over the brain, both of the counterfactual to look at. `passes`
is the share of diseased slices whose counterfactual the classifier takes for healthy. Dice against calls becomes a
figure, and what each method scored is kept, so that an interrupted run goes on.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from author_loop import author_loop
from side_by_side import cpu_seconds, write_results

from difffuse_hf.data.slices import load_slices
from difffuse_hf.detection.load import load_model
from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.anomaly import Slices, Threshold, as_slices, choose_threshold, score_maps, size_edges
from difffuse_hf.evaluation.calibration import Calls
from difffuse_hf.evaluation.segmentation import dice
from difffuse_hf.io.files import write_whole
from difffuse_hf.pipelines.presets import PRESETS, Preset

OLD_FAST = Preset(num_inference_steps=10, num_samples=4, display_steps=20)
STEPS = (1, 2, 3, 5, 10)  # of the curve


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validation", required=True, help="data set with a validation split")
    parser.add_argument("--test", required=True, help="data set with a test split")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--slices", type=int, default=20, help="of each class and split")
    parser.add_argument("--slow_slices", type=int, default=2, help="for methods of which only the cost is measured")
    parser.add_argument("--methods", nargs="*", help="all by default")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)

    pipeline, _ = load_model(args.model, args.device)
    pipeline.set_progress_bar_config(disable=True)
    data = Data(pipeline, args.validation, args.test, args.slices, args.slow_slices)
    methods = methods_of(pipeline)
    rows = []
    for name in args.methods or methods:
        path = args.output_dir / "methods" / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            row = {"method": name, **methods[name](pipeline, data)}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file, row=row: file.write_text(json.dumps(row, indent=2)))
        rows.append(json.loads(path.read_text()))
        print(json.dumps(rows[-1]), flush=True)
    slowest = max(row["cpu_s"] for row in rows)
    rows = [{**row, "times_cheaper": slowest / row["cpu_s"]} for row in rows]
    settings = {name: value for name, value in vars(args).items() if name != "output_dir"}
    print(write_results(args.output_dir, "sampling", rows, settings))
    draw_figure([row for row in rows if "dice" in row], args.output_dir / "dice_against_calls.png")


class Data:
    """Slices and their saliency, the same for every method."""

    def __init__(self, pipeline, validation: str, test: str, count: int, slow: int):
        parts = {
            "validation": as_slices(load_slices(validation, "validation"), "validation", count),
            "test": as_slices(load_slices(test, "test"), "test", count),
        }
        self.sick: dict[str, Slices] = {name: part.with_lesion() for name, part in parts.items()}
        self.healthy = parts["test"].select(parts["test"].labels == 0)
        self.slow = slow
        self.saliency = {
            id(slices): torch.cat(
                [pipeline.make_saliency(batch.to(pipeline.device)) for batch in slices.images.split(16)]
            )
            for slices in (*self.sick.values(), self.healthy)
        }


def methods_of(pipeline) -> dict[str, Callable]:
    """Name of a method -> what measures it."""
    methods: dict[str, Callable] = {"author's loop": measure_author}
    for name in ("exact", "thesis", "reference_code"):
        methods[name] = lambda pipe, data, name=name: measure(pipe, data, PRESETS[name], scored=name == "exact")
    methods["old fast"] = lambda pipe, data: measure(pipe, data, OLD_FAST)
    methods["fast"] = lambda pipe, data: measure(pipe, data, "fast")
    calibrated = pipeline.calibration("fast")
    for steps in STEPS:
        preset = replace(calibrated.settings, num_inference_steps=steps, display_steps=None)
        methods[f"fast in {steps} steps"] = lambda pipe, data, preset=preset: measure(pipe, data, preset, like="fast")
    return methods


def measure(pipeline, data: Data, preset: Preset | str, scored: bool = True, like: str | None = None) -> dict:
    """Cost of the map and of the picture, and how good both are; with `like`, by the map of another preset."""
    plan = pipeline.calibration(preset)
    if like is not None:
        other = pipeline.calibration(like)
        plan = replace(
            plan, recipe=other.recipe, noise_level=other.noise_level, percentile=other.percentile, threshold=None
        )
    call = {"preset": preset, "noise_level": plan.noise_level, "percentile": plan.percentile, "recipe": plan.recipe}
    test = data.sick["test"] if scored else data.sick["test"].select(torch.arange(data.slow))
    maps, expected, cost = run(pipeline, test, data.saliency[id(data.sick["test"])], display_steps=0, **call)
    row = {**cost}
    if scored:
        threshold = None if isinstance(preset, Preset) else plan.threshold
        known = data.sick["validation"]
        if threshold is None:
            threshold = choose_threshold(
                run(pipeline, known, data.saliency[id(known)], display_steps=0, **call)[0], known
            ).value
        scores = score_maps(maps, test, Threshold(threshold, float("nan"), "validation"), size_edges(known))
        per_subject = subject_dice(maps, test, threshold)
        row |= {"dice": scores["dice"], "dice_se": float(np.std(per_subject, ddof=1) / len(per_subject) ** 0.5)}
        row |= {
            "best_dice": scores["best_dice"],
            "passes": 1 - float(pipeline.looks_diseased(expected).float().mean()),
        }
        if like is None:
            row |= pictures(pipeline, data, preset, plan, cost["calls"] if plan.settings.display_steps else 0)
    return row


def pictures(pipeline, data: Data, preset, plan, map_calls: float) -> dict[str, float]:
    """Calls, sharpness and identity error of the counterfactual to look at, on healthy slices.

    The calls are those of its own chain, which comes on top of those for the map.
    """
    images = data.healthy.images
    with Calls(pipeline.unet) as calls:
        output = pipeline(
            images.to(pipeline.device),
            saliency=data.saliency[id(data.healthy)],
            preset=preset,
            noise_level=plan.noise_level,
            percentile=plan.percentile,
            generator=[torch.Generator().manual_seed(i) for i in range(len(images))],
        )
    made, inside = output.counterfactuals.cpu(), (output.masks.cpu() > 0) & data.healthy.brain
    brain = data.healthy.brain.expand_as(images)
    return {
        "picture_calls": calls.images / len(images) - map_calls,
        "sharpness": gradient_energy(made, inside) / gradient_energy(images, inside),
        "identity_error": float((made - images).abs()[brain].mean()),
    }


def measure_author(pipeline, data: Data) -> dict[str, float]:
    """Cost of the author's loop on a few slices."""
    test = data.sick["test"]
    images = test.images[: data.slow].to(pipeline.device)
    mask, _ = pipeline.choose_mask(images, data.saliency[id(test)][: data.slow])
    level, calls = pipeline.config["noise_level"], 0

    def predict(sample, timestep):
        nonlocal calls
        calls += len(sample)
        return pipeline.predict_noise(sample, timestep + 1)[0]

    cpu, wall = cpu_seconds(), time.perf_counter()
    author_loop(predict, images, mask, pipeline.scheduler.alphas_cumprod, level)
    count = len(images)
    return {
        "calls": calls / count,
        "cpu_s": (cpu_seconds() - cpu) / count,
        "wall_s": (time.perf_counter() - wall) / count,
    }


def run(pipeline, slices: Slices, saliency: torch.Tensor, batch_size: int = 16, **call):
    """Maps, expected counterfactuals and cost an image."""
    maps, expected = [], []
    cpu, wall = cpu_seconds(), time.perf_counter()
    with Calls(pipeline.unet) as calls:
        for index in torch.arange(len(slices.images)).split(batch_size):
            generators = [torch.Generator().manual_seed(i) for i in index.tolist()]
            images = slices.images[index].to(pipeline.device)
            output = pipeline(images, saliency=saliency[index], generator=generators, **call)
            maps.append(output.anomaly_maps.float().cpu())
            expected.append(output.expected.float())
    count = len(slices.images)
    cost = {
        "calls": calls.images / count,
        "cpu_s": (cpu_seconds() - cpu) / count,
        "wall_s": (time.perf_counter() - wall) / count,
    }
    return torch.cat(maps), torch.cat(expected), cost


def subject_dice(maps: torch.Tensor, slices: Slices, threshold: float) -> list[float]:
    """Mean Dice of each subject's slices."""
    values, subjects = dice(maps >= threshold, slices.masks).numpy(), np.array(slices.subjects)
    return [float(values[subjects == subject].mean()) for subject in dict.fromkeys(slices.subjects)]


def gradient_energy(images: torch.Tensor, inside: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels, over the pixels inside (N, 1, H, W)."""
    down, right = images.diff(dim=2)[..., :-1], images.diff(dim=3)[:, :, :-1]
    energy = (down**2 + right**2).mean(1, keepdim=True)
    return float(energy[inside[..., :-1, :-1]].mean())


def draw_figure(rows: list[dict], path: Path) -> None:
    """Dice against network calls, one point a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        axes.errorbar(row["calls"], row["dice"], row["dice_se"], marker="o", capsize=3)
        axes.annotate(
            row["method"], (row["calls"], row["dice"]), xytext=(5, 5), textcoords="offset points", fontsize=8
        )
    axes.set(xscale="log", xlabel="network calls an image", ylabel="Dice, synthetic test slices", ylim=(0, 1))
    write_whole(path, lambda file: figure.savefig(file, dpi=150))


if __name__ == "__main__":
    run_script(main)
