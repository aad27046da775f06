"""One file as one volume in millimetres: NIfTI, its `.hdr`/`.img` pairs, FreeSurfer's MGZ, NRRD and MetaImage.

What a header leaves open or says twice is decided here, and said in `notes`: no orientation, two orientations that
differ, a unit other than the millimetre.
"""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.affines import apply_affine, from_matvec
from nibabel.analyze import AnalyzeImage
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError, MGHImage
from nibabel.orientations import aff2axcodes, io_orientation
from nibabel.spatialimages import HeaderDataError

from ..errors import InputError

ITK_ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")
ENDINGS = (".nii.gz", ".nii", ".hdr", ".img.gz", ".img", ".mgz", ".mgh", *ITK_ENDINGS)
UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # code of NIfTI's xyzt_units: not said, metre, millimetre, micron
UNIT_NAMES = {1: "metres", 3: "microns"}
MOST_VOXELS = 2**28  # 1 GiB in float32; 512 x 512 x 1024
MOST_HEADER_BYTES = 50_000_000  # before and after the voxels
MAX_SHIFT = 0.1  # voxels; grids whose corners lie closer together than this are one grid
DIRECTIONS = dict(zip("LRAPSI", ("left", "right", "front", "back", "top", "feet")))
UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    MGHError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    zlib.error,
    OverflowError,
    MemoryError,
    IndexError,
    KeyError,
    ArithmeticError,  # of floats in a header
    RecursionError,
    struct.error,
    np.linalg.LinAlgError,
)


@dataclass(frozen=True)
class VolumeFile:
    """A volume as it lies in its file, its geometry in millimetres."""

    file: Path
    voxels: np.ndarray  # (X, Y, Z) float32
    affine: np.ndarray  # (4, 4), voxel to RAS+ millimetres
    header: nibabel.Nifti1Header  # of this geometry, with the voxel type in which volumes like this one are written
    notes: tuple[str, ...] = ()  # what was decided in reading it, such as an orientation that the header lacks


def stem(file: str | Path) -> str:
    """The name of a file without the ending of its format; the whole name if it has none that is read."""
    name = Path(file).name
    return next((name[: -len(end)] for end in (*ENDINGS, ".zip") if name.lower().endswith(end)), name)


def volume_files(folder: Path) -> list[Path]:
    """The files of a folder whose names end as volumes do, sorted; of a pair `.hdr`/`.img` the header only."""
    found = [
        file
        for file in sorted(folder.iterdir())
        if file.name.lower().endswith(ENDINGS) and not file.name.startswith(".") and file.is_file()
    ]
    headers = {stem(file) for file in found if file.suffix.lower() == ".hdr"}
    return [file for file in found if not (file.name.lower().endswith((".img", ".img.gz")) and stem(file) in headers)]


def read_volume_file(file: str | Path) -> VolumeFile:
    """Read one volume.

    An axis more with one volume along it is dropped, a single slice gets a third axis.

    Raises:
        InputError: the file holds no single volume of numbers, its unit is unknown, or it cannot be read.
    """
    file = Path(file)
    if not file.is_file():  # a pipe would be waited for
        raise InputError(f"{file} is missing or no plain file.")
    try:
        image, notes = _open(file)
        shape = _volume_shape(image, file)
        packed = file.suffix.lower() in (".gz", ".mgz")
        held = _read_to_the_end(file, image) if packed else file.stat().st_size
        if file.suffix.lower() in (".gz", ".mgz", ".nii", ".mgh") and held < _least_bytes(image):
            raise ValueError(f"it is cut off: {held} bytes where {_least_bytes(image)} are the least")
        voxels = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
        affine, header, more_notes = _in_millimetres(image, file)
    except InputError:
        raise
    except UNREADABLE as error:
        kind = "NIfTI file" if ".nii" in file.name.lower() else "image file"
        raise InputError(f"{file} is not a readable {kind} ({' '.join(str(error).split())}).") from error
    return VolumeFile(file, voxels, affine, header, (*notes, *more_notes))


