"""Which series are left out before a pixel is read (thesis Sec. 3.4.4, steps 1, 3, 4 and 5; Table 3.1).

The tests run in the order of `Exclusion`. Details and measures hold no free text of the header, which may name a
patient.
"""

import numpy as np
from pydicom.uid import UID

from .acquisitions import WHOLE_HEAD_MM
from .contents import ANGIOGRAPHY, CONTRAST, MAP, PERFUSION, PROJECTION
from .dicom import DYNAMIC, MAX_OFF_LINE_MM, MIXED, REPEATED, Series, is_localiser
from .exclusion import Exclusion
from .headers import CT_IMAGE
from .kernel import kernel_from_header, kernel_name, vendor
from .pixels import PRIVATE_SYNTAX

AXIAL_COSINE = 0.85  # of the normal with the body's axis: gantries tilt by up to 30 degrees
MAX_HEAD_MM = 240.0  # from the vertex to the chin, and some air; from there on, half of the slices show no brain
MIN_SLICES = 3  # fewer are a localiser
FEW_SLICES = 25  # Sec. 3.4.4, step 5: a whole head has more
MAX_MISSING_SLICES = 2  # in one gap, and
MAX_MISSING_MM = 12.0  # a gap that interpolation still bridges
MAX_MISSING_IN_ALL_MM = 24.0
_SAME_STEP = 0.1  # steps and thicknesses that differ by less are one
_CONTRAST = {
    CONTRAST: "a contrast agent was given, says the header",
    ANGIOGRAPHY: "angiography, says the header: a contrast agent was given",
    PERFUSION: "perfusion, says the header: a contrast agent was given",
}
NOT_PICTURES_OF_A_HEAD = {"REF_SURVIEW", "DOSE_INFO", "PATIENT_INFO"}


def header_exclusion(series: Series, merge_split: bool = False) -> tuple[Exclusion | None, str, dict]:
    """Reason to leave a series out, a sentence about it, and what was measured; None and "" if the headers are fine.

    With `merge_split`, a series of two step sizes (base and vault in one, or joined) is fine.
    """
    first = series.slices[0]
    measures = {
        "vendor": vendor(first.manufacturer),
        "kernel": kernel_name(first.kernel),
        "num_slices": len(series.slices),
        "rows": first.rows,
        "columns": first.columns,
        "contrast": PERFUSION if series.problem == DYNAMIC else first.contrast,
        "derived": first.derivation,
    }
    reason, detail = _of_one_image(series)
    if reason is None and series.problem == MIXED:
        reason, detail = Exclusion.MIXED, "slices of several scans or patients, and no number or identifier parts them"
    if reason in (None, Exclusion.DERIVED, Exclusion.CONTRAST, Exclusion.BONE_KERNEL) and series.problem != MIXED:
        measures |= _geometry(series)
    if reason is None:
        reason, detail = _of_the_stack(series, measures, merge_split)
    if reason is None:
        reason, detail = _of_the_values(series)
    return reason, detail, measures


def _of_one_image(series: Series) -> tuple[Exclusion | None, str]:
    first = series.slices[0]
    num_slices = len(series.slices)
    if first.truncated:
        return Exclusion.UNREADABLE, "the files end before their pixels do"
    if UID(first.transfer_syntax).is_private:
        return Exclusion.UNREADABLE, PRIVATE_SYNTAX
    if not first.sop_class_uid.startswith(CT_IMAGE) and (first.sop_class_uid or first.modality != "CT"):
        return Exclusion.NOT_CT, "the files are not of the kind CT image"
    if NOT_PICTURES_OF_A_HEAD & set(first.image_type) or any(header.burned_in for header in series.slices):
        return Exclusion.NOT_CT, "summary pages, or text is burned into the images"
    if first.num_frames > 1 and not series.has_geometry:
        detail = "a multi-frame file that does not say where its frames lie; export one file per slice (classic CT)"
        return Exclusion.NO_GEOMETRY, detail
    if not series.has_geometry:
        return Exclusion.NO_GEOMETRY, "orientation, position or pixel spacing is missing from the header"
    if is_localiser(first):
        return Exclusion.LOCALISER, "ImageType says that this is a localiser"
    if num_slices < MIN_SLICES:
        return Exclusion.LOCALISER, f"{num_slices} slice{'s' * (num_slices > 1)}, fewer than {MIN_SLICES}"
    if abs(series.normal[2]) < AXIAL_COSINE:
        upright = np.abs(series.normal[:2]) >= AXIAL_COSINE
        plane = "sagittal" if upright[0] else "coronal" if upright[1] else "oblique"
        return Exclusion.NOT_AXIAL, f"the slices are {plane}"
    if first.derivation in (PROJECTION, MAP):
        return Exclusion.DERIVED, f"a {first.derivation} computed from a scan, says the header"
    if first.contrast:
        return Exclusion.CONTRAST, _CONTRAST[first.contrast]
    if series.problem == DYNAMIC:
        return Exclusion.CONTRAST, "one of several scans of the same places in a series: perfusion, or as good as"
    if kernel_from_header(series) == "bone":
        return Exclusion.BONE_KERNEL, "kernel, window or description are those of bone images"
    return None, ""


