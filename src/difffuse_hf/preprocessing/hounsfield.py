"""Are the numbers Hounsfield units? Read off the two peaks that every head scan has: air and soft tissue.

A rescale intercept that is missing, or was applied twice, shifts both peaks by a known step and is undone. So are
negative numbers of 12 bits that were stored without their sign, and then lie above all others: air at 3096.
Anything else (8-bit pictures, a wrong slope) cannot be repaired and excludes the scan.
"""

from dataclasses import dataclass

import numpy as np

HU_RANGE = (-1024, 3071)  # 12 bits, what scanners write
AIR_HU = (-1060, -920)
SOFT_HU = (10, 70)  # brain, about 35
ANY_SOFT_HU = (-150, 150)  # fat to plastic: enough where nothing needs repair; a brain is looked for later
SHIFTS = (0, 1024, -1024, 1000, -1000, 2048, -2048)
WRAPPED_FROM = (2048, 1024)  # half of 12 bits, without an intercept and with one of -1024
MIN_AIR, MIN_SOFT = 0.05, 0.01  # share of all voxels in the range
_FLOOR, _CEILING, _BIN = -4096, 8192, 10


@dataclass(frozen=True)
class Repair:
    """What makes numbers Hounsfield units: those from `wrapped_from` on, if any, are 4096 too large; then a shift."""

    shift: int = 0
    wrapped_from: int | None = None

    def apply(self, hounsfield: np.ndarray) -> np.ndarray:
        """Hounsfield units clipped to [-1024, 3071], as int16, of an array of any shape."""
        hounsfield = _unwrap(hounsfield, self.wrapped_from)
        if self.shift:
            hounsfield = hounsfield.astype(np.int32) + self.shift
        return np.clip(hounsfield, *HU_RANGE).astype(np.int16, copy=False)


def find_repair(hounsfield: np.ndarray) -> tuple[Repair | None, dict]:
    """What makes a head's numbers (S, H, W) Hounsfield units, None if nothing does, and what was measured.

    A repair is made only if it brings both peaks to their place; of several shifts, the one that brings soft tissue
    closest to 35 HU. The measures are the shift that is added (`hu_shift`), whether numbers had wrapped round
    (`hu_wrapped`) and the peaks after the repair.
    """
    sample = hounsfield[:, ::4, ::4].ravel()
    lowest, highest = int(sample.min()), int(sample.max())
    for wrapped_from in (None, *WRAPPED_FROM):
        if wrapped_from is not None and not (lowest >= wrapped_from - 2048 and highest < wrapped_from + 2048):
            continue  # more than 12 bits
        fits = _fits(_unwrap(sample, wrapped_from))
        if fits:
            shift = 0 if 0 in fits else min(fits, key=lambda shift: abs(fits[shift][1] - 35))
            air, soft = fits[shift]
            measures = {"hu_shift": shift, "hu_wrapped": wrapped_from is not None, "hu_air": air, "hu_soft": soft}
            return Repair(shift, wrapped_from), measures
    return None, {"hu_shift": None, "hu_min": lowest, "hu_max": highest}


def _unwrap(values: np.ndarray, wrapped_from: int | None) -> np.ndarray:
    return values if wrapped_from is None else np.where(values >= wrapped_from, values.astype(np.int32) - 4096, values)


def _fits(sample: np.ndarray) -> dict[int, tuple[int, int]]:
    """The shifts that bring both peaks to their place, and the peaks after each."""
    clipped = np.clip(sample, _FLOOR, _CEILING - 1).astype(np.int32)
    counts, fits = np.bincount(clipped - _FLOOR, minlength=_CEILING - _FLOOR), {}
    for shift in SHIFTS:
        air = _peak(counts, shift, AIR_HU, -np.inf, -500, MIN_AIR)
        soft = _peak(counts, shift, SOFT_HU if shift else ANY_SOFT_HU, -300, np.inf, MIN_SOFT)
        if air is not None and soft is not None:
            fits[shift] = (air, soft)
    return fits


def _peak(counts, shift, expected, low, high, min_share):
    """Centre of the fullest 10 HU between `low` and `high` if it lies in the expected range, which is well filled."""
    hu = np.arange(_FLOOR, _CEILING) + shift
    if counts[(hu >= expected[0]) & (hu <= expected[1])].sum() < min_share * counts.sum():
        return None
    smooth = np.convolve(counts, np.ones(_BIN), mode="same")
    smooth[(hu < low) | (hu > high)] = 0
    peak = int(hu[smooth.argmax()])
    return peak if expected[0] <= peak <= expected[1] else None
