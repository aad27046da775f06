"""IST-3, real or synthetic, to labelled scans or slices in Parquet shards.

difffuse preprocess DICOM_DIR data/ist3/preprocessed --linkage
python datasets_scripts/prepare_ist3.py data/ist3/preprocessed data/ist3_volumes --labels data/ist3/reads.csv \
    --columns lesion=side time=scan_type --values lesion:0=none lesion:1=left lesion:2=right lesion:3=both
python datasets_scripts/prepare_ist3.py data/ist3/preprocessed data/ist3_slices --config slices

The columns that a table of labels may have are listed in `difffuse_hf/data/ist3_labels.py`. Splits are by patient
(70-15-15), or by the column `group` of a phantom's `subjects.csv`.

The same as `difffuse prepare ist3`, whose `--help` lists the options.
"""

import sys

from difffuse_hf.cli.scripts import prepare_script


def main(argv: list[str] | None = None) -> int:
    return prepare_script("ist3", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
