"""MosMedData, real or synthetic, to 11 slices a study in Parquet shards.

python datasets_scripts/prepare_mosmed.py data/COVID19_1110 data/mosmed
python datasets_scripts/prepare_mosmed.py data/mosmed_phantom data/mosmed_slices --config slices --ct1 lesion

"volumes" (the classifiers' input) has a row per study, "slices" (the diffusion model's) one per slice with the label
of its study, "nifti" the files. Splits are by patient (70-15-15). The output folder is what `--dataset` of the
training scripts takes. The licence of MosMedData (CC BY-NC-ND 3.0) does not allow to pass on what is made from it:
keep it private.

The same as `difffuse prepare mosmed`, whose `--help` lists the options.
"""

import sys

from difffuse_hf.cli.scripts import prepare_script


def main(argv: list[str] | None = None) -> int:
    return prepare_script("mosmed", sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
