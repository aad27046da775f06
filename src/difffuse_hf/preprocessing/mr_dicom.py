"""MR in DICOM: of the series in a folder, the one of each modality as a NIfTI file.

A series is told by the words of its description, as "AX T2 FLAIR" or "T1 MPRAGE post GAD", or by the caller, who names
its SeriesInstanceUID. Of several that would do nobody chooses but the caller.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from .dicom import Series, group_series
from .headers import printable, read_headers
from .walk import find_files

CONTRAST = {"gd", "gad", "gado", "gadolinium", "post", "ce", "contrast", "c", "km"}
EVEN = 0.1  # steps between slices that differ by less than this part of their mean are even
MANY = 20  # series that a sentence lists at most


def modality_in(description: str) -> str | None:
    """flair, t1, t1ce or t2, if the words of a series' description say so."""
    words = set(re.findall(r"[a-z0-9*]+", description.lower().replace("+c", " ce ")))
    if words & {"t1", "t1w", "mprage"}:
        return "t1ce" if words & CONTRAST else "t1"
    if words & {"t1ce", "t1c", "t1gd"}:
        return "t1ce"
    if words & {"flair", "t2flair", "t2f"}:
        return "flair"
    return "t2" if words & {"t2", "t2w"} else None


def mr_series(path: str | Path) -> list[Series]:
    """The MR series in a folder or file of DICOM, as `group_series` parts them."""
    return [one for one in group_series(read_headers(find_files(path))[0]) if one.slices[0].modality == "MR"]


def choose_series(
    path: str | Path,
    found: Sequence[Series],
    modalities: Sequence[str],
    named: Mapping[str, str],
    optional: Sequence[str] = (),
) -> dict[str, Series]:
    """The series of each modality: with the SeriesInstanceUID that it is `named` by, or by its description.

    There need be none of the `optional` ones that are not named.

    Raises:
        InputError: there is none, or there are several; the sentence lists the series.
    """
    unknown = [one for one in named if one not in modalities]
    if unknown:
        raise InputError(f"--series names {unknown[0]}, but the model takes {', '.join(modalities)}.")
    chosen = {}
    for modality in modalities:
        uid = named.get(modality)
        fitting = [
            one
            for one in found
            if (uid in one.series_uids if uid else modality_in(one.slices[0].description) == modality)
        ]
        if not fitting and uid is None and modality in optional:
            continue
        if len(fitting) != 1:
            how_many = "several MR series that may be" if fitting else "no MR series that is told to be"
            raise InputError(
                f"{printable(path)} holds {how_many} {modality}{f' ({uid})' if uid else ''}; it holds "
                f"{_listed(found)}. Name the one that is meant by --series {modality}=UID."
            )
        chosen[modality] = fitting[0]
    return chosen


def write_nifti(series: Series, file: Path) -> None:
    """A series as one volume, in the intensities of its slices.

    Raises:
        InputError: its slices do not make one, or cannot be decoded.
    """
    name = f"The series {series.series_uids[0]} ({series.slices[0].description or 'no description'})"
    steps = series.spacings_mm if series.has_geometry and len(series.slices) > 1 else np.zeros(0)
    if series.problem or not len(steps) or steps.min() <= 0 or np.ptp(steps) > EVEN * steps.mean():
        raise InputError(f"{name} is no volume: its {len(series.slices)} slices do not follow each other evenly.")
    paths = list(dict.fromkeys(str(one.path) for one in series.slices))
    if 1 < len(paths) < len(series.slices):
        raise InputError(f"{name} lies in {len(paths)} files of several frames each; convert it to NIfTI first.")
    try:
        image = sitk.ReadImage(paths if len(paths) > 1 else paths[0], imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise InputError(f"{name} cannot be read ({str(error).strip().splitlines()[-1]}).") from error
    sitk.WriteImage(image, str(file))


def _listed(found: Sequence[Series]) -> str:
    shown = [
        f"{one.slices[0].description or 'no description'} ({one.series_uids[0]}, {len(one.slices)} slices)"
        for one in found[:MANY]
    ]
    return ", ".join([*shown, *([f"and {len(found) - MANY} more"] if len(found) > MANY else [])])
