"""The planes of a scan, shrunk and padded to another size, and where their pixels lie then."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F


def fit_planes(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Shrink the planes (S, H, W) by one factor until they fit `size`, and pad evenly with 0.

    Returns the planes and the factor (of the width, which is a whole number of pixels).
    """
    small, (top, left) = _fit(image.shape[1:], size)
    planes = F.interpolate(torch.from_numpy(image)[None], small, mode="bilinear", antialias=True)[0]
    padding = (left, size[1] - small[1] - left, top, size[0] - small[0] - top)
    return F.pad(planes.clamp(0, 1), padding).numpy(), small[1] / image.shape[2]


def fit_affine(to_mm: np.ndarray, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """An affine map (3, 4) of (column, row, slice) of planes (height, width), for what `fit_planes` makes of them."""
    small, start = _fit(shape, size)
    onto = np.eye(4)
    for axis in (0, 1):  # column, row: a pixel's centre lies half a pixel from its edge
        scale = small[1 - axis] / shape[1 - axis]
        onto[axis, axis], onto[axis, 3] = scale, scale / 2 - 0.5 + start[1 - axis]
    return to_mm @ np.linalg.inv(onto)


def _fit(shape: Sequence[int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of planes shrunk by one factor until they fit `size`, and where they begin in it."""
    scale = min(size[0] / shape[0], size[1] / shape[1], 1.0)
    small = (round(shape[0] * scale), round(shape[1] * scale))
    return small, ((size[0] - small[0]) // 2, (size[1] - small[1]) // 2)
