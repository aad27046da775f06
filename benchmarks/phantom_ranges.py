"""Do real scans look like what the phantom draws? Tissue contrasts of real MR against those of a synthetic cohort.

python benchmarks/phantom_ranges.py --synthetic data/phantom/train --real BraTS2021_96692 MS_26

Of each scan the brain outside the drawn lesions is parted into three tissues by a Gaussian mixture on T1 (dark,
middle, bright: fluid, grey and white matter). Their mean in each modality, over the median of the brain, is inside
where it lies between the 1st and the 99th percentile of the synthetic scans, which are measured in the same way. It is
for looking: ranges of the phantom are not to be chosen by scans that results are reported on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.mixture import GaussianMixture

from difffuse_hf.errors import InputError, run_script
from difffuse_hf.io.case import Case, read_case
from difffuse_hf.reporting.tables import Table

MODALITIES = ("flair", "t1", "t1ce", "t2")
TISSUES = ("dark on T1", "middle", "bright")
SHARES = (1, 99)  # percentiles of the synthetic scans
VOXELS = 20_000  # of a scan


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", type=Path, required=True, help="folder of a cohort in the BraTS 2021 layout")
    parser.add_argument("--real", type=Path, nargs="+", required=True, help="case folders")
    parser.add_argument("--limit", type=int, default=60, help="synthetic subjects that are measured")
    args = parser.parse_args(argv)
    subjects = sorted(one for one in args.synthetic.iterdir() if one.is_dir())[: args.limit]
    if len(subjects) < 10:
        raise InputError(f"{args.synthetic} holds {len(subjects)} subjects; percentiles need 10 and more.")
    drawn = np.stack([contrasts(read_case(one, MODALITIES)) for one in subjects])  # (N, tissues, modalities)
    low, high = np.nanpercentile(drawn, SHARES, axis=0)  # a tissue that a scan lacks is NaN
    for folder in args.real:
        print(compare(folder.name, contrasts(read_case(folder, MODALITIES)), low, high, len(subjects)).markdown())


def contrasts(case: Case) -> np.ndarray:
    """Mean of each tissue (rows) in each modality (columns), over the median of the brain in that modality."""
    brain = (case.volumes > 0).all(0)
    if case.reference is not None:
        brain &= case.reference == 0
    values = case.volumes[:, brain]  # (modalities, voxels)
    values = values[:, np.random.default_rng(0).choice(values.shape[1], VOXELS, replace=False)]
    values = values / np.median(values, axis=1, keepdims=True)
    t1 = np.clip(values[[MODALITIES.index("t1")]].T, 0, 3)
    start = np.percentile(t1, (5, 40, 85))[:, None]
    mixture = GaussianMixture(len(TISSUES), means_init=start, random_state=0).fit(t1)
    means: Any = mixture.means_  # a fitted one has them
    order = np.argsort(means[:, 0])
    tissue = mixture.predict(t1)
    return np.stack(
        [values[:, tissue == one].mean(1) if (tissue == one).any() else np.full(4, np.nan) for one in order]
    )


def compare(name: str, real: np.ndarray, low: np.ndarray, high: np.ndarray, subjects: int) -> Table:
    """A scan's contrasts with the range of the synthetic ones; those outside are bold."""
    inside = (real >= low) & (real <= high)
    rows: list[list[str]] = [
        [tissue, *(f"{real[i, j]:.2f} ({low[i, j]:.2f} to {high[i, j]:.2f})" for j in range(len(MODALITIES)))]
        for i, tissue in enumerate(TISSUES)
    ]
    outside: Sequence[tuple[int, int]] = [(int(i), int(j) + 1) for i, j in np.argwhere(~inside)]
    caption = (
        f"{name}: {inside.sum()} of {inside.size} tissue means lie in the range of {subjects} synthetic scans; bold: "
        "outside. Means over the median of the brain."
    )
    return Table(caption, ["tissue", *MODALITIES], rows, set(outside))


if __name__ == "__main__":
    run_script(main)
