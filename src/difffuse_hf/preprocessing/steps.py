"""The eight steps of the thesis (Sec. 3.4.4) that turn the DICOM files of one series into a model-ready scan.

    headers: 1 axial majority · 3 localisers · 4 bone kernels · 5 split base and vault
    pixels:  2 one volume · 6 register the template · 7 registration QC · 8 crop, sample, window, pad or resize

What the header can decide is decided before any pixel is read. A rejected series is a row of the manifest, with its
reason and everything that was measured.
"""

import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from ..errors import require_choice
from ..io.files import write_whole
from .assemble import CTVolume, assemble, decode_series
from .dicom import Series
from .exclusion import Exclusion
from .headers import SliceHeader, printable
from .hounsfield import find_repair
from .identity import pseudonym, told_age
from .kernel import kernel_from_header, kernel_from_image
from .mixture import mixture
from .pictures import THUMBNAIL_HU, save_picture, shown_slices, thumbnail
from .pixels import UnreadableSeries, decode_slice, forget_file
from .positioning import MAX_ROTATION_DEG, MIN_DICE, MIN_NMI, check_registration
from .registration import Registration, choose_template, load_template, midline_plane, register
from .rules import header_exclusion
from .volume import crop_to_head, pad_or_resize, sample_slices, window_hounsfield

INTENSITY_STEP = 1e-4  # of the stored scans: 0.01 HU in a window of 100 HU


@dataclass(frozen=True)
class CTPreprocessConfig:
    """How scans are made; saved in the output folder, which takes one configuration only.

    Args:
        image_size (`tuple[int, int]`): height and width of a slice.
        num_slices (`int`): sampled evenly from the scan.
        window_hu (`tuple[float, float]`): mapped to [0, 1].
        pixel_mm (`float`, *optional*): resample to this pixel size. The thesis pads or shrinks in pixels, so that the
            scale differs between scans; the manifest says it for each (`pixel_mm`).
        template, template_old (`str`, *optional*): NIfTI files of a skull-stripped head in MNI space, for patients up
            to and above `age_border` years; one alone serves everybody. Default: the ICBM152 template.
        merge_split (`bool`): join base and vault that were scanned apart, instead of leaving them out.
        min_nmi, min_dice (`float`): normalised mutual information with the warped template and overlap with its brain,
            below which the registration has failed. They depend on the template; fit them on your own scans.
        max_rotation_deg (`float`): a head turned by more is ill-positioned.
        registration_qc (`str`): "scan" judges every fit by itself; "mixture" also rejects the scans of clusters that
            the Gaussian mixture finds ill-positioned (cohorts of at least 100).
        headers_only (`bool`): take the decisions that headers allow, read no pixels, make no scans.
    """

    image_size: tuple[int, int] = (500, 400)  # Sec. 3.4.4, step 8
    num_slices: int = 11  # Sec. 3.4.4, step 8
    window_hu: tuple[float, float] = (0.0, 100.0)  # Sec. 3.4.4, step 8
    pixel_mm: float | None = None
    template: str | None = None
    template_old: str | None = None
    age_border: float = 72.0  # Sec. 3.4.4, step 6
    merge_split: bool = False
    min_nmi: float = MIN_NMI
    min_dice: float = MIN_DICE
    max_rotation_deg: float = MAX_ROTATION_DEG
    registration_qc: str = "scan"
    headers_only: bool = False

    def __post_init__(self):
        if len(self.image_size) != 2 or min(self.image_size) < 1 or self.num_slices < 1:
            raise ValueError(f"`image_size` and `num_slices` are positive, got {self.image_size}, {self.num_slices}.")
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"`window_hu` is (low, high), got {self.window_hu}.")
        require_choice("registration_qc", self.registration_qc, ("scan", "mixture"))


