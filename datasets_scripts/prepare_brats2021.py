"""BraTS 2021, real or synthetic, to axial slices in Parquet shards, beside the preprocessing that made them.

python datasets_scripts/prepare_brats2021.py data/BraTS2021_TrainingData data/brats_slices
python datasets_scripts/prepare_brats2021.py data/phantom data/phantom_slices --image_size 96 --pixel_spacing_mm 2 \
    --slice_margin 0 --min_foreground 0.1

Splits are by patient (70-15-15), or by the column `group` of `subjects.csv`. Folders that are separated already are
added one at a time with `--split`. The output folder is what `--dataset` of the training scripts takes.

The same as `difffuse prepare brats2021`, whose `--help` lists the options.
"""

import sys

from difffuse_hf.cli.scripts import prepare_script


def main(argv: list[str] | None = None) -> int:
    return prepare_script("brats2021", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
