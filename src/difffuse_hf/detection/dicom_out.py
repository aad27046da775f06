"""A result as DICOM, to lie beside the original in an archive: for research, not for diagnosis.

    <folder>/lesion.dcm               segmentation: the lesion, coded, with the model as its maker
    <folder>/counterfactual/0001.dcm  a derived series: one image for each original slice or frame, Hounsfield units
    <folder>/anomaly/0001.dcm         a derived series: the anomaly map in the same places

All three refer to the images they come from, in the same study and frame of reference. The patient is that of the
input, because they go back to the same archive; with `deidentify`, nobody. Nothing is written into the pictures.
"""

import copy
import json
import warnings
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

from .. import __version__
from ..errors import InputError
from ..preprocessing.headers import SliceHeader, frames_of, read_header

if TYPE_CHECKING:
    from .result import DetectionResult

MAKER, PRODUCT = "difffuse_hf", "Dif-fuse"
NOTICE = "Research, not for diagnosis"
ANOMALY_STEP = 0.001  # of a stored value
FIRST_SERIES_NUMBER = 9000  # behind those of scanners
# What a derived image shares with its source: the patient, the study, where it lies. Everything else is left behind.
REQUIRED = (  # present in every image, if need be without a value; the next, too, say who it is
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName"
).split()
PERSONAL = [*REQUIRED, *"IssuerOfPatientID PatientAge StudyDescription".split()]
UIDS = "SOPInstanceUID SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID".split()
PLACE = (
    "PositionReferenceIndicator PatientPosition ImageOrientationPatient ImagePositionPatient "
    "PixelSpacing SliceThickness GantryDetectorTilt"
).split()
IMAGE = "InstanceNumber AcquisitionNumber KVP Rows Columns SpecificCharacterSet".split()


def write_dicom(result: "DetectionResult", folder: Path, model: str, deidentify: bool = False) -> None:
    """Write the segmentation and the two derived series of a result into a new folder.

    Args:
        result: of a case that was read from DICOM (columns, rows, slices).
        model: its name, for the segmentation and the derived images.
        deidentify: patient, dates and identifiers are replaced, the same ones by the same new ones.

    Raises:
        InputError: highdicom is not installed, or the slices are frames of several multi-frame files.
    """
    seed = json.dumps([result.parameters, model, deidentify], sort_keys=True, default=str)  # same result, same UIDs
    slices, lesion = result.case.dicom, result.lesion.transpose(2, 1, 0)
    files = {path: source_of(path, deidentify) for path in dict.fromkeys(one.path for one in slices)}
    if all(one.num_frames == 1 for one in slices):
        sources = list(files.values())
        segmentation = lesion_segmentation(sources, lesion, model, seed)
    elif len(files) == 1:
        sources = [source_of_frame(files[one.path], one) for one in slices]
        whole, in_file = source_of_frames(files[slices[0].path], slices, lesion)
        segmentation = lesion_segmentation([whole], in_file, model, seed)
    else:
        raise InputError(
            f"{slices[0].path} is one of {len(files)} files with several frames, and a DICOM segmentation refers to "
            "one of these only; convert them to single-frame CT for --dicom-out."
        )
    healthy = np.clip(np.rint(result.counterfactual[0]), -(2**15), 2**15 - 1).astype(np.int16).transpose(2, 1, 0)
    anomaly = np.clip(np.rint(result.anomaly / ANOMALY_STEP), 0, 2**16 - 1).astype(np.uint16).transpose(2, 1, 0)
    low, high = result.parameters.get("window_hu") or (0, 100)
    threshold = float(result.parameters["anomaly_threshold"])
    series = {
        "counterfactual": (healthy, 1.0, "HU", (low, high), "Healthy counterfactual"),
        "anomaly": (anomaly, ANOMALY_STEP, "US", (0.0, max(2 * threshold, ANOMALY_STEP)), "Anomaly map"),
    }
    folder.mkdir(parents=True)
    segmentation.save_as(folder / "lesion.dcm", enforce_file_format=True)
    for number, (name, (voxels, slope, unit, window, title)) in enumerate(series.items(), start=1):
        (folder / name).mkdir()
        for index, (source, pixels, header) in enumerate(zip(sources, voxels, slices)):
            frame = header.frame + 1 if header.num_frames > 1 else None
            image = derived_image(source, pixels, f"{name} {seed}", slope, unit, window, frame)
            image.SeriesNumber = FIRST_SERIES_NUMBER + number
            image.InstanceNumber = index + 1
            image.SeriesDescription = f"{title} ({NOTICE})"
            image.DerivationDescription = f"{title} by {MAKER} {__version__}, model {Path(model).name}. {NOTICE}."
            image.save_as(folder / name / f"{index + 1:04d}.dcm", enforce_file_format=True)


def source_of(path: Path, deidentify: bool) -> Dataset:
    """What the outputs take over of an original image, without its pixels; the patient's identity on request."""
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    source = Dataset()
    for name in ["SOPClassUID", *UIDS, *PERSONAL, *PLACE, *IMAGE]:
        if name in header:
            source[name] = copy.deepcopy(header[name])
        elif name in (*REQUIRED, "PositionReferenceIndicator", "AcquisitionNumber", "KVP"):
            setattr(source, name, None)
    source.Modality, source.BodyPartExamined = "CT", "BRAIN"
    source.SOPClassUID = header.get("SOPClassUID", CTImageStorage)
    if not source.get("FrameOfReferenceUID"):
        source.FrameOfReferenceUID = generate_uid(entropy_srcs=[source.StudyInstanceUID, "frame of reference"])
    if deidentify:
        for name in PERSONAL:
            if name in source:
                setattr(source, name, None)
        source.PatientID = generate_uid(entropy_srcs=[source.StudyInstanceUID, "patient"])[-12:]
        source.PatientIdentityRemoved = "YES"
        source.DeidentificationMethod = f"{MAKER} {__version__}: new identifiers, no dates, no names"
        for name in UIDS:
            setattr(source, name, generate_uid(entropy_srcs=[source[name].value, MAKER]))
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    source.file_meta = meta
    return source


