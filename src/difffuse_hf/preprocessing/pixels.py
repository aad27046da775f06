"""The pixels of one slice in Hounsfield units, as its header says them (thesis Sec. 3.4.4, step 2).

GDCM decodes nearly every transfer syntax in use. pydicom takes what GDCM does not show as it is: MONOCHROME1, which
GDCM would invert although it says how to display the values and not what they are, and the frames of Enhanced CT.
"""

import filecmp
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from ..errors import InputError
from .headers import SliceHeader, printable
from .shapes import label_pieces

LOWEST_HU = -1024  # what scanners write for air and less
PADDING_BELOW_HU = -1100  # nothing in a patient is darker than air
AIR_UP_TO_HU = -900
HIGHEST_HU = 3071  # 12 bits
PRIVATE_SYNTAX = "a maker's private transfer syntax; export the series in one of the standard"
CANNOT_BE_DECODED = "a file cannot be decoded"
_INT16 = 32767


class UnreadableSeries(InputError):
    """Files of a series cannot be decoded: made of the reason, which names no file, and the first such file."""

    @property
    def reason(self) -> str:
        return self.args[0]

    def __str__(self):
        return f"{self.reason}, the first is {printable(self.args[1])}; export the series again."


def decode_slice(header: SliceHeader) -> np.ndarray:
    """Pixels (H, W) times the slice's own slope plus its intercept, as int16; raises `UnreadableSeries`.

    Padding that the header declares takes the darkest measured value of the slice. Values that 16 bits with a sign
    do not hold were written without it and wrap round: 64536 is -1000.
    """
    try:
        image = _decode_frame(header) if header.num_frames > 1 else _decode_file(header)
    except Exception as error:  # decoders raise anything at damaged bytes, and the file may be gone
        raise UnreadableSeries(_why_not(header), header.path) from error
    if image.shape != (header.rows, header.columns):
        raise UnreadableSeries("a file has other pixels than its header says", header.path)
    return _as_int16(_without_padding(image, header))


def same_pixels(one: SliceHeader, other: SliceHeader) -> bool:
    """Whether two slices show the same; False where one of them cannot be decoded, but for a copy of the file."""
    try:
        if one.frame == other.frame and filecmp.cmp(one.path, other.path, shallow=False):
            return True
        return np.array_equal(decode_slice(one), decode_slice(other))
    except (UnreadableSeries, OSError):
        return False


def _decode_file(header: SliceHeader) -> np.ndarray:
    if header.photometric == "MONOCHROME1":
        return _rescale(pydicom.dcmread(header.path, force=True).pixel_array, header)
    try:
        with _readable_name(header.path) as path:
            return sitk.GetArrayFromImage(sitk.ReadImage(path, imageIO="GDCMImageIO"))[0]
    except RuntimeError:  # a syntax that GDCM does not know, and that a plug-in of pydicom may
        return _rescale(pydicom.dcmread(header.path, force=True).pixel_array, header)


def _decode_frame(header: SliceHeader) -> np.ndarray:
    dataset = _open(header.path)
    if get_decoder(UID(header.transfer_syntax)).is_available:
        return _rescale(pixel_array(dataset, index=header.frame, raw=True), header)
    with tempfile.TemporaryDirectory() as folder:  # as a file of its own, whose values GDCM does not rescale
        path = Path(folder) / "frame.dcm"
        _single_frame(dataset, header.frame).save_as(path)
        return _rescale(sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))[0], header)


@lru_cache(2)  # two, to compare files
def _open(path: Path) -> Dataset:
    return pydicom.dcmread(path, force=True)


def forget_file():
    """Free what `decode_slice` has kept of multi-frame files."""
    _open.cache_clear()


def _single_frame(dataset: Dataset, index: int) -> Dataset:
    single = Dataset()
    for name in (
        "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation"
    ).split():
        setattr(single, name, dataset.get(name))
    single.SOPClassUID, single.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.2"), UID("1.2.3")
    frame = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.NumberOfFrames))
    single.PixelData = encapsulate([frame])
    single["PixelData"].VR = "OB"
    single["PixelData"].is_undefined_length = True
    single.file_meta = dataset.file_meta
    return single


@contextmanager
def _readable_name(path: Path) -> Iterator[str]:
    """A name of the file for SimpleITK, which ends the process at bytes that are no UTF-8."""
    name = os.fspath(path)
    if name.isascii() or printable(path) == name:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "slice.dcm")
        os.symlink(os.path.abspath(path), link)
        yield link


def _rescale(stored: np.ndarray, header: SliceHeader) -> np.ndarray:
    slope = 1.0 if header.slope is None else header.slope
    return stored * slope + (header.intercept or 0.0)


def _without_padding(image: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Padding is undone where no tissue has its value, or where it fills the corners: some headers declare 0 HU."""
    padding = declared_padding(header)
    if padding is None:
        return image
    low, high = padding
    declared = (image >= low - 0.01) & (image <= high + 0.01)
    if high >= PADDING_BELOW_HU and low <= HIGHEST_HU:
        declared = _touching_corners(declared)
    if not declared.any():
        return image
    darkest = LOWEST_HU if declared.all() else image[~declared].min()
    return np.where(declared, darkest, image)


def declared_padding(header: SliceHeader) -> tuple[float, float] | None:
    """The lowest and highest padding in HU; None where the header declares none, or none but air."""
    if header.padding is None:
        return None
    slope, intercept = 1.0 if header.slope is None else header.slope, header.intercept or 0.0
    low, high = sorted(end * slope + intercept for end in header.padding)
    return None if low >= PADDING_BELOW_HU and high <= AIR_UP_TO_HU else (low, high)


def _touching_corners(mask: np.ndarray) -> np.ndarray:
    """The pieces of a mask in all four corners; nothing if one corner is free."""
    pieces, _ = label_pieces(mask)
    corners = pieces[[0, 0, -1, -1], [0, -1, 0, -1]]
    return np.isin(pieces, corners) if corners.all() else np.zeros_like(mask)


def _as_int16(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.int16:
        return image
    image = np.rint(image).astype(np.int64)
    wrapped = (image > _INT16) & (image <= 2 * _INT16 + 1)
    image[wrapped] -= 2 * _INT16 + 2
    return image.clip(-_INT16 - 1, _INT16).astype(np.int16)


def _why_not(header: SliceHeader) -> str:
    syntax = UID(header.transfer_syntax)
    if syntax.is_private:
        return PRIVATE_SYNTAX
    if "High-Throughput" in syntax.name:
        return "a file is in HTJ2K, which needs `pip install pylibjpeg-openjpeg`, or another export"
    return CANNOT_BE_DECODED
