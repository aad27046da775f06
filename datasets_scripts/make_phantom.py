"""Synthetic subjects in the folders of a real data set and, with --prepare, on to Parquet shards in one go.

python datasets_scripts/make_phantom.py data/phantom --layout brats2021 --subjects 20 --prepare data/phantom_slices
python datasets_scripts/make_phantom.py data/hospital --layout ist3 --subjects 100 --prepare data/ist3 --config volumes

The layout "ist3" is a hospital's disk of DICOM series, which goes through `difffuse preprocess` (OUT/preprocessed)
first. The builders run with their defaults; the prepare_*.py scripts have the options. A run that was interrupted is
continued by repeating it.
"""

import argparse
from importlib import import_module
from pathlib import Path

from difffuse_hf import BrainPhantom
from difffuse_hf.data.prepare import add_arguments, prepare
from difffuse_hf.errors import run_script

BUILDERS = {"brats2021": "BraTS2021", "wmh": "WMH", "ist3": "IST3", "mosmed": "MosMed"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the subjects")
    parser.add_argument("--layout", choices=BUILDERS, default="brats2021")
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="same seed, same subjects")
    parser.add_argument("--anatomies", type=Path, help="folder of label maps (FreeSurfer numbers); ICBM152 by default")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="folder for the Parquet shards")
    parser.add_argument("--config", choices=["volumes", "slices"], default="slices")
    parser.add_argument("--image_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the prepared images")
    add_arguments(parser)
    args = parser.parse_args(argv)

    phantom = BrainPhantom(layout=args.layout, anatomies=args.anatomies, seed=args.seed)
    for number, path in enumerate(phantom.write(args.out, args.subjects), start=1):
        print(f"{number}/{args.subjects} {path}", flush=True)
    if args.prepare is None:
        return
    data_dir = args.out
    if args.layout == "ist3":
        from difffuse_hf.preprocessing.ct import preprocess_ct
        from difffuse_hf.preprocessing.steps import CTPreprocessConfig

        data_dir = args.out / "preprocessed"
        settings = CTPreprocessConfig(**({"image_size": tuple(args.image_size)} if args.image_size else {}))
        preprocess_ct(args.out / "dicom", data_dir, settings, workers=args.num_proc or 1, linkage=True)
    builder = getattr(import_module(f"difffuse_hf.data.{args.layout}"), BUILDERS[args.layout])
    options = {"data_dir": data_dir, "split": args.split, "split_seed": args.split_seed}
    if args.image_size and not (args.layout == "ist3" and args.config == "volumes"):  # those have the scans' own size
        options["image_size"] = tuple(args.image_size)
    prepare(builder(args.config, **options), args.prepare, args.num_proc, args.push_to_hub, args.private)


if __name__ == "__main__":
    run_script(main)
