"""IST-3, real or synthetic, to labelled scans or slices in Parquet shards.

difffuse preprocess DICOM_DIR data/ist3/preprocessed --linkage
python datasets_scripts/prepare_ist3.py data/ist3/preprocessed data/ist3_volumes --labels data/ist3/reads.csv \
    --columns lesion=side time=scan_type --values lesion:0=none lesion:1=left lesion:2=right lesion:3=both
python datasets_scripts/prepare_ist3.py data/ist3/preprocessed data/ist3_slices --config slices

The columns that a table of labels may have are listed in `difffuse_hf/data/ist3_labels.py`. Splits are by patient
(70-15-15), or by the column `group` of a phantom's `subjects.csv`.
"""

import argparse
from collections import defaultdict
from pathlib import Path

from difffuse_hf.data.ist3 import IST3
from difffuse_hf.data.prepare import add_arguments, prepare
from difffuse_hf.errors import run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", help="output folder of `difffuse preprocess`")
    parser.add_argument("output", type=Path, help="folder for the Parquet shards")
    parser.add_argument("--config", choices=["volumes", "slices"], default="volumes")
    parser.add_argument("--labels", help="CSV or TSV; labels.csv in data_dir or above it by default")
    parser.add_argument("--masks", help="folder of <study_uid or scan_id>.nii.gz; for a phantom, truth/")
    parser.add_argument("--key", help="scan_id, series_uid, study_uid or patient_id; the first that the table has")
    parser.add_argument("--columns", nargs="*", default=[], metavar="OURS=THEIRS", help="names in the table")
    parser.add_argument("--values", nargs="*", default=[], metavar="OURS:THEIRS=OURS", help="values in the table")
    parser.add_argument("--midline", choices=["centre", "template"], default="centre")
    parser.add_argument("--image_size", type=int, nargs=2, default=[256, 256], metavar=("HEIGHT", "WIDTH"),
                        help="of slices (thesis: 256 256 for diffusion, 500 400 for classifiers)")  # fmt: skip
    add_arguments(parser)
    args = parser.parse_args(argv)

    try:
        columns = dict(entry.split("=", 1) for entry in args.columns)
        values = defaultdict(dict)
        for entry in args.values:
            name, word = entry.split(":", 1)
            theirs, ours = word.rsplit("=", 1)
            values[name][theirs] = ours
    except ValueError:
        parser.error("--columns takes lesion=side and the like, --values lesion:1=left and the like")
    builder = IST3(
        args.config,
        data_dir=args.data_dir,
        labels=args.labels,
        masks=args.masks,
        key=args.key,
        columns=columns,
        values=dict(values),
        midline=args.midline,
        image_size=tuple(args.image_size),
        split=args.split,
        split_seed=args.split_seed,
    )
    prepare(builder, args.output, args.num_proc, args.push_to_hub, args.private)


if __name__ == "__main__":
    run_script(main)
