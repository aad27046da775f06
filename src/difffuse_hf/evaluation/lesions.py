"""A detected mask of a whole scan against the drawn one: volumes, lesions one by one, and what is flagged wrongly.

Lesions are the connected pieces of the drawn mask (voxels that share a face). A lesion is found where any voxel of it
is flagged; a flagged piece that touches no lesion is a false positive.
"""

import math

import numpy as np
import torch

from ..errors import InputError
from ..preprocessing.shapes import label_pieces
from .segmentation import dice


def score_scan(found: np.ndarray, brain: np.ndarray, drawn: np.ndarray | None, voxel_ml: float) -> dict[str, float]:
    """The measures of one scan; NaN where one is not defined, and those of a drawn mask are left out without one.

    Args:
        found (`np.ndarray` of shape `(X, Y, Z)`): > 0 where a lesion was detected.
        brain (`np.ndarray` of shape `(X, Y, Z)`): > 0 in the tissue in which a lesion can be.
        drawn (`np.ndarray` of shape `(X, Y, Z)`, *optional*): > 0 in the lesions; all 0 for a scan without one.
        voxel_ml (`float`): volume of a voxel in millilitres.

    Returns:
        `found_ml`; `flagged`, the share of the brain outside the drawn lesions that is flagged. With a drawn mask also
        `drawn_ml`, `volume_error_ml` (found minus drawn), `false_positives` (pieces a scan), `false_slices` (share of
        the axial slices, those along the last axis, with brain and no lesion in which anything is flagged), and where
        it is not empty `dice`, `sensitivity` (share of the lesions that are found) and `voxel_sensitivity`.

    Raises:
        ValueError: the masks have different shapes.
    """
    found, brain = found > 0, brain > 0
    lesion = np.zeros_like(found) if drawn is None else drawn > 0
    if not found.shape == brain.shape == lesion.shape:
        raise ValueError(f"The masks have different shapes: {found.shape}, {brain.shape}, {lesion.shape}.")
    measures = {
        "found_ml": np.count_nonzero(found) * voxel_ml,
        "flagged": _share(found, brain & ~lesion),
    }
    if drawn is None:
        return measures
    drawn_ml = np.count_nonzero(lesion) * voxel_ml
    pieces, count = label_pieces(found)
    healthy = np.asarray((brain & ~lesion).any((0, 1)) & ~lesion.any((0, 1)))  # of the slices
    measures |= {
        "drawn_ml": drawn_ml,
        "volume_error_ml": measures["found_ml"] - drawn_ml,
        "false_positives": float(count - _touched(pieces, lesion)),
        "false_slices": _share(np.asarray(found.any((0, 1))), healthy),
    }
    if lesion.any():
        hit, number = lesions_found(found, lesion)
        measures |= {
            "dice": dice(torch.from_numpy(found)[None], torch.from_numpy(lesion)[None]).item(),
            "sensitivity": hit / number,
            "voxel_sensitivity": _share(found, lesion),
        }
    return measures


def lesions_found(found: np.ndarray, drawn: np.ndarray) -> tuple[int, int]:
    """How many of the drawn lesions are found, and how many there are; both masks boolean, of a scan or of a slice."""
    lesions, number = label_pieces(drawn)
    return _touched(lesions, found), number


def pieces_of_slices(found: np.ndarray, drawn: np.ndarray) -> dict[str, list[int]]:
    """Pieces of each slice of boolean masks (N, H, W): `lesions` drawn, `lesions_found` of them, `false_positives`,
    which are flagged and touch no lesion."""
    counted: dict[str, list[int]] = {"lesions": [], "lesions_found": [], "false_positives": []}
    for one, lesion in zip(found, drawn):
        hit, number = lesions_found(one, lesion)
        flagged, count = label_pieces(one)
        for name, value in zip(counted, (number, hit, count - _touched(flagged, lesion))):
            counted[name].append(value)
    return counted


def _touched(pieces: np.ndarray, mask: np.ndarray) -> int:
    """How many of the numbered pieces share a voxel with a mask."""
    return int(np.count_nonzero(np.unique(pieces[mask])))


def _share(flagged: np.ndarray, where: np.ndarray) -> float:
    """Share of the places `where` that are flagged; NaN where there is none."""
    count = np.count_nonzero(where)
    return np.count_nonzero(flagged & where) / count if count else math.nan


def reached(anomaly: np.ndarray, drawn: np.ndarray, brain: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How much of a scan reaches each threshold.

    Args:
        anomaly (`np.ndarray`), drawn, brain (`np.ndarray` of bool): of one shape.
        thresholds (`np.ndarray` of shape `(T,)`): rising.

    Returns:
        `np.ndarray` of shape `(4, T)`: voxels of the lesion that reach it, voxels of the brain outside the lesion that
        do, and all voxels of the lesion and of the brain outside it.
    """
    counts = []
    for where in (drawn, brain & ~drawn):
        values = np.sort(anomaly[where])
        counts.append(len(values) - np.searchsorted(values, thresholds))
    totals = [np.full(len(thresholds), np.count_nonzero(where)) for where in (drawn, brain & ~drawn)]
    return np.stack([*counts, *totals])


def dice_of_counts(counts: np.ndarray) -> np.ndarray:
    """Dice at each threshold (T,) of the counts (4, T) of `reached`; 1 where there is neither lesion nor finding."""
    hit, wrong, lesion, _ = counts
    size = hit + wrong + lesion
    return np.divide(2 * hit, size, out=np.ones(len(size)), where=size > 0)


def share_threshold(counts: np.ndarray, thresholds: np.ndarray, share: float) -> float:
    """The lowest threshold that at most a `share` of the brain outside lesions reaches, over scans (N, 4, T).

    Raises:
        InputError: more reaches even the highest.
    """
    fits = counts[:, 1].sum(0) <= share * counts[:, 3].sum(0)  # (T,)
    if not fits.any():
        raise InputError(f"More than {share:.1%} of the brain reaches {thresholds[-1]:.3g}; allow a larger share.")
    return float(thresholds[fits.argmax()])