def process_series(series: Series, scan_id: str, config: CTPreprocessConfig, salt: bytes, output: Path) -> dict:
    """Steps 2 to 8 for one series: its row of the manifest, with the scan written if it is kept.

    An unexpected error is a row with the reason "failed" and stays with its series; a full disk is raised.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # as many processes as cores, one thread each
    start, cpu = time.perf_counter(), time.process_time()
    row = identity_row(series, scan_id, salt)
    try:
        row |= _process(series, row, config, output)
    except UnreadableSeries as error:
        row |= rejection(Exclusion.UNREADABLE, error.reason)
    except OSError:  # of writing: decoding errors are not of this kind
        raise
    except Exception as error:  # one series must not end the run of ten thousand
        with (output / "private" / "errors.log").open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"scan {scan_id}, {printable(series.slices[0].path)}\n{traceback.format_exc()}\n")
        row |= rejection(Exclusion.FAILED, f"{type(error).__name__}, see private/errors.log")
    row |= {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    return {name: _plain(value) for name, value in row.items()}


def _process(series: Series, row: dict, config: CTPreprocessConfig, output: Path) -> dict:
    """Write what is measured into `row` as it comes; returns what changes the header's decision, if anything."""
    scan_id = row["scan_id"]
    exclusion, detail, measures = header_exclusion(series, config.merge_split)  # steps 1, 3, 4, 5
    row |= (
        measures | _decision(exclusion, "header_decision", "header_reason") | _decision(exclusion) | {"detail": detail}
    )
    if config.headers_only:
        return {}
    if exclusion:
        _save_header_thumbnail(series, exclusion, output / "thumbnails" / f"{scan_id}.png")
        return {}

    scan = examine(series, config, row)  # steps 2, 4, 6, 7
    if scan.exclusion:
        _save_thumbnail(scan, output / "thumbnails" / f"{scan_id}.png")
        return rejection(scan.exclusion, scan.detail)
    clock = _Clock(row)
    row |= _write_scan(scan.volume, scan.registration, config, output, scan_id)  # step 8
    clock.lap("write")
    return {}


@dataclass(frozen=True, eq=False)
class ExaminedScan:
    """A series whose header is fine, and what its pixels say: `exclusion` is None if it is a scan to be used.

    Both volumes are in Hounsfield units, clipped to [-1024, 3071], unless that is why the scan is left out.
    """

    slices: tuple[SliceHeader, ...]  # those that could be decoded, inferior to superior
    hounsfield: np.ndarray  # (S, H, W) int16 of `slices`, rows and columns as stored
    volume: CTVolume  # the same on an orthogonal, evenly spaced grid
    registration: Registration | None = None
    exclusion: Exclusion | None = None
    detail: str = ""


def examine(series: Series, config: CTPreprocessConfig, row: dict) -> ExaminedScan:
    """Steps 2, 4, 6 and 7: decode, check Hounsfield units and kernel, register the template and judge the position.

    What is measured is written into `row` as it comes.

    Raises:
        UnreadableSeries: more than two of the files cannot be decoded.
    """
    clock = _Clock(row)
    decoded = decode_series(series)
    volume = assemble(series, decoded)  # step 2
    repair, measures = find_repair(volume.hounsfield)
    row |= volume.measures | measures
    if repair is None:
        clock.lap("read")
        detail = "air and soft tissue have other values, and neither a shift nor 12 bits without a sign explain them"
        return ExaminedScan(
            decoded.headers, decoded.hounsfield, volume, exclusion=Exclusion.NOT_HOUNSFIELD, detail=detail
        )
    volume = replace(volume, hounsfield=repair.apply(volume.hounsfield))
    scan = ExaminedScan(decoded.headers, repair.apply(decoded.hounsfield), volume)
    clock.lap("read")
    if detail := mixture(scan.hounsfield):
        return replace(scan, exclusion=Exclusion.MIXED, detail=detail)

    verdict, measures = kernel_from_image(volume.hounsfield, volume.spacing_mm)
    row |= {**measures, "kernel_image": verdict}
    clock.lap("kernel")
    if kernel_from_header(series) is None and verdict == "bone":
        detail = "no kernel in the header; the image is as sharp as bone kernels"
        return replace(scan, exclusion=Exclusion.BONE_KERNEL, detail=detail)

    young, old = config.template or config.template_old, config.template_old or config.template
    template = load_template(choose_template(row["age_years"], young, old, config.age_border))
    registration = register(volume, template)  # step 6
    exclusion, detail = check_registration(  # step 7
        registration, config.min_nmi, config.min_dice, config.max_rotation_deg
    )
    row |= {"template": template.name} | _registration_row(registration)
    clock.lap("register")
    return replace(scan, registration=registration, exclusion=exclusion, detail=detail)


