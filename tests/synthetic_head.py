"""A synthetic head CT for tests: shells of skull and scalp around the built-in anatomy, in any pose."""

from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from difffuse_hf.phantoms.anatomy import Tissue, load_anatomy
from difffuse_hf.preprocessing.assemble import CTVolume

SHAPE, SPACING = (48, 120, 120), (4.0, 2.0, 2.0)


@lru_cache
def head():
    """A synthetic head at 2 mm in HU (x, y, z), made around the built-in anatomy, and what its skull holds."""
    tissue = load_anatomy(None).tissue[::2, ::2, ::2]
    tissue = np.pad(tissue, 12)
    outside = 2 * ndimage.distance_transform_edt(tissue == Tissue.OUTSIDE)
    hounsfield = np.select([outside > 14, outside > 9, outside > 3, outside > 0], [-1000, -60, 900, 8], 36)
    hounsfield[tissue == Tissue.WHITE_MATTER] = 28
    hounsfield[tissue == Tissue.SULCAL_CSF] = 8
    return hounsfield.astype(np.float32), outside <= 3


def turned_head(rotation, scale=1.0, hounsfield=None):
    """A synthetic scan of the head turned about its middle, and the true map of template to scan: matrix, offset."""
    hounsfield = head()[0] if hounsfield is None else hounsfield
    matrix, origin = scale * rotation, load_anatomy(None).origin + 24.0  # head mm = template mm + origin
    middle = np.array(hounsfield.shape) - 1.0
    spacing = np.array(SPACING[::-1])
    offset = spacing * (np.array(SHAPE[::-1]) - 1) / 2 - matrix @ middle  # scan mm = matrix @ head mm + offset
    inverse = np.linalg.inv(matrix)
    scan = ndimage.affine_transform(
        hounsfield, inverse * spacing / 2, -inverse @ offset / 2, SHAPE[::-1], order=1, cval=-1000
    )
    scan += np.random.default_rng(0).normal(0, 5, scan.shape)
    volume = CTVolume(np.clip(scan.T, -1024, 3071).astype(np.int16), SPACING, np.zeros(3), np.eye(3))
    return volume, matrix, matrix @ origin + offset


def turn(axis, degrees):
    return Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
