"""NIfTI files: found in a case's folder, read whole, and compared with one another."""

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np

from ..errors import InputError

AFFINE_TOLERANCE_MM = 1e-3  # modalities closer than this share one grid
_UNREADABLE = (
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    zlib.error,
)


def find_volume(folder: Path, suffix: str) -> Path | None:
    """The one NIfTI file of a folder that ends in `_<suffix>`, or None."""
    found = sorted(p for ending in (".nii.gz", ".nii") for p in folder.glob(f"*_{suffix}{ending}"))
    if len(found) > 1:
        raise InputError(f"{folder} holds more than one {suffix} file: {', '.join(p.name for p in found)}.")
    return found[0] if found else None


def read_volume(file: Path) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    """The image of a file and its voxels as float32 (X, Y, Z); `InputError` if it is no readable NIfTI volume."""
    try:
        if file.suffix == ".gz":
            with gzip.open(file) as stream:  # to the end, where the checksum is: nibabel stops before it
                while stream.read(1 << 20):
                    pass
        image = nibabel.load(file)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise InputError(f"{file} is not a NIfTI file.")
        if image.ndim != 3:
            raise InputError(f"{file} has {image.ndim} dimensions {image.shape}; a scan is one volume with three.")
        return image, np.asarray(image.dataobj, dtype=np.float32)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{file} is not a readable NIfTI file ({' '.join(str(error).split())}).") from error


def check_same_grid(image, file: Path, first, first_file: Path):
    """`InputError` if two images differ in shape or affine."""
    if image.shape != first.shape:
        raise InputError(f"{file} has shape {image.shape} but {first_file} has {first.shape}; register them first.")
    if not np.allclose(image.affine, first.affine, atol=AFFINE_TOLERANCE_MM):
        raise InputError(f"{file} and {first_file} have different affines; resample them to one grid first.")
