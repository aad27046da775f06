"""Volumes of one case: found in its folder, brought to the same axes, compared, and written on the grid of another."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import orientations
from nibabel.openers import ImageOpener
from numpy.typing import DTypeLike

from ..errors import InputError
from .volume_file import MAX_SHIFT, VolumeFile, largest_shift

TEXT_FIELDS = ("data_type", "db_name", "descrip", "aux_file", "intent_name")  # of a header; free text
SYNTHETIC = b"SYNTHETIC: difffuse_hf BrainPhantom"  # `descrip` of our own synthetic subjects


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


def along_axes_of(volume: VolumeFile, first: VolumeFile) -> VolumeFile:
    """The volume with its axes in the order and direction of another one's; no voxel changes."""
    turn = orientations.ornt_transform(
        orientations.io_orientation(volume.affine), orientations.io_orientation(first.affine)
    )
    if np.array_equal(turn, [[0, 1], [1, 1], [2, 1]]):
        return volume
    voxels = np.ascontiguousarray(orientations.apply_orientation(volume.voxels, turn))
    affine = volume.affine @ orientations.inv_ornt_aff(turn, volume.voxels.shape)
    header: Any = volume.header.copy()
    header.set_data_shape(voxels.shape)
    header.set_sform(affine, code=int(header["sform_code"]) or int(header["qform_code"]) or 1)
    header.set_qform(affine, code=int(header["qform_code"]))
    return replace(volume, voxels=voxels, affine=affine, header=header)


def header_like(geometry: nibabel.Nifti1Header, volume: nibabel.Nifti1Header) -> nibabel.Nifti1Header:
    """A header with the geometry of one and the voxel type of another."""
    header: Any = geometry.copy()
    header.set_data_dtype(volume.get_data_dtype())
    return header


def same_grid(volume: VolumeFile, first: VolumeFile) -> bool:
    """Do two volumes share their voxels, to a tenth of one?"""
    shape = volume.voxels.shape
    return shape == first.voxels.shape and largest_shift(volume.affine, first.affine, shape) < MAX_SHIFT


def check_same_grid(volume: VolumeFile, first: VolumeFile) -> None:
    """`InputError` if two volumes do not share their voxels."""
    shapes = volume.voxels.shape, first.voxels.shape
    if shapes[0] != shapes[1]:
        raise InputError(f"{volume.file} has shape {shapes[0]} but {first.file} has {shapes[1]}; register them first.")
    if not same_grid(volume, first):
        raise InputError(f"{volume.file} and {first.file} have different affines; resample them to one grid first.")


def remove_text(header: nibabel.Nifti1Header) -> None:
    """Blank the fields of a header that hold free text, and drop its extensions: scanners and converters write names
    of patients there. Our own mark of a synthetic subject stays."""
    fields: Any = header
    for field in set(TEXT_FIELDS) & set(header.keys()):
        if fields[field].item() != SYNTHETIC:
            fields[field] = b""
    header.extensions.clear()


def without_text(file: Path) -> str | dict[str, Any]:
    """A NIfTI file as `datasets` embeds it: its path, or its bytes with the texts of the header removed."""
    kind: Any = type(open_nifti(file).header)
    with ImageOpener(str(file)) as stream:
        header = kind.from_fileobj(stream)
    plain = header.copy()
    remove_text(plain)
    if plain.binaryblock == header.binaryblock and not header.extensions:
        return str(file)
    with ImageOpener(str(file)) as stream:
        content = stream.read()
    start = header.get_data_offset()
    content = plain.binaryblock + bytes(start - len(plain.binaryblock)) + content[start:]
    return {"path": file.name, "bytes": gzip.compress(content, 1) if file.suffix == ".gz" else content}


def write_volume(
    file: str | Path, volume: np.ndarray, header: nibabel.Nifti1Header, dtype: DTypeLike = np.float32
) -> None:
    """Write a volume (X, Y, Z) with the geometry of `header`; integer types round and clip to their range.

    Of the header's texts nothing is written (see `remove_text`).
    """
    header = header.copy()
    remove_text(header)
    header.set_data_dtype(dtype)
    header["cal_min"] = header["cal_max"] = 0  # a display window of other intensities
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(np.dtype(dtype).name)
        volume = np.rint(volume).clip(limits.min, limits.max)
    nibabel.save(nibabel.Nifti1Image(volume.astype(dtype), None, header), file)
