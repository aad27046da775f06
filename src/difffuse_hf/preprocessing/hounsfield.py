"""Are the numbers Hounsfield units? Read off the two peaks that every head scan has: air and soft tissue.

A rescale intercept that is missing, or was applied twice, shifts both peaks by a known step and is undone.
Anything else (8-bit pictures, a wrong slope, wrapped integers) cannot be repaired and excludes the scan.
"""

from dataclasses import replace

import numpy as np

from .assemble import CTVolume
from .exclusion import Exclusion

HU_RANGE = (-1024, 3071)  # 12 bits, what scanners write
AIR_HU = (-1060, -920)
SOFT_HU = (10, 70)  # brain, about 35
ANY_SOFT_HU = (-150, 150)  # fat to plastic: enough where nothing needs repair; a brain is looked for later
SHIFTS = (0, 1024, -1024, 1000, -1000, 2048, -2048)
MIN_AIR, MIN_SOFT = 0.05, 0.01  # share of all voxels in the range
_FLOOR, _CEILING, _BIN = -4096, 8192, 10


def check_hounsfield(volume: CTVolume) -> tuple[CTVolume, Exclusion | None, dict]:
    """The volume in Hounsfield units, clipped to [-1024, 3071], or the reason why it cannot be had.

    A shift is undone only if it brings both peaks to their place; of several, the one that brings soft tissue
    closest to 35 HU. The measures are the shift that was added (`hu_shift`) and the peaks after it.
    """
    sample = volume.hounsfield[:, ::4, ::4].ravel()
    counts = np.bincount(np.clip(sample, _FLOOR, _CEILING - 1).astype(np.int32) - _FLOOR, minlength=_CEILING - _FLOOR)
    fits = {}
    for shift in SHIFTS:
        air = _peak(counts, shift, AIR_HU, -np.inf, -500, MIN_AIR)
        soft = _peak(counts, shift, SOFT_HU if shift else ANY_SOFT_HU, -300, np.inf, MIN_SOFT)
        if air is not None and soft is not None:
            fits[shift] = (air, soft)
    if not fits:
        measures = {"hu_shift": None, "hu_min": int(sample.min()), "hu_max": int(sample.max())}
        return volume, Exclusion.NOT_HOUNSFIELD, measures
    shift = 0 if 0 in fits else min(fits, key=lambda shift: abs(fits[shift][1] - 35))
    air, soft = fits[shift]
    hounsfield = volume.hounsfield if shift == 0 else volume.hounsfield.astype(np.int32) + shift
    hounsfield = np.clip(hounsfield, *HU_RANGE).astype(np.int16, copy=False)
    measures = {"hu_shift": shift, "hu_air": air, "hu_soft": soft}
    return replace(volume, hounsfield=hounsfield), None, measures


def _peak(counts, shift, expected, low, high, min_share):
    """Centre of the fullest 10 HU between `low` and `high` if it lies in the expected range, which is well filled."""
    hu = np.arange(_FLOOR, _CEILING) + shift
    if counts[(hu >= expected[0]) & (hu <= expected[1])].sum() < min_share * counts.sum():
        return None
    smooth = np.convolve(counts, np.ones(_BIN), mode="same")
    smooth[(hu < low) | (hu > high)] = 0
    peak = int(hu[smooth.argmax()])
    return peak if expected[0] <= peak <= expected[1] else None
