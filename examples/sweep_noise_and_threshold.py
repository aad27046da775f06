"""Dice of a Dif-fuse model for every noise level K with every percentile of its mask (thesis Fig. 6.6), slices at K of
250, 500 and 750 (Fig. 6.7), and curves of K, percentile and the number of samples (beyond the thesis).

python examples/sweep_noise_and_threshold.py --model out/difffuse --dataset data/brats_slices --output_dir out/sweep

On the validation split: this is how K and τ are chosen, and a test split chooses nothing. Each curve varies one of the
three and leaves the others as the model has them; at every point the anomaly threshold is the best one there. Points
that are there already are kept: repeat the command after an interrupt. `--curves_only` leaves the grid out.
"""

import argparse
import json
from pathlib import Path

import torch

from difffuse_hf import DifFusePipeline
from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.data.slices import load_slices
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.evaluation.anomaly import as_slices
from difffuse_hf.evaluation.sweep import Sweep
from difffuse_hf.pipelines.auto import load_pipeline
from difffuse_hf.reporting.anomaly_tables import write_sweep_tables
from difffuse_hf.reporting.figures import methods_figure

NOISE_LEVELS, PICTURES = (100, 200, 300, 400, 500, 600, 700, 800), (250, 500, 750)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "dataset", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--noise_levels", type=int, nargs="*",
                        help="100 to 800 by default, or up to where the U-Net was trained")  # fmt: skip
    parser.add_argument("--percentiles", type=float, nargs="*", default=[70, 80, 85, 90, 95, 98])
    parser.add_argument("--num_samples", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--pictures", type=int, nargs="*", help="noise levels to draw; 250, 500, 750 by default")
    parser.add_argument("--curves_only", action="store_true", help="no grid of K and τ, which is most of the work")
    parser.add_argument("--options", type=json.loads, default={}, help="further arguments of the pipeline, as JSON")
    parser.add_argument("--limit", type=int, help="validation slices with a lesion; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="of the sampling")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)

    pipeline = load_pipeline(args.model, args.device)
    if not isinstance(pipeline, DifFusePipeline):
        raise InputError(f"{args.model} is a {type(pipeline).__name__}; the sweep is of a DifFusePipeline.")
    args.noise_levels, args.pictures = (
        [one for one in usual if one <= pipeline.scheduler.highest_level] if given is None else given
        for given, usual in ((args.noise_levels, NOISE_LEVELS), (args.pictures, PICTURES))
    )
    for level in (*args.noise_levels, *args.pictures):
        pipeline.scheduler.levels_from(level)  # one that it does not have is named before hours of work
    sick = as_slices(load_slices(args.dataset, "validation"), "validation", args.limit).with_drawn_lesion()
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    settings = {"noise_level": args.noise_levels, "percentile": args.percentiles, "num_samples": args.num_samples}
    origin = {name: getattr(args, name) for name in ("model", "dataset", "options", "limit")}
    how = (args.seeds, args.batch_size, args.options)
    sweep = Sweep(pipeline, sick, output / "points.json", origin, *how)
    curves = sweep.curves(settings)
    grid = {} if args.curves_only else sweep.grid(args.noise_levels, args.percentiles)
    where = "validation, synthetic data" if is_synthetic(args.dataset) else "validation"
    tables = write_sweep_tables(curves, grid, where, len(sick.images), output)
    if args.pictures:
        methods_figure(sweep.pictures(args.pictures), f"Split {where}", output / "sweep_slices.png")
    print("\n".join(table.markdown() for table in tables))


if __name__ == "__main__":
    run_script(main)
