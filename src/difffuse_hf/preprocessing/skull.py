"""Does a head scan still have its skull? From the image alone, whatever the air around it looks like.

Going inwards from the outline of a whole head, the scan is bright (skin, fat, muscle), then dark (the skull), then as
bright as brain; of a skull-stripped one it is as bright as brain from the rim on. And a head holds more than a brain.
"""

import numpy as np
from nibabel import affines, orientations
from scipy import ndimage

from .shapes import largest_piece

MAX_BRAIN_ML = 2300  # more is more than a brain
GRID_MM = (2.0, 2.0, 4.0)  # about the voxels of the look: left, posterior, superior
TISSUE = 0.1  # of the 90th percentile of what is not 0: brighter is tissue, darker may be the noise of air
CLOSING = 3  # voxels; gaps in the scalp
CRANIUM_MM = (10, 80)  # below the top of the head: neither the flat vertex nor the face
SCALP_MM, SKULL_MM, DEEP_MM = (0, 7), (5, 20), 25  # depths in a slice
# Brightness of the darkest depth of `SKULL_MM`, against what lies deeper than `DEEP_MM`. Of whole heads it was at most
# 0.58, of 284 synthetic brains with remains of their coverings at least 0.64.
MAX_SKULL = 0.61
MIN_SCALP = 1.25  # brightness of the brightest depth of `SCALP_MM`, against that darkest one


def skull_in(volume: np.ndarray, affine: np.ndarray) -> str | None:
    """Why a scan cannot be skull-stripped, as a clause that goes on after "the scan is not skull-stripped: "; or None.

    Volumes in which no voxel lies `DEEP_MM` inside an axial slice are judged by their size alone.

    Args:
        volume (`np.ndarray` of shape `(X, Y, Z)`): non-negative intensities of an MR scan.
        affine (`np.ndarray` of shape `(4, 4)`): voxel to RAS+ millimetres.
    """
    values, spacing_mm = _coarse(volume, affine)
    bright = values > 0
    if not bright.any():
        return None
    head = _outline(values > TISSUE * np.percentile(values[bright], 90))
    volume_ml = head.sum() * float(np.prod(spacing_mm)) / 1000
    if volume_ml > MAX_BRAIN_ML:
        return f"its outline holds {volume_ml:.0f} ml, and a brain has less than {MAX_BRAIN_ML} ml"
    profile = _profile(values, head, spacing_mm)
    if profile is None:
        return None
    depths, brightness = profile
    skull = np.nanmin(brightness[(depths >= SKULL_MM[0]) & (depths < SKULL_MM[1])])
    scalp = np.nanmax(brightness[(depths >= SCALP_MM[0]) & (depths < SCALP_MM[1])])
    if skull < MAX_SKULL and scalp > MIN_SCALP * skull:
        return (
            f"below a bright rim lies a dark shell of {100 * skull:.0f} % of the brightness of what it holds, "
            "as scalp and skull do"
        )
    return None


def _outline(tissue: np.ndarray) -> np.ndarray:
    """The largest piece with what it encloses in each slice: a skull may be as dark as air, and cut off the scalp."""
    around = np.pad(tissue, ((CLOSING, CLOSING), (CLOSING, CLOSING), (0, 0)))
    closed = ndimage.binary_closing(around, np.ones((3, 3, 1)), iterations=CLOSING)[CLOSING:-CLOSING, CLOSING:-CLOSING]
    return largest_piece(np.asarray(ndimage.binary_fill_holes(closed, np.ones((3, 3, 1)))))


def _coarse(volume: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The volume along left, posterior, superior, in means of whole blocks of voxels, and their size in mm."""
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("LPS"))
    values = orientations.apply_orientation(np.asarray(volume, np.float32), turn)
    spacing_mm = affines.voxel_sizes(affine)[np.argsort(turn[:, 0])]
    for axis, (size, spacing) in enumerate(zip(GRID_MM, spacing_mm)):
        block = max(1, min(round(size / spacing), values.shape[axis]))
        starts = np.arange(0, values.shape[axis] - block + 1, block)
        values = np.sum([values.take(starts + step, axis) for step in range(block)], axis=0) / block
        spacing_mm[axis] *= block
    box = ndimage.find_objects((values > 0).astype(np.uint8))
    values = values[box[0]] if box else values
    return values, spacing_mm


def _profile(values, head, spacing_mm) -> tuple[np.ndarray, np.ndarray] | None:
    """Depths (mm) in the slices of the cranium and the median brightness there, against that of the deep part."""
    filled = np.flatnonzero(head.any(axis=(0, 1)))
    below_top = (filled[-1] - np.arange(head.shape[2])) * spacing_mm[2]
    area = head.sum(axis=(0, 1))
    cranium = (below_top >= min(CRANIUM_MM[0], below_top[filled[0]] / 2)) & (below_top <= CRANIUM_MM[1])
    cranium &= area > 0.5 * area[cranium].max(initial=1)
    padded = np.pad(head[:, :, cranium], ((1, 1), (1, 1), (0, 0)))
    far_mm = 1e6 * spacing_mm[:2].max()  # from slice to slice, so that each is seen by itself
    depth = np.asarray(ndimage.distance_transform_edt(padded, sampling=(*spacing_mm[:2], far_mm)))[1:-1, 1:-1]
    values = values[:, :, cranium]
    deep = depth > DEEP_MM
    if not deep.any():
        return None
    width = max(2.0, float(spacing_mm[:2].max()))
    depths = np.arange(0, SKULL_MM[1], width)
    shells = [values[(depth > one) & (depth <= one + width)] for one in depths]
    medians = np.array([np.median(shell) if shell.size else np.nan for shell in shells])
    return depths, medians / max(float(np.median(values[deep])), 1e-12)