def _of_the_stack(series: Series, measures: dict, merge_split: bool) -> tuple[Exclusion | None, str]:
    if measures["off_line_mm"] > MAX_OFF_LINE_MM:
        return Exclusion.INCONSISTENT_GEOMETRY, f"slices lie up to {measures['off_line_mm']} mm beside their line"
    if measures["gap_too_large"]:
        return Exclusion.MISSING_SLICES, f"{measures['missing_slices']} slices ({measures['missing_mm']} mm) missing"
    num_slices, coverage = len(series.slices), series.coverage_mm
    if series.problem == REPEATED:
        return Exclusion.INCOMPLETE_HEAD, f"{num_slices} slices that were scanned again beside a longer scan"
    if not merge_split and measures["num_thicknesses"] > 1:
        return Exclusion.SPLIT_BASE_VAULT, f"slices of {measures['num_thicknesses']} thicknesses in one series"
    if not merge_split and measures["num_steps"] > 1:
        return Exclusion.SPLIT_BASE_VAULT, f"slices at {measures['num_steps']} different steps in one series"
    if coverage < WHOLE_HEAD_MM:
        reason = Exclusion.SPLIT_BASE_VAULT if num_slices < FEW_SLICES else Exclusion.INCOMPLETE_HEAD
        return reason, f"{num_slices} slices cover {coverage:.0f} mm of the head, less than {WHOLE_HEAD_MM:.0f} mm"
    if coverage > MAX_HEAD_MM:
        return Exclusion.BEYOND_HEAD, f"{coverage:.0f} mm are covered; a head takes at most {MAX_HEAD_MM:.0f} mm"
    return None, ""


def _of_the_values(series: Series) -> tuple[Exclusion | None, str]:
    first = series.slices[0]
    if first.bits_stored <= 8 or not first.photometric.startswith("MONOCHROME"):
        return Exclusion.NOT_HOUNSFIELD, "8-bit or colour pixels: a picture of a scan, not its values"
    return None, ""


def _geometry(series: Series) -> dict:
    """Of an axial stack: everything the tests of the stack need, rounded, as plain numbers."""
    steps = regular_steps(series.spacings_mm)
    missing = np.maximum(series.spacings_mm - steps, 0)  # (S - 1,) mm
    num_missing = np.where(missing > steps / 2, (missing / steps).round(), 0).astype(int)
    missing = np.where(num_missing > 0, missing, 0)
    allowed = np.minimum(MAX_MISSING_MM, np.maximum(MAX_MISSING_SLICES * steps, 5.0)) + 0.05 * steps
    return {
        "kernel_header": kernel_from_header(series) or "",
        "coverage_mm": round(series.coverage_mm, 1),
        "tilt_deg": round(series.tilt_deg, 1),
        "thickness_mm": max(series.thicknesses_mm, default=None),
        "num_thicknesses": len(_distinct([header.thickness_mm for header in series.slices if header.thickness_mm])),
        "step_mm": round(float(np.median(steps)), 2),
        "num_steps": len(_distinct(steps)),
        "off_line_mm": round(series.off_line_mm, 2),
        "missing_slices": int(num_missing.sum()),
        "missing_mm": round(float(missing.sum()), 1),
        "gap_too_large": bool((missing > allowed).any() or missing.sum() > MAX_MISSING_IN_ALL_MM),
    }


def regular_steps(spacings_mm: np.ndarray) -> np.ndarray:
    """What each spacing ought to be (S - 1,): the step of the regular run around it, or of the nearest run.

    A run is three spacings alike. Between two runs, the larger step is expected: base and vault may be a vault's
    step apart, and a slice of the vault that is missing in the vault is no new step.
    """
    count = len(spacings_mm)
    like = np.abs(np.diff(spacings_mm)) <= _SAME_STEP * np.minimum(spacings_mm[1:], spacings_mm[:-1])
    regular = np.zeros(count, bool)
    for i in range(count - 2):
        if like[i] and like[i + 1]:
            regular[i : i + 3] = True
    if not regular.any():
        return np.full(count, np.median(spacings_mm))
    index = np.arange(count)
    before = np.maximum.accumulate(np.where(regular, index, -1))
    after = np.minimum.accumulate(np.where(regular, index, count)[::-1])[::-1]
    before, after = np.where(before < 0, after, before), np.where(after == count, before, after)
    return np.maximum(spacings_mm[before], spacings_mm[after])


def _distinct(values) -> list[float]:
    """Values shared by at least three, those within a tenth of each other counted as one."""
    groups = []
    for value in sorted(values):
        if groups and value <= groups[-1][0] * (1 + _SAME_STEP) + 1e-6:
            groups[-1].append(value)
        else:
            groups.append([value])
    return [float(np.median(group)) for group in groups if len(group) >= MIN_SLICES]
