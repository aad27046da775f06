"""What lies inside the skull on head CT: where a lesion of the brain can be."""

import numpy as np
from scipy import ndimage

from .shapes import largest_piece

BONE_HU = 130  # of pixels of a few millimetres, in which thin bone is mixed with what lies beside it
AIR_HU = -200  # the nose and its sinuses
GAP_MM = 10  # half of the widest opening that the bone is closed over: orbits, sutures, a burr hole
MIN_SHARE = 0.005  # of a slice; less is a sinus or an ear


def inside_skull(hounsfield: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Everything that bone surrounds, slice by slice, without the bone: bool (S, H, W).

    The skull base is open in many slices; there nothing is found, or only a part.

    Args:
        hounsfield (`np.ndarray` of shape `(S, H, W)`): axial slices of square pixels of about 1 to 3 mm.
        pixel_mm: side of a pixel.
    """
    reach = round(GAP_MM / pixel_mm)
    disc = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) <= GAP_MM / pixel_mm
    inside = np.zeros(hounsfield.shape, bool)
    for index, plane in enumerate(np.asarray(hounsfield)):
        bone = plane > BONE_HU
        closed = ndimage.binary_closing(np.pad(bone, len(disc)), disc)[len(disc) : -len(disc), len(disc) : -len(disc)]
        hollow = ndimage.binary_fill_holes(closed) & ~bone & (plane > AIR_HU)
        hollow = ndimage.binary_opening(hollow, iterations=2)
        if hollow.mean() >= MIN_SHARE:
            inside[index] = hollow
    return largest_piece(inside) if inside.any() else inside
