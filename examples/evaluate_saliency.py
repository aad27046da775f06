"""Where do saliency maps point? Pointing game, energy inside the lesion, precision and recall (thesis Ch. 5).

python examples/evaluate_saliency.py --output_dir out/saliency \\
    --run out/classifier-0 out/autoencoder-0 data/ist3-0 --run out/classifier-1 out/autoencoder-1 data/ist3-1 \\
    --acat out/acat-0 data/ist3-0_saliency --acat out/acat-1 data/ist3-1_saliency \\
    --options '{"rise": {"num_masks": 500}}' --randomise 4

A run is a seed: a classifier, an autoencoder and the data set whose test split is looked at. Every scan with a lesion
counts once: by its drawn lesion (`mask`), and with `--atlas` also by the territory that its reader named. `--acat`
gives each run the model trained on the maps in a folder: ACAT as its own classifier, the second round. `--randomise`
asks how like its map the map of a network with random weights is, on so many scans of the first run; `--noise_std`
how the variance of the pre-activations grows when noise is added to those scans: 1 in Table 5.6, with an ACAT that was
trained from scratch on the first run's maps (`--noise_model`). Of `--atlas jhu` the territories of MCA, ACA and PCA
on either side count, as in Sec. 5.6.5.
"""

import argparse
import json
from pathlib import Path

import torch

from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.saliency_runs import (
    SaliencyRun,
    SaliencySettings,
    noise_variances,
    randomised_maps,
    score_run,
)
from difffuse_hf.io.files import own_folder
from difffuse_hf.reporting.saliency_tables import draw_saliency, lesion_tables, likeness_table, variance_table
from difffuse_hf.reporting.tables import about_data, write_tables
from difffuse_hf.saliency.methods import METHODS


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with own_folder(args.output_dir):
        evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    common = ("split", "limit", "atlas", "methods", "options", "target", "tolerance", "seed", "device")
    settings = SaliencySettings(**{name: getattr(args, name) for name in common})
    runs = [SaliencyRun(*run, *acat) for run, acat in zip(args.run, args.acat or [[]] * len(args.run))]
    first = score_run(runs[0], settings, "run 1", args.figure_scans)
    measures, keys = [first.measures], [[scan.key for scan in first.scans]]
    for number, run in enumerate(runs[1:], start=2):
        scored = score_run(run, settings, f"run {number}")
        measures.append(scored.measures)
        keys.append([scan.key for scan in scored.scans])

    synthetic = any(is_synthetic(run.dataset) for run in runs)
    tables = lesion_tables(measures, about_data(args.split, synthetic))
    data = {"synthetic": synthetic, "arguments": vars(args), "scans": keys, "runs": measures}
    if args.randomise:
        scans = first.scans[: args.randomise]
        data["randomised"] = randomised_maps(first.explainers, scans, args.randomise_steps, args.device)
        tables.append(likeness_table(data["randomised"], args.randomise_steps))
    if args.noise_std is not None:
        scans = first.scans[: args.randomise or 4]
        data["variances"] = noise_variances(first.explainers, scans, args.noise_std, args.device, args.noise_model)
        tables.append(variance_table(data["variances"], args.noise_std))
    output = Path(args.output_dir)
    write_tables(tables, data, output, "saliency")
    if first.maps:
        draw_saliency(first.scans, first.maps, output / "saliency.png")
    print(tables[0].markdown())
    print(f"All tables: {output / 'saliency.md'}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", nargs=3, action="append", required=True, metavar=("CLASSIFIER", "AUTOENCODER", "DATASET")
    )
    parser.add_argument("--acat", nargs=2, action="append", default=[], metavar=("MODEL", "SALIENCY"),
                        help="one for each run, in the same order")  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=f"of {', '.join(METHODS)}; all by default")  # fmt: skip
    parser.add_argument("--options", type=json.loads, default={}, help="of the methods, JSON: {method: {name: value}}")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="scans of each run, evenly spaced; all by default")
    parser.add_argument("--target", choices=["label", "predicted"], default="label", help="class that is explained")
    parser.add_argument("--tolerance", type=float, default=0.0, help="pixels by which the maximum may miss")
    parser.add_argument("--atlas", help='NIfTI label map in MNI space, or "jhu" for the one in the package rapidtide')
    parser.add_argument("--randomise", type=int, default=0, metavar="SCANS", help="for the sanity checks; 0: none")
    parser.add_argument("--randomise_steps", type=int, default=8, help="groups of layers")
    parser.add_argument("--noise_std", type=float, help="of the noise, for the variances of pre-activations")
    parser.add_argument("--noise_model", help="ACAT for these variances; that of the first --acat by default")
    parser.add_argument("--figure_scans", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the methods that draw at random, for every scan")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.acat and len(args.acat) != len(args.run):
        parser.error(f"--acat is given once for each --run, got {len(args.acat)} for {len(args.run)} runs")
    unknown = [name for name in args.options if name not in METHODS]
    if unknown:
        parser.error(f"--options names {unknown[0]}; the methods are {', '.join(METHODS)}")
    return args


if __name__ == "__main__":
    run_script(main)