def _write_scan(volume: CTVolume, registration, config: CTPreprocessConfig, output: Path, scan_id: str) -> dict:
    """Step 8: crop to the head, sample, window, pad or resize; the scan's NIfTI file and thumbnail.

    The file's own affine says sizes only. Where its voxels lie is in the row: `to_patient_mm` and `to_mni_mm`.
    """
    rows, columns = crop_to_head(volume.hounsfield, volume.spacing_mm)
    indices = sample_slices(len(volume.hounsfield), config.num_slices)
    images = window_hounsfield(volume.hounsfield[indices, rows, columns], *config.window_hu)
    between, row_mm, column_mm = volume.spacing_mm
    images, scale, offset = pad_or_resize(images, config.image_size, (row_mm, column_mm), config.pixel_mm)
    pixel_mm = column_mm / scale[1]
    slice_mm = between * (len(volume.hounsfield) - 1) / max(config.num_slices - 1, 1)
    file = f"scans/{scan_id}.nii.gz"
    stored = np.rint(images.transpose(2, 1, 0) / INTENSITY_STEP).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.diag([-pixel_mm, -pixel_mm, slice_mm, 1]))
    image.header.set_slope_inter(INTENSITY_STEP, 0)
    image.header.set_xyzt_units("mm")
    write_whole(output / file, lambda path: nibabel.save(image, path))
    shown = window_hounsfield(
        volume.hounsfield[shown_slices(len(volume.hounsfield)), rows, columns], *config.window_hu
    )
    shown, *_ = pad_or_resize(shown, config.image_size, (row_mm, column_mm), config.pixel_mm)
    save_picture(thumbnail(shown, 0, 1), output / "thumbnails" / f"{scan_id}.png")
    return {
        "file": file,
        "pixel_mm": pixel_mm,
        "slice_spacing_mm": slice_mm,
        "source_slices": [int(index) for index in indices],
        **_affines(volume, registration, (rows, columns), scale, offset),
        "midline_centre": (config.image_size[1] - 1) / 2,  # thesis: the centre of the crop
        **_midline(midline_plane(registration, volume), images.shape, indices, (rows, columns), scale, offset),
    }


def _affines(volume: CTVolume, registration: Registration, crop, scale, offset) -> dict:
    """Affine maps of a pixel (column, row on the canvas, slice of the assembled volume) to mm (RAS, as in NIfTI).

    The first three rows, one after the other: 12 numbers. Slice s of the written scan is `source_slices[s]` of the
    assembled volume; these are whole numbers and so not always evenly spaced, which no affine of s could say.
    MNI space is that of the template, up to its affine fit (step 6).
    """
    (rows, columns), spacing = crop, np.array(volume.spacing_mm[::-1])  # column, row, slice
    canvas = np.array([scale[1], scale[0], 1.0])
    start = np.array([columns.start - offset[1] / scale[1], rows.start - offset[0] / scale[0], 0.0])
    scan_mm = np.column_stack([np.diag(spacing / canvas), spacing * start])  # along the scan's axes
    to_template = np.linalg.inv(registration.matrix)
    patient, template = volume.direction @ scan_mm, to_template @ scan_mm
    patient[:, 3] += volume.origin_mm
    template[:, 3] -= to_template @ registration.translation
    ras = np.diag([-1.0, -1.0, 1.0])
    return {"to_patient_mm": (ras @ patient).ravel().tolist(), "to_mni_mm": (ras @ template).ravel().tolist()}


