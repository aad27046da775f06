"""Images of any number of dimensions, opened with the type that they have."""

from os import PathLike
from typing import cast

import nibabel
from nibabel.spatialimages import SpatialImage


def open_image(path: str | PathLike) -> SpatialImage:
    """`nibabel.load`, which promises less than it gives: an image with `dataobj`, `affine` and `shape`."""
    return cast(SpatialImage, nibabel.load(path))
