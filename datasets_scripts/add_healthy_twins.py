"""Synthetic slices with a column more: each slice with a lesion as it was before the lesion was painted in.

python datasets_scripts/add_healthy_twins.py data/slices data/phantom data/twins --layout brats2021

data/slices was made of data/phantom by `difffuse prepare`; data/twins is a copy with the column `healthy`, against
which `evaluate_anomaly.py` measures counterfactuals. A subject takes some seconds.
"""

import argparse
from pathlib import Path

from difffuse_hf.data.healthy_twins import LAYOUTS, add_healthy_twins
from difffuse_hf.data.splits import SPLITS
from difffuse_hf.errors import run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slices", type=Path, help="folder of Parquet shards")
    parser.add_argument("raw", type=Path, help="folder that difffuse phantom has written, of which they were made")
    parser.add_argument("output", type=Path, help="folder for the copy")
    parser.add_argument("--layout", choices=list(LAYOUTS), required=True, help="of the phantom")
    parser.add_argument("--anatomies", type=Path, help="that it was drawn on; ICBM152 by default")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["test"], help="that get twins")
    parser.add_argument("--brain_mask", help="wmh: as for difffuse prepare")
    args = parser.parse_args(argv)
    options = {} if args.brain_mask is None else {"brain_mask": args.brain_mask}
    count = add_healthy_twins(args.slices, args.raw, args.output, args.layout, args.anatomies, args.splits, **options)
    print(f"{count} slices with a healthy twin in {args.output}.")


if __name__ == "__main__":
    run_script(main)
