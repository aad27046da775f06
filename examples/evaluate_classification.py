"""Score classifiers on a test split: the tables of chapters 4 and 5 that are about classification.

python examples/evaluate_classification.py --output_dir out/classification --cohort ist3 \\
    --method baseline out/classifier-0 data/ist3-0 --method baseline out/classifier-1 data/ist3-1 \\
    --method ACAT out/acat-0 data/ist3-0 data/ist3-0_saliency --method ACAT out/acat-1 data/ist3-1 data/ist3-1_saliency

The same NAME again is another seed of the same method; the other methods are compared with the first, seed by seed.
The decision is the model's own, of the half-brain CNN presence first and then side (Sec. 4.4); with `--soft_decision`
it is the class of highest probability. The test split chooses nothing. `--readers` is a CSV with the columns `key` and
one for each reader, for Krippendorff's alpha of every two (Table 4.4) and with and without the model (Table 4.5).
`--curve` gives accuracy against the number of training scans (Sec. 5.6.4), with models that were trained on N scans.
"""

import argparse
from pathlib import Path

import torch

from difffuse_hf.data.cards import is_synthetic
from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.predictions import ClassifierRun, predict_runs
from difffuse_hf.io.files import own_folder
from difffuse_hf.reporting.classification_tables import common_classes, curve_tables, method_tables, reader_tables
from difffuse_hf.reporting.tables import about_data, write_tables
from difffuse_hf.reporting.thesis import CLASSIFICATION_COHORTS


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with own_folder(args.output_dir):
        evaluate(args)


def evaluate(args: argparse.Namespace) -> None:
    output = Path(args.output_dir)
    methods: dict[str, list[ClassifierRun]] = {}
    curves: dict[tuple[str, int], list[ClassifierRun]] = {}
    for name, *run in args.method:
        methods.setdefault(name, []).append(ClassifierRun(*run))
    for name, size, *run in args.curve:
        curves.setdefault((name, int(size)), []).append(ClassifierRun(*run))

    how = (output, args.split, args.batch_size, args.device, args.overwrite, args.soft_decision)
    predictions = predict_runs(methods, *how)
    on_curve = predict_runs({f"{name}-{size}-scans": runs for (name, size), runs in curves.items()}, *how)
    classes = common_classes([table for seeds in [*predictions.values(), *on_curve.values()] for table in seeds])
    synthetic = any(is_synthetic(run.dataset) for runs in [*methods.values(), *curves.values()] for run in runs)
    where, bootstrap = about_data(args.split, synthetic), {"num_bootstrap": args.bootstrap, "seed": args.seed}

    parts = []
    if methods:
        parts.append(method_tables(methods, predictions, where, output, args.cohort, **bootstrap))
    if args.readers:
        parts.append(reader_tables(args.readers, predictions, where, **bootstrap))
    if curves:
        parts.append(curve_tables(dict(zip(curves, on_curve.values())), where, output, **bootstrap))
    data = {"split": args.split, "synthetic": synthetic, "bootstrap": args.bootstrap, "classes": classes}
    for _, more in parts:
        data |= more
    tables = [table for some, _ in parts for table in some]
    write_tables(tables, data, output, "classification")
    print(tables[0].markdown())
    print(f"All tables: {output / 'classification.md'}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = {"nargs": "+", "action": "append", "default": [], "metavar": "VALUE"}
    parser.add_argument("--method", **several, help="NAME MODEL DATASET [SALIENCY]; again for a seed or a method more")
    parser.add_argument(
        "--curve", **several, help="NAME N MODEL DATASET [SALIENCY], trained on N scans; again as above"
    )
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--readers", help="CSV with the column `key` and one for each reader")
    parser.add_argument("--cohort", choices=CLASSIFICATION_COHORTS, help="print the thesis's figures beside ours")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--overwrite", action="store_true", help="predict again where predictions are there already")
    parser.add_argument(
        "--soft_decision", action="store_true", help="the class of highest probability, of every model"
    )
    parser.add_argument("--bootstrap", type=int, default=1000, help="samples of the patients; 0 for no intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_args(argv)
    for values in args.method:
        if len(values) not in (3, 4):
            parser.error(f"--method takes NAME MODEL DATASET [SALIENCY], got {' '.join(values)}")
    for values in args.curve:
        if len(values) not in (4, 5) or not values[1].isdigit():
            usage = "--curve takes NAME N MODEL DATASET [SALIENCY] with a whole number N"
            parser.error(f"{usage}, got {' '.join(values)}")
    if not args.method and (args.readers or not args.curve):
        parser.error("give a --method to compare the readers with" if args.readers else "give a --method or a --curve")
    return args


if __name__ == "__main__":
    run_script(main)