def own_dtype(image: nibabel.Nifti1Pair) -> np.dtype:
    """The type in which volumes like this one are written: the file's if it holds plain integers, else float32."""
    stored, voxels = np.dtype(image.get_data_dtype()), image.dataobj
    scaling = getattr(voxels, "slope", 1), getattr(voxels, "inter", 0)
    plain = stored.kind in "iu" and scaling == (1, 0)
    return stored if plain else np.dtype(np.float32)


def largest_shift(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far the corners of a volume lie apart under two affines, in voxels; the largest distance."""
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape[:3]))).reshape(3, -1).T
    moved = apply_affine(np.linalg.inv(one) @ other, corners)
    return float(np.linalg.norm(moved - corners, axis=1).max())


def _open(file: Path) -> tuple[nibabel.Nifti1Pair, list[str]]:
    """The file as a NIfTI image, its voxels still on disk where nibabel reads it, and what its header leaves open."""
    if file.name.lower().endswith(ITK_ENDINGS):
        return _open_with_simpleitk(file)
    image = nibabel.load(file)
    if isinstance(image, nibabel.Nifti1Pair):
        codes = int(image.header["sform_code"]), int(image.header["qform_code"])
        return image, [] if any(codes) else [_unoriented(image.affine, "sform and qform codes are 0")]
    if isinstance(image, MGHImage):
        good = bool(image.header["goodRASFlag"])
        notes = [] if good else [_unoriented(image.affine, "goodRASFlag is 0")]
    elif isinstance(image, AnalyzeImage):
        notes = [_unoriented(image.affine, "Analyze 7.5 has no orientation")]
    else:
        raise InputError(f"{file} is no NIfTI file, but {type(image).__name__}; convert it to NIfTI, MGZ or NRRD.")
    return nibabel.Nifti1Image(image.dataobj, image.affine), notes


def _unoriented(affine: Any, why: str) -> str:
    ways = ", ".join(DIRECTIONS[str(code)] for code in aff2axcodes(affine))
    return (
        f"the header does not say where left and front are ({why}); its axes were taken to run to {ways}, "
        "so check on the pictures that front and back, left and right are where they belong"
    )


def _open_with_simpleitk(file: Path) -> tuple[nibabel.Nifti1Pair, list[str]]:
    try:
        import SimpleITK as sitk
    except ModuleNotFoundError as error:
        raise InputError(
            f"{file} is read with SimpleITK, which is missing; install it (pip install 'difffuse_hf[preprocess]') "
            "or convert the file to NIfTI."
        ) from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        _check_size(reader.GetSize(), file, reader.GetNumberOfComponents())
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from error
    if file.suffix.lower() in (".nrrd", ".nhdr"):
        _check_nrrd_units(file)
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(_not_one_number(file))
    dimension = image.GetDimension()
    voxels = sitk.GetArrayFromImage(image).T  # (X, Y, Z, ...)
    matrix, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    use = min(dimension, 3)
    matrix[:use, :use] = np.reshape(image.GetDirection(), (dimension, dimension))[:use, :use]
    spacing[:use], origin[:use] = image.GetSpacing()[:use], image.GetOrigin()[:use]
    affine = np.diag([-1.0, -1, 1, 1]) @ from_matvec(matrix * spacing, origin)  # LPS to RAS
    keys = image.GetMetaDataKeys()
    oriented = file.suffix.lower() not in (".nrrd", ".nhdr") or "NRRD_space" in keys
    return nibabel.Nifti1Image(voxels, affine), [] if oriented else [_unoriented(affine, "there is no `space`")]


def _check_nrrd_units(file: Path) -> None:
    """`InputError` if an NRRD file is not in millimetres; SimpleITK does not look."""
    with file.open("rb") as stream:
        header = stream.read(1 << 16).partition(b"\n\n")[0].decode("latin-1")
    line = re.search(r"^space units:(.*)$", header, re.MULTILINE)
    others = set(re.findall(r'"([^"]+)"', line[1])) - {"mm"} if line else set()
    if others:
        raise InputError(f"{file} has lengths in {', '.join(sorted(others))}; convert it to millimetres.")


def _volume_shape(image: nibabel.Nifti1Pair, file: Path) -> tuple[int, int, int]:
    """(X, Y, Z) of an image with one volume of one number a voxel."""
    dtype, shape = np.dtype(image.get_data_dtype()), image.shape
    if dtype.names or dtype.kind == "c":
        raise InputError(_not_one_number(file))
    _check_size(shape, file)
    if len(shape) == 2:
        return shape[0], shape[1], 1
    if len(shape) < 3 or np.prod(shape[3:]) != 1:
        raise InputError(f"{file} has {len(shape)} dimensions {shape}; a scan is one volume with three.")
    return shape[0], shape[1], shape[2]


def _check_size(shape: Sequence[int], file: Path, numbers: int = 1) -> None:
    """`InputError` before memory is taken for a volume that no scanner makes."""
    if min(shape, default=0) < 1 or math.prod(shape) * numbers > MOST_VOXELS:
        raise InputError(
            f"{file} says that it has {' x '.join(map(str, shape))} voxels; a scan has 1 to {MOST_VOXELS:,}."
        )


def _least_bytes(image: nibabel.Nifti1Pair) -> int:
    """That the voxels of an image take, unpacked."""
    return math.prod(image.shape) * np.dtype(image.get_data_dtype()).itemsize


def _read_to_the_end(file: Path, image: nibabel.Nifti1Pair) -> int:
    """Bytes up to where the checksum is, before which nibabel stops; `InputError` if far more than the header says."""
    read = 0
    with gzip.open(file) as stream:
        while some := stream.read(1 << 20):
            read += len(some)
            if read > _least_bytes(image) + MOST_HEADER_BYTES:
                raise InputError(f"{file} holds much more than its header says; export it again.")
    return read


def _not_one_number(file: Path) -> str:
    return f"{file} holds colours, vectors or complex numbers; a scan has one number for each voxel."


def _spans_space(affine: np.ndarray) -> bool:
    """Whether each axis of the voxels runs along one of the body's; numbers that overflow do not."""
    with np.errstate(all="ignore"):
        if not np.isfinite(affine).all() or not abs(np.linalg.det(affine)) >= np.finfo(float).tiny:
            return False
        return bool(np.isfinite(affine @ affine.T).all() and np.isfinite(io_orientation(affine)).all())


def _in_millimetres(image: nibabel.Nifti1Pair, file: Path) -> tuple[np.ndarray, nibabel.Nifti1Header, list[str]]:
    """Affine and header of an image in millimetres, and what was decided."""
    header: Any = image.header.copy()  # nibabel promises less than it gives
    notes, affine = [], np.array(image.affine, dtype=float)
    header.set_data_dtype(own_dtype(image))
    unit = int(header["xyzt_units"]) & 7
    if unit not in UNIT_MM:
        raise InputError(f"{file} has an unknown unit of length (xyzt_units {unit}); set it to millimetres.")
    affine[:3] *= UNIT_MM[unit]
    if len(image.shape) == 2 and not affine[:3, 2].any():  # a slice without a thickness: 1 mm
        one, other = (affine[:3, axis] / (np.linalg.norm(affine[:3, axis]) or 1) for axis in (0, 1))
        affine[:3, 2] = np.cross(one, other)
    if not _spans_space(affine):
        raise InputError(f"The header of {file} does not say how large a voxel is (its affine is singular).")
    codes = int(header["sform_code"]), int(header["qform_code"])
    if all(codes):
        sform, qform = header.get_sform(), header.get_qform()
        if abs(np.linalg.det(qform)) > 0 and largest_shift(sform, qform, image.shape) > 0.5:
            notes.append("sform and qform of the header lie more than half a voxel apart; the sform was taken")
    if unit in UNIT_NAMES:
        notes.append(f"the header is in {UNIT_NAMES[unit]}, and was read so")
    if not np.array_equal(affine, np.array(image.affine)):
        header.set_sform(affine, code=codes[0] or 1)
        header.set_qform(affine, code=codes[1])
        header.set_xyzt_units("mm")
    return affine, header, notes
