"""Synthetic subjects in the folders of a real data set and, with --prepare, on to Parquet shards in one go.

python datasets_scripts/make_phantom.py data/phantom --layout brats2021 --subjects 20 --prepare data/phantom_slices
python datasets_scripts/make_phantom.py data/hospital --layout ist3 --subjects 100 --prepare data/ist3 --config volumes

The layout "ist3" is a hospital's disk of DICOM series, which goes through `difffuse preprocess` (OUT/preprocessed)
first. `--opacity LOW HIGH` makes the lungs of the layout "mosmed" harder to judge: each study's opacities have a share
of their own density between the two; a folder holds one kind. The builders run with their defaults; the prepare_*.py
scripts have the options. A run that was interrupted is continued by repeating it.
"""

import argparse
import sys
from pathlib import Path

from rich.progress import track

from difffuse_hf import BrainPhantom
from difffuse_hf.cli.main import main as difffuse
from difffuse_hf.cli.options import Layout
from difffuse_hf.cli.prepare import Split
from difffuse_hf.cli.scripts import prepare_script


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the subjects")
    parser.add_argument("--layout", choices=[layout.value for layout in Layout], default="brats2021")
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="same seed, same subjects")
    parser.add_argument("--anatomies", type=Path, help="folder of label maps (FreeSurfer numbers); ICBM152 by default")
    parser.add_argument("--opacity", type=float, nargs=2, metavar=("LOW", "HIGH"), help="mosmed: above 0 and up to 1")
    parser.add_argument("--prepare", type=Path, metavar="DIR", help="folder for the Parquet shards")
    parser.add_argument("--config", choices=["volumes", "slices"], default="slices")
    parser.add_argument("--image_size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the prepared images")
    parser.add_argument("--split", choices=[split.value for split in Split], help="put every subject into this split")
    parser.add_argument("--split_seed", type=int, help="of the division 70-15-15 by patient")
    parser.add_argument("--workers", type=int, help="processes; one by default")
    parser.add_argument("--num_proc", type=int, dest="workers", help=argparse.SUPPRESS)  # its old name
    parser.add_argument("--push_to_hub", metavar="USER/NAME", help="upload the folder to this data set on the Hub")
    parser.add_argument("--public", action="store_true", help="everybody may read it there")
    args = parser.parse_args(argv)

    def options(*names: str) -> list[str]:
        """Those of our options that are given, as the command line takes them."""
        given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        words = ([value] if not isinstance(value, list) else value for value in given.values())
        return [part for name, value in zip(given, words) for part in (f"--{name}", *map(str, value))]

    raw = str(args.out)
    if args.opacity and args.layout != "mosmed":
        parser.error("--opacity is for --layout mosmed")
    if args.opacity:
        cohort, code = BrainPhantom("mosmed", seed=args.seed, opacity=tuple(args.opacity)), 0
        for _ in track(cohort.write(args.out, args.subjects), "Drawing subjects", total=args.subjects):
            pass
    else:
        code = difffuse(["phantom", raw, *options("layout", "subjects", "seed", "anatomies")])
    if code or args.prepare is None:
        return code
    size = options("image_size")
    if args.layout == "ist3":  # a hospital's disk of DICOM series
        disk, raw = args.out / "dicom", str(args.out / "preprocessed")
        canvas, workers = [part.replace("_", "-") for part in size], str(args.workers or 1)
        code = difffuse(["preprocess", str(disk), raw, "--linkage", "--workers", workers, *canvas])
        if code:
            return code
        size = [] if args.config == "volumes" else size  # those have the scans' own size
    others = options("config", "split", "split_seed", "workers", "push_to_hub")
    return prepare_script(
        args.layout, [raw, str(args.prepare), *others, *size, *(["--public"] if args.public else [])]
    )


if __name__ == "__main__":
    sys.exit(main())
