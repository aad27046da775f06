"""Synthetic CT series as DICOM files, in the tag habits of six vendors. Every file says that it is synthetic.

Kernels bear the vendors' own names where we know them; for Shimadzu a plain word stands in.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pydicom.uid import SecondaryCaptureImageStorage as SecondaryCapture

from ..io import nifti

SYNTHETIC = nifti.SYNTHETIC.decode()


@dataclass(frozen=True)
class Vendor:
    """Tag habits. `pixels`: "signed" (HU as they are), "offset" (signed, intercept -1024) or "unsigned" (12 bits,
    intercept -1024); `padding`: stored value outside the field of view; `tilt_sign`: of GantryDetectorTilt, 0 where it
    is not written; `scout`: ImageType of a localiser."""

    manufacturer: str
    models: tuple[str, ...]
    soft: tuple[str | list[str], ...]
    bone: tuple[str | list[str], ...]
    pixels: str
    padding: int
    tilt_sign: int
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    scout: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "LOCALIZER")
    implicit: bool = False
    slice_acquisitions: bool = False  # every slice its own AcquisitionNumber


VENDORS = {
    "ge": Vendor(
        "GE MEDICAL SYSTEMS", ("LightSpeed Plus", "HiSpeed Dual"), ("STANDARD", "SOFT"), ("BONE", "BONEPLUS"),
        "signed", -1500, 1, slice_acquisitions=True,
    ),
    "siemens": Vendor(
        "SIEMENS", ("Sensation 16", "SOMATOM Plus 4"), ("H30s", ["J30s", "3"], "H40s"),
        ("H60s", ["J70h", "3"], "H70h"), "unsigned", 0, -1, ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"),
        ("ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"),
    ),
    "philips": Vendor(
        "Philips", ("Brilliance 64", "Mx8000 IDT 16"), ("UB", "B"), ("YA", "D"), "unsigned", 0, -1
    ),
    "toshiba": Vendor(
        "TOSHIBA", ("Aquilion", "Asteion"), ("FC21", "FC26"), ("FC30", "FC81"), "signed", -1024, 0, implicit=True
    ),
    "picker": Vendor(
        "Picker International, Inc.", ("PQ5000", "Mx8000"), ("", "B"), ("", "D"), "offset", -2000, 1, implicit=True,
        scout=("ORIGINAL", "PRIMARY", "PILOT"), slice_acquisitions=True,
    ),
    "shimadzu": Vendor(
        "SHIMADZU", ("SCT-7800T",), ("BRAIN", ""), ("BONE",), "offset", 0, 0, implicit=True, scout=()
    ),
}  # fmt: skip


def uid(*parts) -> str:
    """An identifier that depends on `parts` alone."""
    return generate_uid(entropy_srcs=[str(part) for part in ("difffuse_hf synthetic", *parts)])


def patient_tags(
    index: int, study_uid: str, date: str, birth_date: str, age: str, vendor: Vendor, model: str
) -> Dataset:
    """What every file of a study carries: invented identifiers in every place where real ones are found."""
    tags = Dataset()
    tags.SpecificCharacterSet = "ISO_IR 100"
    tags.StudyInstanceUID, tags.StudyID, tags.AccessionNumber = study_uid, f"{index:05d}", f"SYNTHACC{index:05d}"
    tags.StudyDate = tags.SeriesDate = tags.AcquisitionDate = tags.ContentDate = date
    tags.StudyTime = tags.ContentTime = f"{8 + index % 12:02d}{index % 60:02d}00"
    tags.PatientName, tags.PatientID = f"SYNTHETIC^PATIENT {index:05d}", f"SYNTH-{index:05d}"
    tags.PatientBirthDate, tags.PatientSex = birth_date, "FM"[index % 2]
    if age:
        tags.PatientAge = age
    tags.OtherPatientIDs, tags.OtherPatientNames = f"SYNTHNHS{index:010d}", f"INVENTED^ALIAS {index:05d}"
    tags.PatientAddress, tags.PatientTelephoneNumbers = f"{index} Imaginary Street, Nowhere", "000 0000 0000"
    tags.ReferringPhysicianName = tags.RequestingPhysician = "INVENTED^REFERRER"
    tags.PhysiciansOfRecord, tags.OperatorsName = "INVENTED^PHYSICIAN", "INVENTED^OPERATOR"
    tags.InstitutionName, tags.InstitutionAddress = "SYNTHETIC INFIRMARY", "1 Nowhere Road, Atlantis"
    tags.InstitutionalDepartmentName, tags.StationName = "SYNTHETIC RADIOLOGY", f"SYNTHCT{index % 7}"
    tags.PatientComments = f"{SYNTHETIC}; next of kin of SYNTHETIC PATIENT {index:05d}: INVENTED RELATIVE"
    tags.AdditionalPatientHistory = f"SYNTHETIC PATIENT {index:05d} fell ill at home; asked for by Dr INVENTED"
    tags.StudyDescription, tags.ImageComments = "CT HEAD SYNTHETIC", SYNTHETIC
    tags.Manufacturer, tags.ManufacturerModelName = vendor.manufacturer, model
    tags.DeviceSerialNumber, tags.SoftwareVersions = f"SYNTH{index % 97:04d}", "synthetic"
    block = tags.private_block(0x0009, "SYNTHETIC PRIVATE", create=True)
    block.add_new(0x01, "LO", f"PRIVATE SYNTHETIC PATIENT {index:05d}")
    return tags


def encode(hounsfield: np.ndarray, vendor: Vendor, outside: np.ndarray | None = None) -> np.ndarray:
    """Stored values (int16 or uint16) of HU; `outside` (rows, columns) marks the padding beyond the field of view."""
    offset = 0 if vendor.pixels == "signed" else 1024
    stored = np.clip(np.rint(hounsfield), -1024, 3071).astype(np.int16) + np.int16(offset)
    if outside is not None:
        stored[:, outside] = vendor.padding
    return stored.astype(np.uint16) if vendor.pixels == "unsigned" else stored


def save_image(tags: Dataset, pixels: np.ndarray, path: Path, vendor: Vendor, sop_class: str = CTImageStorage):
    """Write one file; `pixels` (rows, columns) of int16, uint16 or uint8."""
    tags.SOPClassUID, tags.SOPInstanceUID = sop_class, uid(tags.SeriesInstanceUID, path.name)
    tags.Rows, tags.Columns = pixels.shape
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
    tags.BitsAllocated = 8 * pixels.itemsize
    tags.BitsStored = 12 if vendor.pixels == "unsigned" and pixels.itemsize == 2 else tags.BitsAllocated
    tags.HighBit, tags.PixelRepresentation = tags.BitsStored - 1, int(pixels.dtype == np.int16)
    tags.PixelData = pixels.tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(tags.SOPClassUID), UID(tags.SOPInstanceUID)
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if vendor.implicit else ExplicitVRLittleEndian
    FileDataset(path, tags, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)


def save_report(tags: Dataset, path: Path, vendor: Vendor, rng: np.random.Generator):
    """A dose report: an 8-bit screen picture, as scanners add to a study."""
    tags.Modality, tags.ImageType, tags.ConversionType = "CT", ["DERIVED", "SECONDARY", "SCREEN SAVE"], "WSD"
    tags.InstanceNumber, tags.BurnedInAnnotation = 1, "YES"
    page = np.zeros((512, 512), np.uint8)
    for row in range(40, 400, 24):  # lines of what passes for writing
        page[row : row + 12, 30:400] = 220 * (rng.random(370) < 0.4)
    save_image(tags, page, path, vendor, SecondaryCapture)
