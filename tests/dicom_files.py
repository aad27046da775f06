"""Synthetic CT series as DICOM files, for tests: axial, regular and soft-tissue unless tags say otherwise."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def tilted(degrees: float) -> tuple[float, ...]:
    """Orientation of a gantry tilt: the table still moves along z, so the stack is sheared."""
    angle = np.deg2rad(degrees)
    return (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle)))


def write_series(
    folder: str | Path,
    hounsfield: np.ndarray,
    spacing_mm: Sequence[float] = (5.0, 0.5, 0.5),
    origin_mm: Sequence[float] = (-20.0, -20.0, -60.0),
    transfer_syntax: UID = ExplicitVRLittleEndian,
    **tags,
) -> list[Path]:
    """Write `hounsfield` (S, H, W) as one slice per file and return the paths.

    `tags` are DICOM keywords: a value for all slices, a function of the slice's index, or None to leave the tag out.
    Slices follow each other along z from `origin_mm` (LPS, the centre of the first pixel); say
    `ImagePositionPatient=lambda i: ...` for anything else. Stored values are `(hounsfield - intercept) / slope`,
    with -1024 for an intercept that is left out. `written_as` is a transfer syntax that the files claim to be in.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    hounsfield = np.asarray(hounsfield)
    step, *pixel_spacing = map(float, spacing_mm)
    common = {
        "SOPClassUID": CTImageStorage,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "SOPInstanceUID": lambda i: generate_uid(),
        "PatientName": "SYNTHETIC^HEAD",
        "PatientID": "SYNTHETIC-1",
        "PatientAge": "070Y",
        "StudyDate": "20050102",
        "Modality": "CT",
        "Manufacturer": "SYNTHETIC",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ConvolutionKernel": "UB",
        "SeriesDescription": "SYNTHETIC BRAIN",
        "AcquisitionNumber": 1,
        "InstanceNumber": lambda i: i + 1,
        "PixelSpacing": pixel_spacing,
        "SliceThickness": step,
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": lambda i: (origin_mm[0], origin_mm[1], origin_mm[2] + i * step),
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "WindowCenter": 40,
        "WindowWidth": 80,
    }
    written_as = UID(tags.pop("written_as", ""))
    paths = []
    for i, image in enumerate(hounsfield):
        values = {tag: value(i) if callable(value) else value for tag, value in {**common, **tags}.items()}
        values = {tag: value for tag, value in values.items() if value is not None}
        values = {tag: list(value) if isinstance(value, tuple) else value for tag, value in values.items()}
        paths.append(folder / f"{i:04d}.dcm")
        write_slice(paths[-1], image, transfer_syntax, **values)
        if written_as:  # what the file says of itself, whatever it is
            dataset = dcmread(paths[-1])
            dataset.file_meta.TransferSyntaxUID = written_as
            if not written_as.is_private and written_as.is_encapsulated:
                dataset.PixelData = encapsulate([dataset.PixelData])
            dataset.save_as(paths[-1], implicit_vr=False, little_endian=True)
    return paths


def write_slice(path: Path, image: np.ndarray, transfer_syntax: UID = ExplicitVRLittleEndian, **tags) -> None:
    """Write one image (H, W) in Hounsfield units with exactly these tags, and those that describe its pixels."""
    dataset = Dataset()
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    stored = (image - float(tags.get("RescaleIntercept", -1024))) / float(tags.get("RescaleSlope", 1))
    dtype = np.dtype(f"{'ui'[tags['PixelRepresentation']]}{tags['BitsAllocated'] // 8}")
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsStored = tags.get("BitsStored", tags["BitsAllocated"])
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = np.ascontiguousarray(stored.round().astype(dtype)).tobytes()
    dataset["PixelData"].VR = "OW" if dtype.itemsize == 2 else "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = transfer_syntax
    elif transfer_syntax != ExplicitVRLittleEndian:
        dataset.compress(transfer_syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)


def write_enhanced(
    path: Path,
    hounsfield: np.ndarray,
    spacing_mm: Sequence[float] = (5.0, 0.5, 0.5),
    transfer_syntax: UID = ExplicitVRLittleEndian,
    slopes: Sequence[float] | None = None,
    times: Sequence[int] | None = None,
    placed: bool = True,
    **tags,
) -> Path:
    """Write `hounsfield` (S, H, W) as one Enhanced CT file, slices from (-20, -20, -60) upwards along z.

    `slopes` are those of the frames (intercept -1024); `times` their TemporalPositionIndex, each of which starts at
    the same place; without `placed`, the functional groups hold no positions.
    """
    step, *pixel_spacing = map(float, spacing_mm)

    def group(**values):
        one = Dataset()
        for name, value in values.items():
            setattr(one, name, value)
        return [one]

    slopes, frames, seen = slopes or [1.0] * len(hounsfield), [], Counter()
    for i, slope in enumerate(slopes):
        content = group(InStackPositionNumber=i + 1, StackID="1")
        if times:
            content[0].TemporalPositionIndex = times[i]
        place = seen[times[i] if times else 0]
        seen[times[i] if times else 0] += 1
        (frame,) = group(
            FrameContentSequence=content,
            PixelValueTransformationSequence=group(RescaleSlope=slope, RescaleIntercept=-1024, RescaleType="HU"),
        )
        if placed:
            frame.PlanePositionSequence = group(ImagePositionPatient=[-20.0, -20.0, -60.0 + step * place])
        frames.append(frame)
    (shared,) = group(
        PlaneOrientationSequence=group(ImageOrientationPatient=list(AXIAL)),
        PixelMeasuresSequence=group(PixelSpacing=pixel_spacing, SliceThickness=step),
        CTReconstructionSequence=group(ConvolutionKernel="UB"),
    )
    stored = (hounsfield + 1024) / np.reshape(slopes, (-1, 1, 1))
    common = {
        "SOPClassUID": EnhancedCTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "PatientID": "SYNTHETIC-1",
        "PatientName": "SYNTHETIC^HEAD",
        "StudyDate": "20050102",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "InstanceNumber": 1,
        "NumberOfFrames": len(hounsfield),
        "Rows": hounsfield.shape[1],
        "Columns": hounsfield.shape[2],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": frames,
        "PixelData": stored.round().astype(np.uint16).tobytes(),
    }
    (dataset,) = group(**common | tags)
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = transfer_syntax
    elif transfer_syntax != ExplicitVRLittleEndian:
        dataset.compress(transfer_syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
