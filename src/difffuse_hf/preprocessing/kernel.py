"""Soft or bone: the reconstruction kernel, from the header or, where that is silent, from the image (step 4).

Bone (sharp) kernels show the skull's fine structure in noise too strong for brain tissue. ImageType does not tell
them from soft ones. Kernel names are the vendors' own.
"""

import re

import numpy as np
from scipy import ndimage

from .dicom import Series

BONE_WINDOW_HU = 1500  # width; brain windows are 80 to 400 wide
BONE_AUTOCORRELATION = 0.05  # of the noise, at 1 mm: smoothing makes neighbours alike, sharpening makes them unlike
FLAT_TISSUE_HU = (-60, 140)  # wide enough for noise; away from skull and air
NOISE_SCALE_MM = 3.0  # what a mean over so much leaves is called noise
EDGE_DISTANCE_MM = 4.0
BONE_EDGE_HU_PER_MM = 800.0  # of the skull's surface, 90th percentile

_VENDORS = {
    "siemens": "SIEMENS",
    "ge": r"^GE\b|GENERAL ELECTRIC",
    "philips": "PHILIPS|MARCONI|PICKER|ELSCINT",
    "toshiba": "TOSHIBA|CANON",
}
_BONE = r"BONE ?(?:PLUS|\+)?|EDGE|LUNG|SHARP|ULTRA ?HIGH"
_SIEMENS = r"[HJUBQ][A-Z]?[6-9]\d[A-Z]?", r"[HJUBQ][A-Z]?[1-5]\d[A-Z]?"  # H30s is soft, H60s and above are sharp
_PHILIPS = "Y[A-F]", "U[A-D]"
_TOSHIBA = r"FC(?:30|31|8\d)", r"FC[1-6]\d"
_KERNELS = {  # names in use with each vendor: sharp ones, then soft ones
    "siemens": _SIEMENS,
    "ge": (_BONE, r"STANDARD|STD\+?|STND\+?|SOFT\+?|DETAIL|HEAD|BRAIN"),
    "philips": (f"{_PHILIPS[0]}|Y|D|E|{_BONE}", f"{_PHILIPS[1]}|A|B|C|BRAIN STANDARD|BRAIN SMOOTH"),
    "toshiba": _TOSHIBA,
    "other": (  # the manufacturer is often blank: whatever can be one vendor's only
        "|".join((_BONE, _SIEMENS[0], _PHILIPS[0], _TOSHIBA[0])),
        "|".join(("STANDARD|STD|SOFT|SMOOTH|BRAIN|HEAD", _SIEMENS[1], _PHILIPS[1], _TOSHIBA[1])),
    ),
}
_BONE_WORDS = r"\bBONES?\b|KNOCHEN|\bOSS?E|INNER EAR|PETROUS|\bIAM\b|\bLUNG\b"


def vendor(manufacturer: str) -> str:
    """One of "siemens", "ge", "philips", "toshiba" and "other"."""
    return next((name for name, names in _VENDORS.items() if re.search(names, manufacturer.upper())), "other")


def kernel_name(kernel: str) -> str:
    """The kernel if it is a vendor's name for one, else "": the tag may hold any text."""
    name = _first(kernel)
    return name if any(re.fullmatch(names, name) for pair in _KERNELS.values() for names in pair) else ""


def _first(kernel: str) -> str:
    return kernel.partition("\\")[0].strip().upper()  # Siemens adds a strength


def tells_of_bone(description: str) -> bool:
    """Whether a description of a series names bone, in one of the languages that hospitals use."""
    return re.search(_BONE_WORDS, description.upper()) is not None


