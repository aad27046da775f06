"""Smooth random fields: bias, texture and deformation of the synthetic subjects."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def smooth_field(rng: np.random.Generator, shape: Sequence[int], spacing: float) -> np.ndarray:
    """Cubic-spline noise of unit variance (nearly) over a lattice of `spacing` voxels; float32 of the given shape."""
    knots = [max(4, int(np.ceil(size / spacing)) + 1) for size in shape]
    field = rng.standard_normal(knots).astype(np.float32)
    for size, count in zip(shape, knots):
        weights = np.asarray(ndimage.zoom(np.eye(count, dtype=np.float32), (size / count, 1), order=3, mode="nearest"))
        field = np.tensordot(field, weights, axes=([0], [1]))  # contracts the first axis, appends the finished one
    return field / max(float(field.std()), 1e-6)
