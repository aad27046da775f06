"""Shapes in boolean arrays: connected pieces and depths. SciPy's own types promise less than it gives."""

import numpy as np
from scipy import ndimage


def label_pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected pieces, numbered from 1 on, and how many there are; 0 outside of them."""
    pieces, count = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    return pieces, count


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The connected piece with the most voxels; the mask itself where there is but one, or none."""
    pieces, count = label_pieces(mask)
    return mask if count < 2 else pieces == np.bincount(pieces.ravel())[1:].argmax() + 1


def depth(inside: np.ndarray, voxel_mm: float = 1.0) -> np.ndarray:
    """Distance of each voxel of a mask to the nearest one outside it, in mm of cubic voxels; 0 outside."""
    return voxel_mm * np.asarray(ndimage.distance_transform_edt(inside))
