"""Smooth random fields: bias, texture and deformation of the synthetic subjects."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage

from .regions import Box


def smooth_field(
    rng: np.random.Generator, shape: Sequence[int], spacing: float, box: Box = (slice(None),)
) -> np.ndarray:
    """Cubic-spline noise of unit variance (nearly) over a lattice of `spacing` voxels; float32 of the given shape.

    With `box`, the part of the same field that lies in it."""
    knots = [max(4, int(np.ceil(size / spacing)) + 1) for size in shape]
    field = rng.standard_normal(knots).astype(np.float32)
    for size, count in zip(shape, knots):
        # contracts the first axis, appends the finished one
        field = np.tensordot(field, _spline(size, count), axes=([0], [1]))
    return field[box] / max(float(field.std()), 1e-6)


@lru_cache(maxsize=256)
def _spline(size: int, count: int) -> np.ndarray:
    """Weights (size, count) that lead from the knots of an axis to its voxels."""
    return np.asarray(ndimage.zoom(np.eye(count, dtype=np.float32), (size / count, 1), order=3, mode="nearest"))
