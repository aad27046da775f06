"""MosMedData, real or synthetic, to 11 slices a study in Parquet shards.

python datasets_scripts/prepare_mosmed.py data/COVID19_1110 data/mosmed
python datasets_scripts/prepare_mosmed.py data/mosmed_phantom data/mosmed_slices --config slices --ct1 lesion

"volumes" (the classifiers' input) has a row per study, "slices" (the diffusion model's) one per slice with the label
of its study, "nifti" the files. Splits are by patient (70-15-15). The output folder is what `--dataset` of the
training scripts takes. The licence of MosMedData (CC BY-NC-ND 3.0) does not allow to pass on what is made from it:
keep it private.
"""

import argparse
from pathlib import Path

from difffuse_hf.data.mosmed import MosMed
from difffuse_hf.data.prepare import add_arguments, prepare
from difffuse_hf.errors import run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", help="the folder COVID19_1110, or one that BrainPhantom wrote")
    parser.add_argument("output", type=Path, help="folder for the Parquet shards")
    parser.add_argument("--config", choices=["volumes", "slices", "nifti"], default="volumes")
    parser.add_argument("--num_slices", type=int, default=11, help="of a study, uniformly sampled (thesis: 11)")
    parser.add_argument("--image_size", type=int, default=128, help="pixels on a side (thesis: 128)")
    parser.add_argument("--window_hu", type=float, nargs=2, default=(-1000.0, 400.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--ct1", choices=["left out", "healthy", "lesion"], default="left out", help="what CT-1 is")
    add_arguments(parser)
    args = parser.parse_args(argv)

    builder = MosMed(
        args.config,
        data_dir=args.data_dir,
        num_slices=args.num_slices,
        image_size=(args.image_size, args.image_size),
        window_hu=tuple(args.window_hu),
        ct1=args.ct1,
        split=args.split,
        split_seed=args.split_seed,
    )
    prepare(builder, args.output, args.num_proc, args.push_to_hub, args.private)


if __name__ == "__main__":
    run_script(main)