def _midline(plane, shape, indices, crop, scale, offset) -> dict:
    """The template's midline plane on the canvas: its column at the centre of the middle slice, and its slopes."""
    start, per_slice, per_row = plane  # column = start + per_slice * slice + per_row * row of the assembled volume
    middle_row = ((shape[1] - 1) / 2 - offset[0]) / scale[0] + crop[0].start
    middle = start + per_slice * np.mean(indices[[0, -1]]) + per_row * middle_row
    return {
        "midline_template": (middle - crop[1].start) * scale[1] + offset[1],
        "midline_per_slice": per_slice * scale[1] * (indices[-1] - indices[0]) / max(len(indices) - 1, 1),
        "midline_per_row": per_row * scale[1] / scale[0],
    }


def _registration_row(registration: Registration | None) -> dict:
    if registration is None:
        return {}
    stretch = registration.singular_values
    matrix = {f"matrix_{i}{j}": registration.matrix[i, j] for i in range(3) for j in range(3)}
    measures = {name: getattr(registration, name) for name in ("brain_ml", "nmi", "dice", "rotation_deg")}
    return measures | {"stretch_min": stretch.min(), "stretch_max": stretch.max()} | matrix


class _Clock:
    """Seconds between laps, written into a row as `seconds_<lap>`."""

    def __init__(self, row):
        self.row, self.last = row, time.perf_counter()

    def lap(self, name):
        now = time.perf_counter()
        self.row[f"seconds_{name}"], self.last = now - self.last, now


def identity_row(series: Series, scan_id: str, salt: bytes) -> dict:
    uids = series.series_uids
    if len(uids) == len(series.slices):  # some archives give every slice a series of its own
        uids = uids[:1]
    return {
        "scan_id": scan_id,
        "patient": pseudonym(series.patient_id, salt),
        "study": pseudonym(series.study_uid, salt),
        "series": [pseudonym(uid, salt) for uid in uids],
        "age_years": told_age(series.slices[0].age_years),
        "num_files": len({(one.path, one.number) for one in series.slices}),
        "content": series.content,
        "file": "",
        "dropped": "; ".join(f"{count} {why}" for why, count in series.dropped.items()),
    }


def _decision(exclusion, decision="decision", reason="reason") -> dict:
    return {decision: "reject" if exclusion else "keep", reason: exclusion.value if exclusion else ""}


def rejection(exclusion: Exclusion, detail: str) -> dict:
    return {**_decision(exclusion), "detail": detail}


def _save_thumbnail(scan: ExaminedScan, path: Path):
    row_mm, column_mm = scan.slices[0].pixel_spacing_mm or (1, 1)
    images = scan.hounsfield[shown_slices(len(scan.hounsfield))]
    save_picture(thumbnail(images, *THUMBNAIL_HU, row_mm / column_mm), path)


def _save_header_thumbnail(series: Series, exclusion: Exclusion, path: Path):
    """A picture of a series that its header rejects; none where patient data may be burned into the pixels."""
    if exclusion in (Exclusion.NOT_CT, Exclusion.UNREADABLE) or any(one.burned_in for one in series.slices):
        return
    try:
        slices = np.stack([decode_slice(series.slices[i]) for i in shown_slices(len(series.slices))])
    except UnreadableSeries:
        return
    finally:
        forget_file()
    row_mm, column_mm = series.slices[0].pixel_spacing_mm or (1, 1)
    save_picture(thumbnail(slices, *THUMBNAIL_HU, row_mm / column_mm), path)


def _plain(value):
    """NumPy scalars as Python's, not-a-number as None: what JSON can hold."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
