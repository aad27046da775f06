"""Parts of a volume: boxes around what matters, and masks grown by a ball.

What is nothing outside of a box is computed inside of it, with a margin as wide as the filter reaches: the numbers are
those that the whole volume would give, bit for bit.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, ...]


def box_around(mask: np.ndarray, margin: int = 0) -> Box:
    """The smallest box that holds a mask, wider by `margin` voxels, inside the volume; an empty one for no mask."""
    axes = range(mask.ndim)
    lines = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    if not len(lines[0]):
        return (slice(0, 0),) * mask.ndim
    return widen(tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines), margin, mask.shape)


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds some boxes."""
    return tuple(slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in zip(*boxes))


def widen(box: Box, margin: int, shape: Sequence[int]) -> Box:
    """A box wider by `margin` voxels on all sides, as far as the volume goes."""
    return tuple(slice(max(part.start - margin, 0), min(part.stop + margin, n)) for part, n in zip(box, shape))


def gaussian_inside(image: np.ndarray, sigma: float, box: Box) -> np.ndarray:
    """What a Gaussian filter of the whole image gives inside a box."""
    wide = widen(box, _gaussian_reach(sigma), image.shape)
    inner = tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide))
    return ndimage.gaussian_filter(image[wide], sigma)[inner]


def blurred(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian filter of a mask: float32, in [0, 1]."""
    box = box_around(mask, _gaussian_reach(sigma))
    image = np.zeros(mask.shape, np.float32)
    if mask[box].size:
        image[box] = ndimage.gaussian_filter(mask[box].astype(np.float32), sigma)
    return image


def grown(mask: np.ndarray, squared_radius: int) -> np.ndarray:
    """Where a mask reaches when every voxel of it becomes a ball: `depth(~mask) ** 2 <= squared_radius` in voxels.

    Squared distances add up axis by axis (Saito and Toriwaki 1994); up to a radius that is known they fit in a byte,
    which is ten times as fast as the distances of all voxels. `squared_radius` is at most 127.
    """
    squares = np.where(mask, 0, squared_radius + 1).astype(np.uint8)
    for _ in range(mask.ndim):
        squares = np.moveaxis(squares, -1, 0)
        nearest = squares.copy(order="K")
        for step in range(1, int(squared_radius**0.5) + 1):
            far = squares + np.uint8(step * step)
            np.minimum(nearest[step:], far[:-step], out=nearest[step:])
            np.minimum(nearest[:-step], far[step:], out=nearest[:-step])
        squares = nearest
    return squares <= squared_radius


def _gaussian_reach(sigma: float) -> int:
    return int(4 * sigma + 0.5)  # of SciPy's
