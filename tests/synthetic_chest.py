"""A synthetic chest of a few voxels, for tests of lung CT: cheaper than a subject of `difffuse phantom`."""

from pathlib import Path

import nibabel
import numpy as np

AFFINE = np.diag([-4.0, -4.0, 8.0, 1.0])
SHAPE = (96, 80, 6)  # 384 x 320 x 48 mm


def chest(opacity: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units (X, Y, Z): a body with two lungs and a spine on a thin table; and where the opacity is."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")

    def ellipse(at, radii):
        return np.hypot((x - at[0]) / radii[0], (y - at[1]) / radii[1]) < 1

    hounsfield = np.full(SHAPE, -1000.0)
    hounsfield[:, 66] = -50  # the top of the table
    hounsfield[ellipse((50, 40), (40, 26))] = 40
    lungs = (ellipse((32, 40), (14, 17)) | ellipse((68, 40), (14, 17))) & (z > 0)
    hounsfield[lungs] = -850
    hounsfield[ellipse((50, 58), (4, 4))] = 600
    found = lungs & ellipse((30, 48), (7, 5)) & (z > 1) & (z < 5)
    hounsfield[found & opacity] = -300
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    return np.rint(hounsfield + noise).astype(np.int16), found & opacity


def write_studies(root: Path, severities: tuple[int, ...], masks: bool = True) -> Path:
    """Studies of the given categories in the folders of MosMedData, all of one chest, and their masks."""
    for number, severity in enumerate(severities, start=1):
        hounsfield, opacity = chest(severity > 0)
        study = root / "studies" / f"CT-{severity}" / f"study_{number:04d}.nii.gz"
        study.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(hounsfield, AFFINE), study)
        if masks and severity:
            (root / "masks").mkdir(exist_ok=True)
            mask = nibabel.Nifti1Image(opacity.astype(np.uint8), AFFINE)
            nibabel.save(mask, root / "masks" / f"study_{number:04d}_mask.nii.gz")
    return root
