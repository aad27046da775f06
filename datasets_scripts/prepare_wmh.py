"""The WMH challenge, real or synthetic, to axial slices in Parquet shards, beside the preprocessing that made them.

python datasets_scripts/prepare_wmh.py data/dataverse_files data/wmh_slices --brain_mask pre/brain_mask.nii.gz
python datasets_scripts/prepare_wmh.py data/phantom data/phantom_slices --image_size 96 --pixel_spacing_mm 2 \
    --slice_margin 0 --min_foreground 0.1 --division patient

The official training cases become the split train, the test cases test; `--division patient` deals all of them
70-15-15. The output folder is what `--dataset` of the training scripts takes.

The same as `difffuse prepare wmh`, whose `--help` lists the options.
"""

import sys

from difffuse_hf.cli.scripts import prepare_script


def main(argv: list[str] | None = None) -> int:
    return prepare_script("wmh", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
