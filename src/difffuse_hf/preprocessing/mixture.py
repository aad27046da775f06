"""Slices of two scans that were put together all the same: their pictures alternate, or break off and begin anew.

Headers decide what belongs together (`acquisitions.py`); this is for identifiers and numbers that lie. In one head,
neighbours are more alike than slices that lie further apart, and its cross-section grows and shrinks once.
"""

import numpy as np

HEAD_HU = (-50, 150)  # window in which brain, fluid, bone and air are told apart
ALIKE = 0.8  # what a slice may differ from one further on, of what it differs from both its neighbours
MIN_ALTERNATING = 3  # slices, and
SHARE_ALTERNATING = 0.15  # of all that are compared
NOISE_HU = 4  # between two slices in that window, on average over the image: less is noise
SMALLER, SMALLEST = 0.75, 0.6  # cross-section of the head between two larger ones: two slices, and one of them
LEAST_HEAD = 0.1  # of the image


def count_alternating(hounsfield: np.ndarray) -> int:
    """How many slices of (S, H, W) are less like their neighbours than like a slice two or three further on."""
    images = _small(hounsfield)
    apart = [_differences(images, lag) for lag in (1, 2, 3)]  # (S - lag,)
    count = 0
    for i in range(1, len(images) - 1):
        nearest, *further = (
            min((apart[lag - 1][j] for j in (i - lag, i) if 0 <= j < len(apart[lag - 1])), default=np.inf)
            for lag in (1, 2, 3)
        )
        count += nearest > NOISE_HU and min(further) < ALIKE * nearest
    return int(count)


def begins_anew(hounsfield: np.ndarray) -> bool:
    """Whether a head gets smaller towards its end, and then large again: from neck to vertex there is one maximum."""
    sizes = (_small(hounsfield) > HEAD_HU[0]).mean((1, 2))  # (S,) of the image
    around = np.minimum(np.maximum.accumulate(sizes), np.maximum.accumulate(sizes[::-1])[::-1])
    smaller = (sizes < SMALLER * around) & (around > LEAST_HEAD)
    return bool(smaller.sum() > 1 and (sizes < SMALLEST * around)[smaller].any())


def mixture(hounsfield: np.ndarray) -> str:
    """What tells that the slices (S, H, W) are those of two scans; "" if nothing does."""
    count = count_alternating(hounsfield)
    if count >= MIN_ALTERNATING and count >= SHARE_ALTERNATING * len(hounsfield):
        return f"the pictures of two scans alternate: {count} slices are unlike both neighbours"
    return "one head ends amid the slices, and another one begins" if begins_anew(hounsfield) else ""


def _small(hounsfield: np.ndarray) -> np.ndarray:
    step = max(1, min(hounsfield.shape[1:]) // 64)
    return hounsfield[:, ::step, ::step].astype(np.float32).clip(*HEAD_HU)


def _differences(images: np.ndarray, lag: int) -> np.ndarray:
    return np.array([np.abs(one - other).mean() for one, other in zip(images, images[lag:])])
