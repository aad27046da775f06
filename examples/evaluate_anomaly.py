"""Score Dif-fuse, its ablations and its competitors on slices with drawn lesions (thesis Table 6.1).

python examples/evaluate_anomaly.py --output_dir out/anomaly --cohort brats \\
    --method Dif-fuse out/difffuse-0 data/slices-0 --method Dif-fuse out/difffuse-1 data/slices-1 \\
    --method DDIM-DDPM out/unmasked-0 data/slices-0 '{"noise_level": 350}'

The same NAME again is another seed of the same method; the last argument are options of the pipeline's call. Every
threshold is the best on the run's validation split; the test split chooses nothing. `--out_of_domain` scores the same
models with the same thresholds on a data set that they have never seen. `--classifier`, one for each seed and trained
on its data, judges whether counterfactuals pass as healthy, and its features make a kernel distance to healthy slices
(`--inception` takes Inception's instead); without it each model's own does. Rows that fail an admission test on
validation slices are not judged; differences to the row "Dif-fuse" (`--reference` takes others) have a table of their
own. With `--group_by data/phantom/test kind`, a cohort's folder (or its `subjects.csv`) and a column, each kind of
lesion has its own figures.
What is finished is kept: after an interrupt, repeat the command.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console

from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.anomaly_runs import AnomalyRun, AnomalySettings, assembled_methods, score_runs
from difffuse_hf.evaluation.paired import REFERENCE
from difffuse_hf.io.files import own_folder
from difffuse_hf.io.subjects import read_subjects
from difffuse_hf.reporting.anomaly_groups import Groups
from difffuse_hf.reporting.anomaly_tables import write_anomaly_tables
from difffuse_hf.reporting.thesis import ANOMALY_COHORTS


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    output = Path(args.output_dir)
    methods: dict[str, list[AnomalyRun]] = {}
    runs = [(name, AnomalyRun(*run)) for name, *run in args.method]
    for name, run in [*runs, *(one for pair in args.all for one in assembled_methods(*pair))]:
        methods.setdefault(name, []).append(run)
    common = "out_of_domain classifiers inception limit limit_healthy seed batch_size device channels dtype"
    settings = AnomalySettings(**{name: getattr(args, name) for name in common.split()})
    groups = Groups(args.group_by[1], read_subjects(*args.group_by)) if args.group_by else None
    with own_folder(output):
        scored = score_runs(methods, output / "runs", settings, args.overwrite)
        datasets = [run.dataset for runs in methods.values() for run in runs]
        about = (args.cohort, args.out_of_domain_cohort, args.reference, groups)
        tables = write_anomaly_tables(scored, settings, output, datasets, *about)
    Console().print(tables[0].markdown())
    print(f"All tables: {output / 'anomaly.md'}; slices and their counterfactuals: anomaly*.png beside it")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", action="append", default=[], metavar="VALUE",
                        help="NAME MODEL DATASET [OPTIONS]; again for a seed or a method more")  # fmt: skip
    parser.add_argument("--all", nargs=2, action="append", default=[], metavar=("METHODS", "DATASET"),
                        help="every method in a folder of assemble_competitors.py; again for a seed")  # fmt: skip
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--cohort", choices=ANOMALY_COHORTS, help="print the thesis's figures for it beside ours")
    parser.add_argument("--out_of_domain", nargs="*", default=[], metavar="DATASET",
                        help="data sets whose test splits are scored as well")  # fmt: skip
    parser.add_argument("--out_of_domain_cohort", choices=ANOMALY_COHORTS, help="as --cohort, for these tables")
    parser.add_argument("--classifier", nargs="*", default=[], dest="classifiers",
                        help="that judges the counterfactuals: of each seed, in their order")  # fmt: skip
    parser.add_argument("--inception", action="store_true", help="KID over Inception's features, fetched if missing")
    parser.add_argument("--reference", nargs="*", default=[REFERENCE], metavar="NAME",
                        help="rows that all others are compared with, slice by slice")  # fmt: skip
    parser.add_argument("--group_by", nargs=2, metavar=("TABLE", "COLUMN"),
                        help="column of a cohort's subjects.csv: figures of each of its values")  # fmt: skip
    parser.add_argument("--limit", type=int, help="slices of each class and split; all by default")
    parser.add_argument("--limit_healthy", type=int, help="of the healthy ones, if not as many")
    parser.add_argument("--channels", type=int, nargs="*",
                        help="as if only these modalities had been acquired: the other channels are 0")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the sampling; a run's number is added")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "auto"], default="float32",
                        help="of the U-Net; auto: the fastest that the device has, as `difffuse detect`")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="score again what is there already")
    args = parser.parse_args(argv)
    for values in args.method:
        if len(values) not in (3, 4):
            parser.error(f"--method takes NAME MODEL DATASET [OPTIONS], got {' '.join(values)}")
    if not args.method and not args.all:
        parser.error("give a --method or --all")
    return args


if __name__ == "__main__":
    run_script(main)
