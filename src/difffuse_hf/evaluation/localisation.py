"""Does a saliency map point at the lesion? Pointing game, share of the map inside, precision and recall (Ch. 5).

A scan's map is (S, 1, H, W), a slice's (1, H, W), and the lesion a mask without the channel, (S, H, W) or (H, W). What
a map must beat is chance, the lesion's share of the pixels: a map that is the same everywhere scores just that in all
three measures, whatever its value.
"""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage


def pointing_game(saliency, mask, tolerance: float = 0.0) -> float:
    """Does the map's maximum lie in the lesion (Zhang et al. 2018)? 1 or 0.

    Where several pixels share the maximum, the share of them that lie in the lesion: what choosing one of them at
    random scores on average. Saturated and empty maps so gain nothing from the order of the pixels.

    Args:
        saliency: (S, 1, H, W) of a scan or (1, H, W) of a slice, array or tensor.
        mask: (S, H, W) or (H, W), not 0 in the lesion.
        tolerance (`float`): pixels in the plane of the slice by which the maximum may miss the lesion.

    Raises:
        ValueError: the shapes do not fit, or the mask is empty; scans without a lesion have nothing to point at.
    """
    saliency, mask = _check(saliency, mask)
    if tolerance > 0:
        mask = np.stack([np.asarray(ndimage.distance_transform_edt(~p)) <= tolerance if p.any() else p for p in mask])
    return float(mask[saliency == saliency.max()].mean())


def pointing_game_by_slice(saliency, mask, tolerance: float = 0.0) -> np.ndarray:
    """The pointing game of each slice that shows the lesion, (number of them,) in [0, 1]; see `pointing_game`."""
    saliency, mask = _check(saliency, mask)
    return np.array([pointing_game(one[None], plane, tolerance) for one, plane in zip(saliency, mask) if plane.any()])


def energy_inside(saliency, mask) -> float:
    """Share of the map's sum that lies in the lesion (the energy-based pointing game of Wang et al. 2020), 0 to 1."""
    saliency, mask = _check(saliency, mask)
    saliency = saliency.astype(np.float64)
    total = saliency.sum()
    return float(saliency[mask].sum() / total) if total > 0 else float(mask.mean())


def average_precision(saliency, mask) -> float:
    """Area under the precision-recall curve of the pixels of one scan (scikit-learn's `average_precision_score`)."""
    from sklearn.metrics import average_precision_score

    saliency, mask = _check(saliency, mask)
    return float(average_precision_score(mask.ravel(), saliency.ravel()))


def chance_level(mask, where=None) -> float:
    """The lesion's share of the pixels, or of those in `where`, such as the head: what a constant map scores."""
    mask = _array(mask) != 0
    return float(mask.mean()) if where is None else float(mask[_array(where) != 0].mean())


def localise(saliency, mask, image=None, tolerance: float = 0.0, prefix: str = "") -> dict[str, float]:
    """All measures of one scan with a lesion: {prefix + name: value}.

    `pointing` and `pointing_slices` (mean over the slices that show the lesion), `energy`, `auprc`; and what a map
    scores that is the same everywhere, `chance`, `chance_slices` by slice, and `chance_head` in the head alone, where
    `image` is given ((S, C, H, W) or (C, H, W); the head is what is above 0).
    """
    planes = _check(saliency, mask)[1]
    measures = {
        "pointing": pointing_game(saliency, mask, tolerance),
        "pointing_slices": float(pointing_game_by_slice(saliency, mask, tolerance).mean()),
        "energy": energy_inside(saliency, mask),
        "auprc": average_precision(saliency, mask),
        "chance": chance_level(mask),
        "chance_slices": float(np.mean([plane.mean() for plane in planes if plane.any()])),
    }
    if image is not None:
        measures["chance_head"] = chance_level(mask, (_array(image) > 0).any(-3))
    return {prefix + name: value for name, value in measures.items()}


def known_mask(row: Mapping) -> np.ndarray | None:
    """The drawn lesion of a data set's row, (S, H, W) or (H, W) bool; None if it is unknown or empty.

    An unknown mask is None, missing, or, in the formats of NumPy and PyTorch, an array of not-a-numbers.
    """
    if row.get("mask") is None:
        return None
    mask = np.asarray(row["mask"])
    if mask.dtype.kind == "f" and np.isnan(mask).any():
        return None
    return mask > 0 if (mask > 0).any() else None


def _check(saliency, mask) -> tuple[np.ndarray, np.ndarray]:
    """Saliency and mask as (S, H, W), the latter bool and not empty."""
    saliency, mask = _array(saliency), _array(mask) != 0
    if mask.ndim not in (2, 3) or saliency.shape != (*mask.shape[:-2], 1, *mask.shape[-2:]):
        raise ValueError(
            f"`saliency` is (S, 1, H, W) and `mask` (S, H, W), or (1, H, W) and (H, W), got {saliency.shape} and "
            f"{mask.shape}."
        )
    if not mask.any():
        raise ValueError("`mask` is empty: a scan without a lesion has nothing to point at; leave it out.")
    return saliency.reshape(-1, *mask.shape[-2:]), mask.reshape(-1, *mask.shape[-2:])


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
