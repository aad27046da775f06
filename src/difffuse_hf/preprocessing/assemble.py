"""From the slices of a series to one orthogonal, evenly spaced volume: the conversion step of thesis Sec. 3.4.4.

Instead of converting the DICOM files and repairing the result, the geometry in the headers decides where each
decoded slice goes. What that takes is linear and along one axis at a time: padding, gantry tilt, uneven steps.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from .dicom import Series, SliceHeader
from .pixels import (
    CANNOT_BE_DECODED,
    PADDING_BELOW_HU,
    UnreadableSeries,
    declared_padding,
    decode_slice,
    forget_file,
)

MAX_FAILED_FILES = 2  # as many as may be missing
MIN_STEP_MM = 2.0  # of uneven series: eleven slices show nothing finer
MOST_VOXELS = 2**30  # 2 GiB of 16 bits
_WHOLE_PIXEL = 0.02  # shifts and steps this close to a whole one need no interpolation


@dataclass(frozen=True, eq=False)
class CTVolume:
    """A head on an orthogonal grid, oriented as radiologists look at it: the patient's right on the image's left."""

    hounsfield: np.ndarray  # (S, H, W) int16; slices inferior to superior, rows to posterior, columns to the left
    spacing_mm: tuple[float, float, float]  # between slices, rows, columns
    origin_mm: np.ndarray  # (3,) centre of voxel [0, 0, 0], DICOM patient coordinates (LPS)
    direction: np.ndarray  # (3, 3) LPS unit vectors of the column, row and slice axis as columns
    measures: dict = field(default_factory=dict)  # what was repaired on the way

    def to_sitk(self) -> sitk.Image:
        """The same as a SimpleITK image, whose axes are (column, row, slice)."""
        image = sitk.GetImageFromArray(self.hounsfield)
        image.SetSpacing([float(mm) for mm in self.spacing_mm[::-1]])
        image.SetOrigin([float(mm) for mm in self.origin_mm])
        image.SetDirection([float(cosine) for cosine in self.direction.ravel()])
        return image


@dataclass(frozen=True, eq=False)
class DecodedSlices:
    """The slices of a series that could be decoded, inferior to superior, as they were stored."""

    headers: tuple[SliceHeader, ...]
    hounsfield: np.ndarray  # (S, H, W) int16, rows and columns as in the files
    measures: dict = field(default_factory=dict)


def decode_series(series: Series) -> DecodedSlices:
    """Decode the slices of a series; what lies outside the field of view takes the darkest measured value.

    Raises:
        UnreadableSeries: more than two of the files cannot be decoded.
    """
    slices, images, num_failed = _decode(series)
    images, padding = remove_padding(images)
    declared = declared_padding(slices[0])
    if padding is None and declared is not None:
        padding = round(declared[0])
    return DecodedSlices(tuple(slices), images, {"files_failed": num_failed, "padding": padding})


def assemble(series: Series, decoded: DecodedSlices | None = None) -> CTVolume:
    """Put the slices of a series on one orthogonal grid with one spacing; decode them unless they are given.

    A gantry tilt shears the stack: the slices stay parallel but move in their own plane. Each is moved back, on a
    canvas that holds all of them. Unevenly spaced slices are interpolated along the normal (see `regular_step`).
    Both are linear, and copies where the positions fit the grid.

    Raises:
        UnreadableSeries: more than two of the files cannot be decoded.
    """
    decoded = decoded or decode_series(series)
    slices, images = decoded.headers, decoded.hounsfield
    spacing, orientation = slices[0].pixel_spacing_mm, slices[0].orientation
    if spacing is None or orientation is None:  # `header_exclusion` has been asked
        raise ValueError(f"{slices[0].path} does not say how its slice lies.")
    row_mm, column_mm = spacing  # between rows, between columns
    u, _, vt = np.linalg.svd(np.column_stack([orientation[:3], orientation[3:], series.normal]))
    axes = u @ vt  # (3, 3) orthonormal, where headers round to a few digits
    positions = np.array([header.position for header in slices], float)
    positions = positions @ axes  # (S, 3) mm along a row, a column, the normal

    shifts = (positions[:, :2] - positions[0, :2]) / (column_mm, row_mm)  # (S, 2) pixels
    _check_size(len(slices) * math.prod(np.ptp(shifts, axis=0) + images.shape[1:]), slices[0])
    images, first = _unshear(images, shifts)
    _check_size(images[0].size * np.ptp(positions[:, 2]) / MIN_STEP_MM, slices[0])
    images, step_mm = _even_steps(images, positions[:, 2])
    origin = positions[0] + (first[0] * column_mm, first[1] * row_mm, 0)
    measures = {
        **decoded.measures,
        "unsheared_mm": round(float(np.ptp(positions[:, :2], axis=0).max()), 2),
        "num_slices": len(images),
    }
    return _to_lps(images, (step_mm, row_mm, column_mm), axes @ origin, axes, measures)


def _decode(series):
    """Headers and images (S, H, W) of the files that can be decoded, and how many cannot."""
    slices, failed = [], []
    _check_size(len(series.slices) * series.slices[0].rows * series.slices[0].columns, series.slices[0])
    images = np.empty((len(series.slices), series.slices[0].rows, series.slices[0].columns), np.int16)
    for header in series.slices:
        try:
            images[len(slices)] = decode_slice(header)
            slices.append(header)
        except UnreadableSeries as error:
            failed.append(error)
    forget_file()
    if len(failed) > MAX_FAILED_FILES or len(slices) < 2:
        why, path = failed[0].args
        more = "" if why == CANNOT_BE_DECODED else f": {why}"
        sentence = f"{len(failed)} of {len(series.slices)} slices cannot be decoded{more}"
        raise UnreadableSeries(sentence, path) from failed[0]
    return slices, images[: len(slices)], len(failed)


def _check_size(voxels: float, header: SliceHeader) -> None:
    """Raise before memory is taken for what no scan is; headers may say anything."""
    if not voxels <= MOST_VOXELS:
        raise UnreadableSeries("the headers describe a volume far larger than a head", header.path)


def remove_padding(images: np.ndarray) -> tuple[np.ndarray, int | None]:
    """Raise the constant that fills the corners outside the field of view to the darkest measured value, in place.

    Scanners write -1500, -2000 or -32768 there, with or without saying so in the header. Air that a wrong intercept
    has made as dark is noisy, so it is no constant and stays. Also returns the constant, None if there is none.
    """
    lowest = int(images.min())
    sample = images[:, ::4, ::4]
    dark = sample[sample < PADDING_BELOW_HU]
    if lowest >= PADDING_BELOW_HU or (dark == lowest).sum() < 0.95 * dark.size or (sample == lowest).all():
        return images, None
    return np.maximum(images, sample[sample > lowest].min(), out=images), lowest


def regular_step(positions_mm: np.ndarray) -> float | None:
    """The step to interpolate unevenly spaced slices to, in mm; None if they are even to a twentieth.

    The smallest step that is common (a tenth of all, and more than one), so that the thinner part of the series, often
    the base, is copied and only the thicker part interpolated: a coarser grid would lose slices, a finer one only add
    interpolated ones.
    """
    steps = np.diff(positions_mm)
    if np.ptp(steps) <= 0.05 * np.median(steps):
        return None
    rounded = steps.round(1)
    common = [step for step, count in Counter(rounded.tolist()).items() if count > 1 and count >= len(steps) / 10]
    step = steps[rounded == min(common)].mean() if common else np.median(steps)
    return max(MIN_STEP_MM, float(step))


def _even_steps(images, positions_mm):
    """The slices at even steps from the first position on, and the step."""
    step_mm = regular_step(positions_mm)
    length = positions_mm[-1] - positions_mm[0]
    if step_mm is None:
        return images, float(length / (len(images) - 1))
    index = np.interp(
        positions_mm[0] + step_mm * np.arange(int(length / step_mm + _WHOLE_PIXEL) + 1),
        positions_mm,
        np.arange(len(images)),
    )
    return np.stack([_between(images, i) for i in _snap(index)]), step_mm


def _between(images, index):
    lower = int(index)
    if index == lower:
        return images[lower]
    fraction = np.float32(index - lower)
    mixed = (1 - fraction) * images[lower] + fraction * images[lower + 1]
    return np.rint(mixed, out=mixed).astype(np.int16)


def _unshear(images, shifts):
    """Move slice i by `shifts[i]` pixels (columns, rows); also where the canvas starts, seen from the first slice."""
    shifts = _snap(shifts)
    first = np.floor(shifts.min(axis=0))
    shifts = shifts - first
    if not shifts.any():
        return images, first
    num, height, width = images.shape
    more_columns, more_rows = np.ceil(shifts.max(axis=0)).astype(int)
    canvas = np.full((num, height + more_rows, width + more_columns), images.min(), np.int16)
    for out, image, (column, row) in zip(canvas, images, shifts):
        whole = out[int(row) :, int(column) :]
        whole[:height, :width] = image
        for axis, fraction in ((0, row % 1), (1, column % 1)):
            if fraction > 0:
                moved = np.swapaxes(out, 0, axis)
                mixed = np.float32(1 - fraction) * moved[1:] + np.float32(fraction) * moved[:-1]
                moved[1:] = np.rint(mixed, out=mixed)
    return canvas, first


def _snap(values):
    return np.where(np.abs(values - np.rint(values)) < _WHOLE_PIXEL, np.rint(values), values)


def _to_lps(images, spacing_mm, origin_mm, axes, measures):
    """Swap and flip rows and columns so that they run to the patient's posterior and left."""
    step_mm, row_mm, column_mm = spacing_mm
    if abs(axes[0, 0]) < abs(axes[0, 1]):
        images, axes = images.swapaxes(1, 2), axes[:, [1, 0, 2]]
        row_mm, column_mm = column_mm, row_mm
    axes = axes.copy()
    for axis, component, mm in ((2, 0, column_mm), (1, 1, row_mm)):
        if axes[component, component] < 0:
            origin_mm = origin_mm + axes[:, component] * mm * (images.shape[axis] - 1)
            axes[:, component] *= -1
            images = np.flip(images, axis)
    return CTVolume(np.ascontiguousarray(images), (step_mm, row_mm, column_mm), origin_mm, axes, measures)
