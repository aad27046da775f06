"""DICOM files into slice headers, about a millisecond each (thesis Sec. 3.4.4, step 1). No pixel is decoded.

Coordinates are DICOM's patient coordinates in mm, LPS: x to the patient's left, y to the back, z to the head.
"""

import math
import os
import re
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class; with a suffix, Enhanced CT and its legacy conversion
NOT_DICOM = "not a DICOM file"
_TAGS = [
    Tag(name)
    for name in """
    SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID PatientID PatientAge
    PatientBirthDate StudyDate Modality Manufacturer ImageType ConvolutionKernel SeriesDescription Rows Columns
    PixelSpacing ImageOrientationPatient ImagePositionPatient SliceThickness GantryDetectorTilt AcquisitionNumber
    AcquisitionTime InstanceNumber WindowCenter WindowWidth BitsAllocated BitsStored SamplesPerPixel NumberOfFrames
    PhotometricInterpretation RescaleSlope RescaleIntercept BurnedInAnnotation
    """.split()
]


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What the rules need to know of one slice; None or "" where the header does not say."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    patient_id: str
    age_years: float | None
    study_date: str  # YYYYMMDD
    study_day: int | None  # the same as a number of days, to be subtracted
    modality: str
    manufacturer: str
    image_type: tuple[str, ...]
    kernel: str
    description: str
    rows: int
    columns: int
    num_frames: int  # more than one in Enhanced CT files, which are not supported
    pixel_spacing_mm: tuple[float, float] | None  # between rows, between columns
    orientation: tuple[float, ...] | None  # unit vectors along a row and down a column
    position: tuple[float, ...] | None  # centre of the first pixel
    thickness_mm: float | None
    tilt_tag_deg: float | None  # its sign differs between vendors: use `Series.tilt_deg`
    acquisition: int | None
    acquisition_time: str
    instance: int | None
    window: tuple[float, float] | None  # centre, width
    bits_stored: int
    photometric: str
    slope: float | None
    intercept: float | None
    burned_in: bool
    truncated: bool  # the file is shorter than its pixels
    series_key: str  # names a series that this slice begins, by its SeriesInstanceUID
    frame_key: str  # the same, by its study and frame of reference
    number: int = -1  # of the file in a scan of a disk (`scan.py`)


@dataclass(frozen=True, slots=True)
class Unread:
    """Why a file gives no header. `lasting`: until the file changes, other than a disk that does not answer."""

    why: str
    lasting: bool


def find_files(root: str | Path) -> list[Path]:
    """All files below `root` that may be DICOM, sorted; hidden files, `._*` and DICOMDIR are left out."""
    root = Path(root)
    return [root] if root.is_file() else [Path(entry.path) for entry in walk_files(root)]


