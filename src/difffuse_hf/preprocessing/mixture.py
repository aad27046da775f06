"""Slices of two scans that were put together all the same: their pictures alternate from slice to slice.

Headers decide what belongs together (`acquisitions.py`); this is for identifiers and numbers that lie. In one head,
neighbours are more alike than slices that lie further apart. In a mixture, a slice is more like the next but one.
"""

import numpy as np

HEAD_HU = (-50, 150)  # window in which brain, fluid, bone and air are told apart
ALIKE = 0.8  # what two neighbours of a slice may differ from each other, of what both differ from it
MIN_ALTERNATING = 3  # slices, and
SHARE_ALTERNATING = 0.15  # of all that are compared
SHARE_CHANGED = 0.02  # of the window's range, on average: less is noise


def count_alternating(hounsfield: np.ndarray) -> tuple[int, int]:
    """How many slices of (S, H, W) differ from both neighbours, which are alike; and how many were compared."""
    step = max(1, min(hounsfield.shape[1:]) // 64)
    images = hounsfield[:, ::step, ::step].astype(np.float32).clip(*HEAD_HU)
    next_one = np.abs(np.diff(images, axis=0)).mean((1, 2))  # (S - 1,)
    next_but_one = np.abs(images[2:] - images[:-2]).mean((1, 2))  # (S - 2,)
    nearer = np.minimum(next_one[:-1], next_one[1:])
    clear = nearer > SHARE_CHANGED * (HEAD_HU[1] - HEAD_HU[0])
    return int(np.count_nonzero(clear & (next_but_one < ALIKE * nearer))), len(next_but_one)


def is_mixture(hounsfield: np.ndarray) -> bool:
    """Whether so many slices alternate that this is not one head."""
    count, compared = count_alternating(hounsfield)
    return count >= MIN_ALTERNATING and count >= SHARE_ALTERNATING * compared
