"""Dice of a Dif-fuse model against the noise level K, the percentile of its mask (thesis Figs. 6.6 and 6.7), and the
number of samples that its map is the mean of (beyond the thesis: whether more of them pay).

python examples/sweep_noise_and_threshold.py --model out/difffuse --dataset data/brats_slices --output_dir out/sweep

On the validation split: this is how K and τ are chosen, and a test split chooses nothing. Each curve varies one of the
three and leaves the others as the model has them; at every point the anomaly threshold is the best one there. Points
that are there already are kept, so that an interrupted sweep is continued by repeating the command.
"""

import argparse
import json
from itertools import product
from pathlib import Path

from difffuse_hf import DifFusePipeline
from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.anomaly import Slices, as_slices, choose_threshold, run_method
from difffuse_hf.evaluation.segmentation import best_dice
from difffuse_hf.io.files import write_whole
from difffuse_hf.pipelines.auto import load_pipeline
from difffuse_hf.reporting.charts import new_figure, save
from difffuse_hf.reporting.tables import Column, measures_table, write_tables

CURVES = {"noise_level": "noise level K", "percentile": "percentile τ of the mask", "num_samples": "samples"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "dataset", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--noise_levels", type=int, nargs="*", default=[100, 200, 300, 400, 500, 600, 700, 800])
    parser.add_argument("--percentiles", type=float, nargs="*", default=[70, 80, 85, 90, 95, 98])
    parser.add_argument("--num_samples", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--options", type=json.loads, default={}, help="further arguments of the pipeline, as JSON")
    parser.add_argument("--limit", type=int, help="validation slices with a lesion; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="of the sampling")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)

    pipeline = load_pipeline(args.model, args.device)
    if not isinstance(pipeline, DifFusePipeline):
        raise InputError(f"{args.model} is a {type(pipeline).__name__}; the sweep is of a DifFusePipeline.")
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    sick = as_slices(load_slices(args.dataset, "validation"), "validation", args.limit).with_lesion()
    values = {"noise_level": args.noise_levels, "percentile": args.percentiles, "num_samples": args.num_samples}
    curves = measure(pipeline, sick, {name: of for name, of in values.items() if of}, output / "points.json", args)

    where = "validation, synthetic data" if is_synthetic(args.dataset) else "validation"
    caption = f"{len(sick.images)} slices with a lesion, split {where}."
    columns = [Column("dice", "Dice", digits=3), Column("best_dice", "best-possible Dice", digits=3)]
    tables = [
        measures_table({f"{v:g}": runs for v, runs in curve.items()}, columns, caption, row_heading=CURVES[name])
        for name, curve in curves.items()
    ]
    write_tables(tables, {"curves": curves, "split": where}, output, "sweep")
    draw(curves, where, output / "sweep.png")
    print("\n".join(table.markdown() for table in tables))


def measure(pipeline: DifFusePipeline, sick: Slices, values: dict, file: Path, args) -> dict:
    """{setting: {value: [scores of each seed]}}; points of the same origin in `file` are not measured again."""
    origin = {name: getattr(args, name) for name in ("model", "dataset", "options", "limit")}
    done = json.loads(file.read_text()) if file.exists() else {}
    if done.pop("origin", None) != origin:
        done = {}
    for (name, value), seed in product(((n, v) for n, of in values.items() for v in of), range(args.seeds)):
        key = f"{name} {value:g} {seed}"
        if key not in done:
            options = {**args.options, name: value, "batch_size": args.batch_size}
            maps, _ = run_method(pipeline, sick.images, seed, label=f"{CURVES[name]} = {value:g}", **options)
            done[key] = {"dice": choose_threshold(maps, sick).dice, "best_dice": best_dice(maps, sick.masks)}
            text = json.dumps({"origin": origin, **done}, indent=2)
            write_whole(file, lambda path, text=text: path.write_text(text))
    return {
        name: {value: [done[f"{name} {value:g} {seed}"] for seed in range(args.seeds)] for value in of}
        for name, of in values.items()
    }


def draw(curves: dict, where: str, path: Path) -> None:
    """A panel for each curve: mean Dice over the seeds, and its ceiling; `where` they were measured."""
    figure = new_figure(4.2 * len(curves), 3.2)
    for number, (name, curve) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), number)
        for measure, style in (("dice", "o-"), ("best_dice", "s--")):
            means = [sum(run[measure] for run in runs) / len(runs) for runs in curve.values()]
            axes.plot(list(curve), means, style, label=measure.replace("_", "-possible ").replace("dice", "Dice"))
        axes.set_xlabel(CURVES[name])
        axes.set_ylabel(f"Dice ({where})")
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


if __name__ == "__main__":
    run_script(main)
