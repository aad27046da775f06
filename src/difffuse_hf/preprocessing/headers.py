"""DICOM files into slice headers, about a millisecond each (thesis Sec. 3.4.4, step 1). No pixel is decoded.

A file of one slice gives one header. A multi-frame file (Enhanced CT) gives one with `frames`, from which `frames_of`
makes one for each slice. Coordinates are DICOM's patient coordinates in mm, LPS: x to the patient's left, y to the
back, z to the head.
"""

import os
import re
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from .contents import contrast_of, derivation_of
from .frames import Frame, frames_of_dataset
from .values import number_of, numbers_of, orientation_of, spacing_of, text_of, whole_of

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP class; with a suffix, Enhanced CT and its legacy conversion
UNCOMPRESSED = ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian
NOT_DICOM = "not a DICOM file"
ARCHIVE = "an archive; unpack it, and give the folder with what was in it"
_ARCHIVES = b"PK\x03\x04", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"
_TAGS = [
    Tag(name)
    for name in """
    SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID PatientID PatientAge
    PatientName PatientSex IssuerOfPatientID PatientBirthDate StudyDate SeriesDate SeriesTime SeriesNumber Modality
    Manufacturer ImageType ConvolutionKernel SeriesDescription Rows Columns PixelSpacing ImageOrientationPatient
    ImagePositionPatient SliceThickness GantryDetectorTilt AcquisitionNumber AcquisitionTime InstanceNumber
    TemporalPositionIdentifier WindowCenter WindowWidth BitsAllocated BitsStored PixelRepresentation SamplesPerPixel
    NumberOfFrames PhotometricInterpretation RescaleSlope RescaleIntercept PixelPaddingValue PixelPaddingRangeLimit
    BurnedInAnnotation ContrastBolusAgent ContrastBolusRoute ContrastBolusVolume ContrastBolusAgentSequence
    VolumeBasedCalculationTechnique
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
    """.split()
]
_MOST_FRAMES = 100_000  # in a file
MOST_PIXELS = 2**24  # in a slice; 4096 x 4096
MOST_DEFLATED_BYTES = 2**30
_PATIENT = "PatientID IssuerOfPatientID PatientName PatientBirthDate PatientSex".split()
_SESSION = "FrameOfReferenceUID StudyDate SeriesDate SeriesTime SeriesNumber TemporalPositionIdentifier".split()


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What the rules need to know of one slice; None or "" where the header does not say."""

    path: Path
    transfer_syntax: str = field(compare=False)  # how the file is written, and not what
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    patient_id: str
    owner: str  # all that tells one patient from another; "" if nothing is left of it
    session: str  # all that the slices of one series share beside the identifiers above, and two scans do not
    age_years: float | None
    study_date: str  # YYYYMMDD
    study_day: int | None  # the same as a number of days, to be subtracted
    modality: str
    manufacturer: str
    image_type: tuple[str, ...]
    contrast: str  # a word of `contents.py`, as is the next
    derivation: str
    kernel: str
    description: str
    rows: int
    columns: int
    num_frames: int  # in the file
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
    padding: tuple[float, float] | None  # stored values, lowest and highest, that are no measurement
    burned_in: bool
    truncated: bool  # the file is shorter than its pixels
    series_key: str  # names a series that this slice begins, by its SeriesInstanceUID
    frame_key: str  # the same, by its study and frame of reference
    frames: tuple[Frame, ...] = ()  # of a multi-frame file; () in the header of one frame
    frame: int = 0  # of the slice in its file
    number: int = -1  # of the file in a scan of a disk (`scan.py`)


@dataclass(frozen=True, slots=True)
class Unread:
    """Why a file gives no header. `lasting`: until the file changes, other than a disk that does not answer."""

    why: str
    lasting: bool


def frames_of(header: SliceHeader) -> list[SliceHeader]:
    """The headers of the slices in a file."""
    return [frame_of(header, index) for index in range(max(len(header.frames), 1))]


def frame_of(header: SliceHeader, index: int) -> SliceHeader:
    """The header of one slice in a file; frames are numbered in the order of the file."""
    if not header.frames:
        return header
    own = {name: value for name, value in header.frames[index]._asdict().items() if value not in (None, "")}
    own |= {"position": header.frames[index].position, "orientation": header.frames[index].orientation}
    instance = (header.instance or 0) * _MOST_FRAMES + index + 1  # of several files in their order
    return replace(header, frames=(), frame=index, instance=instance, **own)


def printable(path: str | os.PathLike) -> str:
    """A path as text that can be written anywhere: bytes of its name that are no UTF-8 become `\\x..`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


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
            headers += frames_of(header)
    return headers, failed


def read_header(path: Path) -> SliceHeader | Unread:
    """The header of the image in a file, of all its frames."""
    try:
        with disable_value_validation():
            return _read(path)
    except InvalidDicomError:
        return Unread(_what_it_is(path), True)
    except OSError as error:
        return Unread(str(error).partition("\n")[0], error.errno is None)
    except MemoryError:
        return Unread("the memory does not suffice", False)
    except Exception as error:  # one damaged byte makes pydicom raise anything; one file must not end the run
        return Unread(str(error).partition("\n")[0] or type(error).__name__, True)


def _what_it_is(path: Path) -> str:
    with open(path, "rb") as file:
        return ARCHIVE if file.read(6).startswith(_ARCHIVES) else NOT_DICOM


