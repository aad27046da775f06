"""The body on CT, and how much of it is lung: what tells a chest from a head."""

import numpy as np
from scipy import ndimage

from .shapes import largest_piece

TISSUE_HU = -300  # fat is -100; what is darker inside the body is lung, or the air of an airway, a stomach, a sinus
COARSE_MM = 2  # pixels of this size are looked at
TABLE_MM = 4  # half of the thickest shell that is no body: the top of a table, a head holder
CHEST_SHARE = (
    0.06  # of the body that is darker than tissue. Ours: half of what the least of eight synthetic chests has
)


def body_of(hounsfield: np.ndarray, pixel_mm: tuple[float, float]) -> np.ndarray:
    """The body with all that it encloses in each slice, and without the table: bool (S, H, W).

    Args:
        hounsfield (`np.ndarray` of shape `(S, H, W)`): axial slices.
        pixel_mm: spacing of the rows and of the columns; the outline is found at about 2 mm.
    """
    down, across = (max(1, round(COARSE_MM / mm)) for mm in pixel_mm)
    coarse = hounsfield[:, ::down, ::across] > TISSUE_HU
    step_mm = down * pixel_mm[0], across * pixel_mm[1]
    reach = [round(TABLE_MM / mm) for mm in step_mm]
    rows, columns = (np.arange(-r, r + 1) * mm for r, mm in zip(reach, step_mm))
    disc = np.hypot(rows[:, None], columns) <= TABLE_MM + 1e-6
    around = np.pad(coarse, [(0, 0), *((2 * r, 2 * r) for r in reach)], mode="edge")  # the image may cut the body off
    opened = np.asarray(ndimage.binary_opening(around, disc[None]))
    opened = opened[:, 2 * reach[0] :, 2 * reach[1] :][:, : coarse.shape[1], : coarse.shape[2]]
    body = largest_piece(opened)
    body = np.stack([np.asarray(ndimage.binary_fill_holes(plane)) for plane in body])
    return body.repeat(down, 1).repeat(across, 2)[:, : hounsfield.shape[1], : hounsfield.shape[2]]


def lung_share(hounsfield: np.ndarray, body: np.ndarray) -> float:
    """Which part of the body (S, H, W) is darker than any tissue; a chest has `CHEST_SHARE` and more."""
    return np.count_nonzero(body & (hounsfield < TISSUE_HU)) / max(np.count_nonzero(body), 1)
