"""BraTS 2021, real or synthetic, to axial slices in Parquet shards, beside the preprocessing that made them.

python datasets_scripts/prepare_brats2021.py data/BraTS2021_TrainingData data/brats_slices
python datasets_scripts/prepare_brats2021.py data/phantom data/phantom_slices --image_size 96 --pixel_spacing_mm 2 \
    --slice_margin 0 --min_foreground 0.1

Splits are by patient (70-15-15), or by the column `group` of `subjects.csv`. Folders that are separated already are
added one at a time with `--split`. The output folder is what `--dataset` of the training scripts takes.
"""

import argparse
from pathlib import Path

from difffuse_hf import BraTS2021
from difffuse_hf.data.brats2021 import MODALITIES
from difffuse_hf.data.prepare import add_arguments, prepare
from difffuse_hf.errors import run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", help="folder of BraTS cases")
    parser.add_argument("output", type=Path, help="folder for the Parquet shards and preprocessor_config.json")
    parser.add_argument("--modalities", nargs="+", default=list(MODALITIES), help="channels, in this order")
    parser.add_argument("--image_size", type=int, default=256, help="pixels on a side (thesis: 256)")
    parser.add_argument("--pixel_spacing_mm", type=float, default=1.0)
    parser.add_argument("--slice_margin", type=int, default=25, help="slices dropped at each end (thesis: 25)")
    parser.add_argument("--min_foreground", type=float, default=0.02, help="least brain in a slice, as a fraction")
    add_arguments(parser)
    args = parser.parse_args(argv)

    builder = BraTS2021(
        "slices",
        data_dir=args.data_dir,
        modalities=tuple(args.modalities),
        image_size=(args.image_size, args.image_size),
        pixel_spacing_mm=args.pixel_spacing_mm,
        slice_margin=args.slice_margin,
        min_foreground=args.min_foreground,
        split=args.split,
        split_seed=args.split_seed,
    )
    prepare(builder, args.output, args.num_proc, args.push_to_hub, args.private)


if __name__ == "__main__":
    run_script(main)