def kernel_from_header(series: Series) -> str | None:
    """ "soft" or "bone"; None where kernel, window and description leave it open (see `kernel_from_image`).

    A known kernel decides. Else a bone window or a description of bone does; a brain window proves nothing.
    """
    first = series.slices[0]
    sharp, soft = _KERNELS[vendor(first.manufacturer)]
    name = _first(first.kernel)
    if re.fullmatch(sharp, name):
        return "bone"
    if re.fullmatch(soft, name):
        return "soft"
    if first.window and first.window[1] >= BONE_WINDOW_HU:
        return "bone"
    return "bone" if tells_of_bone(first.description) else None


def kernel_from_image(hounsfield: np.ndarray, spacing_mm: tuple[float, float, float]) -> tuple[str, dict]:
    """ "soft", "bone" or, where the two cues differ or there is nothing to measure, "review"; and the cues.

    Measured in five slices of the middle of the scan: the autocorrelation of what a 3 mm mean leaves of flat tissue,
    at 1 mm along rows and columns, and the gradient in the skull's surface. Added noise lowers the first only.

    Args:
        hounsfield (`np.ndarray` of shape `(S, H, W)`): in HU, pixels smaller than 1.2 mm.
        spacing_mm (`tuple`): between slices, rows and columns.
    """
    middle = (np.linspace(0.3, 0.7, 5) * (len(hounsfield) - 1)).round().astype(int)
    pixel_mm = spacing_mm[1:]
    cues = [_cues(hounsfield[i].astype(np.float32), pixel_mm) for i in sorted(set(middle.tolist()))]
    products, squares = np.sum([cue[0] for cue in cues], axis=0)
    gradients = np.concatenate([cue[1] for cue in cues])
    autocorrelation = float(products / squares) if squares else None
    edge = float(np.percentile(gradients, 90)) if len(gradients) else None
    measures = {
        "autocorrelation_1mm": None if autocorrelation is None else round(autocorrelation, 3),
        "edge_hu_per_mm": None if edge is None else round(edge),
    }
    if autocorrelation is None or edge is None:
        return "review", measures
    cues = (autocorrelation < BONE_AUTOCORRELATION) + (edge > BONE_EDGE_HU_PER_MM)
    return ("soft", "review", "bone")[cues], measures


def _cues(image: np.ndarray, pixel_mm) -> tuple[tuple[float, float], np.ndarray]:
    """Of one slice: sums of the noise's products at 1 mm and of its squares; gradients (N,) in the skull's surface."""
    bone = image > 300
    if not bone.any():
        return (0.0, 0.0), np.empty(0, np.float32)
    image = image[_box(bone, 8)]
    width = [2 * max(1, round((NOISE_SCALE_MM / mm - 1) / 2)) + 1 for mm in pixel_mm]  # odd
    mean = ndimage.uniform_filter(image, width)  # pyright: ignore[reportArgumentType]  a size for each axis
    around = [2 * int(EDGE_DISTANCE_MM / mm) + 1 for mm in pixel_mm]
    flat = (ndimage.minimum_filter(mean, around) > FLAT_TISSUE_HU[0]) & (
        ndimage.maximum_filter(mean, around) < FLAT_TISSUE_HU[1]
    )
    noise = np.where(flat, image - mean, 0)
    products = squares = 0.0
    for axis, mm in enumerate(pixel_mm):
        values, inside = np.swapaxes(noise, 0, axis), np.swapaxes(flat, 0, axis)
        shorter, rest = int(1 / mm), (1 / mm) % 1  # 1 mm lies between two whole lags
        for lag, weight in ((shorter, 1 - rest), (shorter + 1, rest)):
            one, other = values[lag:], values[: len(values) - lag]
            both = inside[lag:] & inside[: len(values) - lag]
            products += weight * float((one * other).sum())
            squares += weight * float((both * (one**2 + other**2)).sum()) / 2
    down, right = np.gradient(image, *pixel_mm)
    surface = (image > 150) & (image < 600)
    return (products, squares), np.hypot(down[surface], right[surface])


def _box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    down, across = (slice(max(along[0] - margin, 0), along[-1] + margin + 1) for along in (rows, columns))
    return down, across
