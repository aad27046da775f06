"""NIfTI files: found in a case's folder, read whole, compared with one another, and written on the grid of another."""

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike

from ..errors import InputError

AFFINE_TOLERANCE_MM = 1e-3  # modalities closer than this share one grid
_UNREADABLE = (
    ImageFileError,
    HeaderDataError,
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


def open_nifti(file: str | Path) -> nibabel.Nifti1Pair:
    """The image of a file, its voxels still on disk; `InputError` if it has another format that nibabel reads."""
    image = nibabel.load(file)
    if not isinstance(image, nibabel.Nifti1Pair):
        raise InputError(f"{file} is not a NIfTI file.")
    return image


def read_volume(file: str | Path) -> tuple[nibabel.Nifti1Pair, np.ndarray]:
    """The image of a file and its voxels as float32 (X, Y, Z); `InputError` if it is no readable NIfTI volume."""
    file = Path(file)
    try:
        if file.suffix == ".gz":
            with gzip.open(file) as stream:  # to the end, where the checksum is: nibabel stops before it
                while stream.read(1 << 20):
                    pass
        image = open_nifti(file)
        if image.ndim != 3:
            raise InputError(f"{file} has {image.ndim} dimensions {image.shape}; a scan is one volume with three.")
        return image, np.asarray(image.dataobj, dtype=np.float32)
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{file} is not a readable NIfTI file ({' '.join(str(error).split())}).") from error


def check_same_grid(
    image: nibabel.Nifti1Pair, file: str | Path, first: nibabel.Nifti1Pair, first_file: str | Path
) -> None:
    """`InputError` if two images differ in shape or affine."""
    if image.shape != first.shape:
        raise InputError(f"{file} has shape {image.shape} but {first_file} has {first.shape}; register them first.")
    if not np.allclose(np.array(image.affine), np.array(first.affine), atol=AFFINE_TOLERANCE_MM):
        raise InputError(f"{file} and {first_file} have different affines; resample them to one grid first.")


def own_dtype(image: nibabel.Nifti1Pair) -> np.dtype:
    """The type in which volumes like this one are written: the file's if it holds plain integers, else float32."""
    stored, voxels = np.dtype(image.get_data_dtype()), image.dataobj
    scaling = getattr(voxels, "slope", 1), getattr(voxels, "inter", 0)
    plain = stored.kind in "iu" and scaling == (1, 0)
    return stored if plain else np.dtype(np.float32)


def write_volume(
    file: str | Path, volume: np.ndarray, header: nibabel.Nifti1Header, dtype: DTypeLike = np.float32
) -> None:
    """Write a volume (X, Y, Z) with the geometry of `header`; integer types round and clip to their range."""
    header = header.copy()
    header.set_data_dtype(dtype)
    header["cal_min"] = header["cal_max"] = 0  # a display window of other intensities
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(np.dtype(dtype).name)
        volume = np.rint(volume).clip(limits.min, limits.max)
    nibabel.save(nibabel.Nifti1Image(volume.astype(dtype), None, header), file)