def walk_files(folder: str | Path) -> Iterator[os.DirEntry]:
    """The same, one by one as the system lists them; folders that cannot be listed and links to folders are not
    entered."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name)
    except OSError:
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from walk_files(entry.path)
        elif entry.name.upper() != "DICOMDIR" and not entry.is_dir():
            yield entry


def _name(entry: os.DirEntry) -> str:
    return os.path.normcase(entry.name)  # as paths are compared


def read_headers(paths: Iterable[str | Path]) -> tuple[list[SliceHeader], list[tuple[Path, str]]]:
    """Headers of the images in these files, and the files that gave none, each with why (`NOT_DICOM`, for example).

    A file that ends before its (uncompressed) pixels do has a header, marked `truncated`.
    """
    headers, failed = [], []
    for path in map(Path, paths):
        header = read_header(path)
        if isinstance(header, Unread):
            failed.append((path, header.why))
        else:
            headers.append(header)
    return headers, failed


def read_header(path: Path) -> SliceHeader | Unread:
    """The header of the image in a file, as `read_headers` gives it."""
    try:
        with disable_value_validation():
            return _read(path)
    except InvalidDicomError:
        return Unread(NOT_DICOM, True)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        OverflowError,
        KeyError,
        TypeError,
        AttributeError,
        struct.error,
    ) as error:
        lasting = getattr(error, "errno", None) is None
        return Unread(str(error).partition("\n")[0] or type(error).__name__, lasting)


def _read(path: Path) -> SliceHeader:
    with open(path, "rb") as file:
        start = file.read(132)
        file.seek(0)
        bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"  # old exports begin with the data
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=bare)
        rest = os.fstat(file.fileno()).st_size - file.tell()
    syntax = dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
    number, text = partial(_number, dataset), partial(_text, dataset)
    rows, columns = int(number("Rows") or 0), int(number("Columns") or 0)
    if rows * columns == 0 and text("SOPClassUID").startswith(CT_IMAGE):
        raise ValueError("the file ends in its header")
    num_frames = int(number("NumberOfFrames") or 1)
    pixels = rows * columns * num_frames * int(number("SamplesPerPixel") or 1)
    num_bytes = pixels * int(number("BitsAllocated") or 16) // 8
    if syntax == DeflatedExplicitVRLittleEndian:
        truncated = False  # zlib would have failed
    else:
        truncated = rest < (min(num_bytes, 1) if syntax.is_encapsulated else num_bytes)
    centre, width, spacing = number("WindowCenter"), number("WindowWidth"), _numbers(dataset, "PixelSpacing", 2)
    acquisition, instance = number("AcquisitionNumber"), number("InstanceNumber")
    orientation, study, kernel = _orientation(dataset), text("StudyInstanceUID"), text("ConvolutionKernel")
    turned = [round(100 * cosine) for cosine in orientation or ()]
    look = f"{kernel}|{rows}x{columns}|{turned}"
    return SliceHeader(
        path=path,
        sop_class_uid=text("SOPClassUID"),
        sop_instance_uid=text("SOPInstanceUID"),
        series_uid=text("SeriesInstanceUID"),
        study_uid=study,
        frame_of_reference_uid=text("FrameOfReferenceUID"),
        patient_id=text("PatientID"),
        age_years=_age(text("PatientAge"), text("PatientBirthDate"), text("StudyDate")),
        study_date=text("StudyDate"),
        study_day=_day(text("StudyDate")),
        modality=text("Modality"),
        manufacturer=text("Manufacturer"),
        image_type=tuple(filter(None, text("ImageType").upper().split("\\"))),
        kernel=kernel,
        description=text("SeriesDescription"),
        rows=rows,
        columns=columns,
        num_frames=num_frames,
        pixel_spacing_mm=None if spacing is None else (spacing[0], spacing[1]),
        orientation=orientation,
        position=_numbers(dataset, "ImagePositionPatient", 3),
        thickness_mm=number("SliceThickness"),
        tilt_tag_deg=number("GantryDetectorTilt"),
        acquisition=None if acquisition is None else int(acquisition),
        acquisition_time=text("AcquisitionTime"),
        instance=None if instance is None else int(instance),
        window=None if centre is None or width is None else (centre, width),
        bits_stored=int(number("BitsStored") or 0),
        photometric=text("PhotometricInterpretation"),
        slope=number("RescaleSlope"),
        intercept=number("RescaleIntercept"),
        burned_in=text("BurnedInAnnotation").upper() == "YES",
        truncated=truncated,
        series_key=f"{text('SeriesInstanceUID')}|{look}",
        frame_key=f"{study}|{text('FrameOfReferenceUID')}|{look}",
    )


def _values(dataset: Dataset, name: str) -> list:
    value = dataset.get(name)
    return [] if value is None or value == "" else [value] if isinstance(value, (str, int, float)) else list(value)


def _text(dataset: Dataset, name: str) -> str:
    """One string, several values joined by a backslash; shared between slices, since most repeat."""
    return sys.intern("\\".join(str(value).strip(" \0") for value in _values(dataset, name)))


def _numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(value) for value in _values(dataset, name))
    except ValueError:  # text where a number belongs
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def _orientation(dataset: Dataset) -> tuple[float, ...] | None:
    """Six cosines; None unless they are two unit vectors at a right angle."""
    cosines = _numbers(dataset, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = [math.hypot(*row), math.hypot(*column), 1 + abs(sum(a * b for a, b in zip(row, column)))]
    return cosines if all(abs(length - 1) < 0.01 for length in lengths) else None


def _number(dataset: Dataset, name: str) -> float | None:
    """The first value: windows are often given in pairs."""
    try:
        return float(_values(dataset, name)[0])
    except (IndexError, ValueError):
        return None


def _age(age: str, birth_date: str, study_date: str) -> float | None:
    """Years, from PatientAge ("072Y", "030M") or else from the birth and study dates."""
    match = re.fullmatch(r"(\d+)([YMWD]?)", age.upper())
    if match:
        return int(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52.18, "D": 365.25}[match[2]]
    born, studied = _day(birth_date), _day(study_date)
    return None if born is None or studied is None else (studied - born) / 365.25


def _day(date: str) -> int | None:
    """The number of a date YYYYMMDD; None for anything else."""
    try:
        return datetime.strptime(date, "%Y%m%d").toordinal()
    except ValueError:
        return None
