"""Which slices of a scan are shown, and so get a counterfactual that is made to be looked at."""

import numpy as np


def choose_slices(anomaly: np.ndarray, reference: np.ndarray | None = None, count: int = 5) -> list[int]:
    """Indices of the slices worth showing, in order, at most `count`.

    With a reference lesion they are spread over it (equal shares of its area lie between them); without one, or with
    an empty one, they are the slices of largest summed anomaly, no two of them neighbours; with no anomaly at all
    they are spread over the stack.

    Args:
        anomaly (`np.ndarray` of shape `(S, H, W)`): anomaly map, >= 0.
        reference (`np.ndarray` of shape `(S, H, W)`, *optional*): > 0 inside the reference lesion.
    """
    areas = anomaly.sum((1, 2)) if reference is None or not reference.any() else (reference > 0).sum((1, 2))
    if not areas.any():
        return sorted(set(np.linspace(0, len(areas) - 1, count + 2).astype(int)[1:-1])) if len(areas) else []
    if reference is not None and reference.any():
        shares = (np.arange(count) + 0.5) / count
        return sorted(set(np.searchsorted(np.cumsum(areas) / areas.sum(), shares)))
    gap = max(2, np.count_nonzero(areas) // (2 * count))
    chosen = []
    for index in np.argsort(-areas, kind="stable"):
        if areas[index] > 0 and len(chosen) < count and all(abs(index - other) >= gap for other in chosen):
            chosen.append(int(index))
    return sorted(chosen)
