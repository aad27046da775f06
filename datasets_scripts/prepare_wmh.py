"""The WMH challenge, real or synthetic, to axial slices in Parquet shards, beside the preprocessing that made them.

python datasets_scripts/prepare_wmh.py data/dataverse_files data/wmh_slices --brain_mask pre/brain_mask.nii.gz
python datasets_scripts/prepare_wmh.py data/phantom data/phantom_slices --image_size 96 --pixel_spacing_mm 2 \
    --slice_margin 0 --min_foreground 0.1 --division patient

The official training cases become the split train, the test cases test; `--division patient` deals all of them
70-15-15. The output folder is what `--dataset` of the training scripts takes.
"""

import argparse
from pathlib import Path

from difffuse_hf import WMH
from difffuse_hf.data.prepare import add_arguments, prepare
from difffuse_hf.errors import run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", help="folder that holds training/ and test/")
    parser.add_argument("output", type=Path, help="folder for the Parquet shards and preprocessor_config.json")
    parser.add_argument("--division", choices=["official", "patient"], default="official")
    parser.add_argument(
        "--brain_mask",
        default="template",
        help='"template", "none" (skull-stripped already), or a mask file in every case folder (recommended)',
    )
    parser.add_argument("--image_size", type=int, default=256, help="pixels on a side (thesis: 256)")
    parser.add_argument("--pixel_spacing_mm", type=float, default=1.0)
    parser.add_argument("--slice_margin", type=int, default=25, help="slices dropped at each end, of 155 (thesis: 25)")
    parser.add_argument("--min_foreground", type=float, default=0.02, help="least brain in a slice, as a fraction")
    add_arguments(parser)
    args = parser.parse_args(argv)

    builder = WMH(
        "slices",
        data_dir=args.data_dir,
        division=args.division,
        brain_mask=args.brain_mask,
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