def source_of_frame(file: Dataset, frame: SliceHeader) -> Dataset:
    """The source that a frame of a multi-frame file would be if it were a file of its own."""
    source = copy.deepcopy(file)
    source.ImagePositionPatient, source.ImageOrientationPatient = (
        _decimals(frame.position),
        _decimals(frame.orientation),
    )
    source.PixelSpacing, source.SliceThickness = _decimals(frame.pixel_spacing_mm), frame.thickness_mm
    return source


def source_of_frames(file: Dataset, slices: Sequence[SliceHeader], lesion: np.ndarray) -> tuple[Dataset, np.ndarray]:
    """A multi-frame file as highdicom takes it, and the lesion (slices, rows, columns) in the order of its frames."""
    header = read_header(slices[0].path)
    assert isinstance(header, SliceHeader)  # it has been read before
    source, frames = copy.deepcopy(file), frames_of(header)
    source.NumberOfFrames = len(frames)
    (shared,) = _item(
        PlaneOrientationSequence=_item(ImageOrientationPatient=_decimals(slices[0].orientation)),
        PixelMeasuresSequence=_item(
            PixelSpacing=_decimals(slices[0].pixel_spacing_mm), SliceThickness=slices[0].thickness_mm
        ),
    )
    source.SharedFunctionalGroupsSequence = Items([shared])
    places = (_item(PlanePositionSequence=_item(ImagePositionPatient=_decimals(one.position))) for one in frames)
    source.PerFrameFunctionalGroupsSequence = Items([place[0] for place in places])
    in_file = np.zeros((len(frames), *lesion.shape[1:]), lesion.dtype)
    in_file[[one.frame for one in slices]] = lesion
    return source, in_file


def _item(**values: Any) -> Items:
    """A sequence of one item."""
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Items([item])


def _decimals(values: Iterable[float] | None) -> list[Any]:
    return [DSfloat(value, auto_format=True) for value in values or ()]


def derived_image(
    source: Dataset,
    pixels: np.ndarray,
    seed: str,
    slope: float,
    unit: str,
    window: tuple[float, float],
    frame: int | None = None,
) -> Dataset:
    """A CT image in the place of its source.

    Args:
        source: see `source_of`.
        pixels (`np.ndarray` of shape `(rows, columns)`): int16 or uint16; times `slope` they are in `unit`.
        seed: of the new identifiers.
        unit: "HU", or "US" for a number without one.
        window: lowest and highest value shown.
        frame: of the source, from 1, if that is a multi-frame file.
    """
    image = copy.deepcopy(source)
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid(entropy_srcs=[source.SOPInstanceUID, *([str(frame)] if frame else []), seed])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=[source.StudyInstanceUID, seed])
    image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = UID(image.SOPInstanceUID)
    now = datetime.now()
    image.ContentDate, image.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    image.Manufacturer, image.ManufacturerModelName, image.SoftwareVersions = MAKER, PRODUCT, __version__
    image.BurnedInAnnotation = "NO"
    image.SourceImageSequence = Items([_reference(source, frame)])
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, slope, unit
    image.WindowCenter, image.WindowWidth = (DSfloat(v, auto_format=True) for v in (sum(window) / 2, np.ptp(window)))
    image.VOILUTFunction = "LINEAR_EXACT"
    image.Rows, image.Columns = pixels.shape
    image.PixelData = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder("<")).tobytes()
    image["PixelData"].VR = "OW"
    return image


def lesion_segmentation(sources: Sequence[Dataset], lesion: np.ndarray, model: str, seed: str) -> Dataset:
    """The lesion (slices, rows, columns), above 0, as a DICOM segmentation of the sources.

    Raises:
        InputError: highdicom is not installed.
    """
    try:
        from highdicom import AlgorithmIdentificationSequence
        from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
        from pydicom.sr.codedict import codes
    except ImportError as error:
        raise InputError('DICOM output needs highdicom: pip install "difffuse_hf[dicom]".') from error
    maker = AlgorithmIdentificationSequence(
        name=f"{PRODUCT}, model {Path(model).name}"[:64],
        version=__version__,
        family=codes.DCM.ArtificialIntelligence,
        source=MAKER,
    )
    described = SegmentDescription(
        segment_number=1,
        segment_label="Lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=maker,
        anatomic_regions=[codes.SCT.Brain],
    )
    warnings.filterwarnings("ignore", "The string .* is unlikely to represent the intended person name")
    segmentation = Segmentation(
        source_images=list(sources),
        pixel_array=(lesion > 0).astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[described],
        series_instance_uid=generate_uid(entropy_srcs=[sources[0].StudyInstanceUID, "lesion", seed]),
        series_number=FIRST_SERIES_NUMBER,
        sop_instance_uid=generate_uid(entropy_srcs=[sources[0].SOPInstanceUID, "lesion", seed]),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=PRODUCT,
        software_versions=__version__,
        device_serial_number=__version__,
        content_description=NOTICE,
        omit_empty_frames=bool((lesion > 0).any()),
    )
    segmentation.SeriesDescription = f"Lesion ({NOTICE})"
    return segmentation


def _reference(source: Dataset, frame: int | None) -> Dataset:
    """A source image, or a frame of it, as a derived one names it."""
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if frame:
        reference.ReferencedFrameNumber = frame
    reference.PurposeOfReferenceCodeSequence = Items([purpose])
    return reference
