"""A head CT in DICOM as a case: the slices of its own series, in Hounsfield units, as they were stored.

The way in is that of `difffuse preprocess` (`preprocessing/native.py`): the same series are left out for the same
reasons, but no slice is sampled or resampled. The affine leads from column, row and slice to the patient's mm, the
shear of a tilted gantry included; where slices are not evenly spaced it is that of the mean step, and a note says so.
"""

from pathlib import Path

import nibabel
import numpy as np
import pydicom

from ..io.case import CT, Case
from ..io.layouts import case_name
from ..io.nifti import SYNTHETIC
from ..preprocessing.headers import SliceHeader
from ..preprocessing.native import read_dicom
from ..preprocessing.steps import CTPreprocessConfig

EVEN_MM = 0.1  # steps that differ by less are even
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_dicom_case(path: str | Path, series: str | None = None) -> Case:
    """The head CT in a folder of DICOM files, or in one Enhanced CT file.

    Base and vault of one study are joined (`difffuse preprocess --merge-split`).

    Args:
        path: searched with all folders in it.
        series: SeriesInstanceUID of the scan that is meant; needed where there are several.

    Raises:
        InputError: there is no head scan to use, or there are several; the sentence names them.
    """
    path = Path(path)
    scan = read_dicom(path, series, CTPreprocessConfig(merge_split=True))
    affine, notes = affine_of(scan.slices)
    voxels = np.ascontiguousarray(scan.hounsfield.transpose(2, 1, 0))  # columns, rows, slices
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=0)  # a shear cannot be said there
    image.header.set_xyzt_units("mm")
    if is_synthetic_dicom(scan.slices[0].path):
        image.header["descrip"] = SYNTHETIC
    return Case(
        name=case_name(path),
        volumes=voxels[None].astype(np.float32),
        affine=affine,
        header=image.header,
        files={CT: path},
        headers={CT: image.header},
        read_as="CT in DICOM",
        notes=notes,
        dicom=scan.slices,
    )


def is_synthetic_dicom(file: str | Path) -> bool:
    """Whether a DICOM file says in its ImageComments that `BrainPhantom` drew it."""
    dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["ImageComments"])
    return str(dataset.get("ImageComments", "")) == SYNTHETIC.decode()


def affine_of(slices: tuple[SliceHeader, ...]) -> tuple[np.ndarray, list[str]]:
    """From column, row and slice to RAS+ millimetres (4, 4), and a note where the slices are not evenly spaced."""
    first = slices[0]
    orientation = np.array(first.orientation, float).reshape(2, 3)  # along a row, along a column, LPS
    assert first.pixel_spacing_mm is not None  # scans without are left out
    between_rows, between_columns = first.pixel_spacing_mm
    positions = np.array([one.position for one in slices], float)  # (S, 3)
    steps = np.diff(positions, axis=0)
    step = (positions[-1] - positions[0]) / (len(slices) - 1)  # a head scan has several
    affine = np.eye(4)
    affine[:3, :3] = LPS_TO_RAS @ np.column_stack(
        [orientation[0] * between_columns, orientation[1] * between_rows, step]
    )
    affine[:3, 3] = LPS_TO_RAS @ positions[0]
    lengths = np.linalg.norm(steps, axis=1)
    if len(lengths) and np.ptp(lengths) > EVEN_MM:
        return affine, [
            f"ct: the slices are {lengths.min():.2f} to {lengths.max():.2f} mm apart, which NIfTI cannot say; "
            f"its files, and volumes in millilitres, go by the mean step of {np.linalg.norm(step):.2f} mm."
        ]
    return affine, []
