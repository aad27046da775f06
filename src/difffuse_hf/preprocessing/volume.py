"""From a head in Hounsfield units to the images a network takes (thesis Sec. 3.4.4): crop, sample, window, resize.

rows, columns = crop_to_head(hounsfield, spacing_mm)
images = window_hounsfield(hounsfield[sample_slices(len(hounsfield)), rows, columns])
images, scale, offset = pad_or_resize(images)
"""

import numpy as np
from scipy import sparse

from .shapes import largest_piece

IMAGE_SIZE = (500, 400)  # height, width
NUM_SLICES = 11
BRAIN_WINDOW_HU = (0, 100)
BONE_HU = 250  # a head holder is as bright as bone in the window, but well below this
SKIN_MM = 8  # from the outside of the skull


def crop_to_head(hounsfield: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[slice, slice]:
    """Rows and columns of one box for all slices: the largest piece of bone, and 8 mm of skin around it.

    Only connected bone counts, at about 1 mm pixels: head holders, cables and earrings do not. Without any bone
    the box is the whole image.
    """
    step = max(1, round(1.0 / min(spacing_mm[1:])))
    head = largest_piece(hounsfield[:, ::step, ::step] > BONE_HU)
    if not head.any():
        return slice(0, hounsfield.shape[1]), slice(0, hounsfield.shape[2])

    def extent(axis, other):
        where = np.flatnonzero(head.any(axis=(0, other))) * step
        margin = round(SKIN_MM / spacing_mm[axis])
        return slice(max(0, int(where[0]) - margin), min(hounsfield.shape[axis], int(where[-1]) + step + margin))

    return extent(1, 2), extent(2, 1)


def sample_slices(num_slices: int, count: int = NUM_SLICES) -> np.ndarray:
    """Indices (count,) of slices spread uniformly from the first to the last; some repeat if there are fewer."""
    return np.linspace(0, num_slices - 1, count).round().astype(int)


def window_hounsfield(hounsfield: np.ndarray, low: float = BRAIN_WINDOW_HU[0], high: float = BRAIN_WINDOW_HU[1]):
    """Hounsfield units as float32 in [0, 1]: 0 up to `low`, 1 from `high` on."""
    images = hounsfield.astype(np.float32)
    images -= low
    images /= high - low
    return images.clip(0, 1, out=images)


def pad_or_resize(
    images: np.ndarray,
    size: tuple[int, int] = IMAGE_SIZE,
    pixel_mm: tuple[float, float] | None = None,
    target_mm: float | None = None,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Windowed slices on a canvas of one size: shrunk by one factor for both axes if they do not fit, never enlarged.

    The thesis's size is in pixels, so its scale differs from scan to scan; with `target_mm` every scan gets the same
    pixels (shrunk further if need be).

    Args:
        images: (S, H, W) in [0, 1], where 0 is also what the canvas around them is filled with.
        size: height and width of the canvas.
        pixel_mm: rows' and columns' spacing; with it, pixels that are not square become square (the smaller spacing).
        target_mm: pixel size to resample to; takes `pixel_mm`.

    Returns:
        (S, *size) float32; `scale` and `offset` for rows and columns: index on the canvas = scale * index + offset.
    """
    if pixel_mm is None and target_mm is not None:
        raise ValueError("`target_mm` needs `pixel_mm`, the spacing of the rows and columns.")
    factors = np.ones(2) if pixel_mm is None else np.array(pixel_mm) / (target_mm or min(pixel_mm))
    shape = np.array(images.shape[1:])
    factors = factors * min(1.0, *(size / (shape * factors)))
    new = np.minimum(size, np.maximum(1, np.rint(shape * factors))).astype(int)
    before = (np.array(size) - new) // 2
    for axis, factor in enumerate(factors, start=1):
        if not np.isclose(factor, 1):
            images = _resample(images, axis, factor, new[axis - 1])
    canvas = np.zeros((len(images), *size), np.float32)
    canvas[:, before[0] : before[0] + new[0], before[1] : before[1] + new[1]] = images
    offset = before + (new - 1) / 2 - factors * (shape - 1) / 2
    return canvas, tuple(factors.tolist()), tuple(offset.tolist())


def _resample(images, axis, factor, num):
    """Resample one axis to `num` samples around the same centre; linear, or a triangle wide enough not to alias."""
    length = images.shape[axis]
    centres = (np.arange(num) - (num - 1) / 2) / factor + (length - 1) / 2
    reach = max(1.0, 1 / factor)
    taps = np.floor(centres - reach)[:, None] + np.arange(1, 2 * np.ceil(reach) + 1)  # (num, T)
    weights = np.maximum(0, 1 - np.abs(taps - centres[:, None]) / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    columns = taps.clip(0, length - 1).astype(int)  # the edge goes on
    rows = np.repeat(np.arange(num), taps.shape[1])
    matrix = sparse.csr_matrix((weights.ravel().astype(np.float32), (rows, columns.ravel())), (num, length))
    moved = np.moveaxis(images, axis, 0)
    out = matrix @ np.ascontiguousarray(moved).reshape(length, -1)
    return np.moveaxis(out.reshape(num, *moved.shape[1:]), 0, axis)