def _read(path: Path) -> SliceHeader:
    with open(path, "rb") as file:
        start = file.read(132)
        file.seek(0)
        bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"  # old exports begin with the data
        if DeflatedExplicitVRLittleEndian.encode() in file.read(1024):
            _check_deflated(path)
        file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=bare)
        rest = os.fstat(file.fileno()).st_size - file.tell()
    number, whole, text = partial(number_of, dataset), partial(whole_of, dataset), partial(text_of, dataset)
    rows, columns = whole("Rows") or 0, whole("Columns") or 0
    if rows * columns == 0 and text("SOPClassUID").startswith(CT_IMAGE):
        raise ValueError("the file ends in its header")
    if rows * columns > MOST_PIXELS:
        raise ValueError(f"the file says that it has {rows} x {columns} pixels, which no CT has")
    centre, width, num_frames = number("WindowCenter"), number("WindowWidth"), whole("NumberOfFrames") or 1
    frames = frames_of_dataset(dataset) if "PerFrameFunctionalGroupsSequence" in dataset else ()
    if frames and len(frames) != num_frames:
        raise ValueError(f"the file describes {len(frames)} frames and holds {num_frames}")
    orientation = frames[0].orientation if frames else orientation_of(dataset)
    if num_frames > 1 and not frames:
        orientation = None  # one place does not say where each frame lies
    study, kernel = text("StudyInstanceUID"), frames[0].kernel if frames else text("ConvolutionKernel")
    turned = [round(100 * cosine) for cosine in orientation or ()]
    look = f"{kernel}|{rows}x{columns}|{turned}"
    return SliceHeader(
        path=path,
        transfer_syntax=_syntax(dataset),
        sop_class_uid=text("SOPClassUID"),
        sop_instance_uid=text("SOPInstanceUID"),
        series_uid=text("SeriesInstanceUID"),
        study_uid=study,
        frame_of_reference_uid=text("FrameOfReferenceUID"),
        patient_id=text("PatientID"),
        owner=_joined(map(text, _PATIENT)),
        session=_joined(map(text, _SESSION)),
        age_years=_age(text("PatientAge"), text("PatientBirthDate"), text("StudyDate")),
        study_date=text("StudyDate"),
        study_day=_day(text("StudyDate")),
        modality=text("Modality"),
        manufacturer=text("Manufacturer"),
        image_type=tuple(filter(None, text("ImageType").upper().split("\\"))),
        contrast=contrast_of(dataset),
        derivation=derivation_of(dataset),
        kernel=kernel,
        description=text("SeriesDescription"),
        rows=rows,
        columns=columns,
        num_frames=num_frames,
        pixel_spacing_mm=spacing_of(dataset),
        orientation=orientation,
        position=numbers_of(dataset, "ImagePositionPatient", 3),
        thickness_mm=number("SliceThickness"),
        tilt_tag_deg=number("GantryDetectorTilt"),
        acquisition=whole("AcquisitionNumber"),
        acquisition_time=text("AcquisitionTime"),
        instance=whole("InstanceNumber"),
        window=None if centre is None or width is None else (centre, width),
        bits_stored=whole("BitsStored") or 0,
        photometric=text("PhotometricInterpretation"),
        slope=number("RescaleSlope"),
        intercept=number("RescaleIntercept"),
        padding=_padding(dataset),
        burned_in=text("BurnedInAnnotation").upper() == "YES",
        truncated=rest < _least_bytes(dataset, rows * columns * num_frames),
        series_key=f"{text('SeriesInstanceUID')}|{look}",
        frame_key=f"{study}|{text('FrameOfReferenceUID')}|{look}",
        frames=frames,
    )


def _check_deflated(path: Path) -> None:
    """Deflated data are unpacked at once: raise before they take far more memory than a scan."""
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    unpacked, left = zlib.decompressobj(-zlib.MAX_WBITS), MOST_DEFLATED_BYTES
    with open(path, "rb") as file:
        file.seek(144 + int(meta.FileMetaInformationGroupLength))  # after preamble, mark and that element
        while some := file.read(1 << 16):
            while some and not unpacked.eof:
                left -= len(unpacked.decompress(some, 1 << 20))
                some = unpacked.unconsumed_tail
                if left < 0:
                    raise ValueError("its deflated data are far larger than a scan")


def _joined(values: Iterable[str]) -> str:
    joined = "|".join(values)
    return sys.intern(joined if joined.strip("|") else "")


def _syntax(dataset: Dataset) -> str:
    return sys.intern(str(dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)))


def _least_bytes(dataset: Dataset, num_pixels: int) -> int:
    """How many bytes follow the header at least. Of compressed pixels nobody can say, nor of a private syntax."""
    syntax = UID(_syntax(dataset))
    num_bytes = num_pixels * (whole_of(dataset, "SamplesPerPixel") or 1) * (whole_of(dataset, "BitsAllocated") or 16)
    if syntax == DeflatedExplicitVRLittleEndian:
        return 0  # zlib would have failed
    return num_bytes // 8 if syntax in UNCOMPRESSED else min(num_bytes, 1)


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    """PixelPaddingValue up to PixelPaddingRangeLimit, as numbers of the kind that the pixels are.

    Both are often written with the other sign: 63536 is -2000 in 16 bits.
    """
    bits = whole_of(dataset, "BitsAllocated") or 16
    half = 2 ** (bits - 1) if whole_of(dataset, "PixelRepresentation") else 0
    ends = [whole_of(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    ends = [(end + half) % 2**bits - half for end in ends if end is not None]
    return (float(min(ends)), float(max(ends))) if ends and dataset.get("PixelPaddingValue") is not None else None


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
