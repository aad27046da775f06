"""Which slices of a scan are shown, and so get a counterfactual that is made to be looked at."""

import numpy as np


def choose_slices(
    anomaly: np.ndarray, reference: np.ndarray | None = None, repainted: np.ndarray | None = None, count: int = 5
) -> list[int]:
    """Indices of the slices worth showing, at most `count`: those that were repainted first, each group in order.

    Slices that were not repainted fill the places that are left. They keep one place if reference lesion lies in
    them, because that is what detection missed unseen.

    Within a group, slices are spread over the reference lesion (equal shares of its area lie between them), then come
    those of largest summed anomaly, if possible no two of them neighbours, then any, spread over the group.

    Args:
        anomaly (`np.ndarray` of shape `(S, H, W)`): anomaly map, >= 0.
        reference (`np.ndarray` of shape `(S, H, W)`, *optional*): > 0 inside the reference lesion.
        repainted (`np.ndarray` of shape `(S,)`, *optional*): bool, all of them by default.
    """
    anomalies = anomaly.sum((1, 2), dtype=np.float64)
    areas = np.zeros(len(anomaly)) if reference is None else (reference > 0).sum((1, 2)).astype(float)
    repainted = np.ones(len(anomaly), bool) if repainted is None else np.asarray(repainted, bool)
    kept = int(count > 1 and areas[~repainted].any())
    first = _some_of(repainted, areas, anomalies, count - kept)
    return first + _some_of(~repainted, areas, anomalies, count - len(first))


def _some_of(group: np.ndarray, areas: np.ndarray, anomalies: np.ndarray, count: int) -> list[int]:
    """`count` slices of a group (S,) bool, or all of a smaller one, in order."""
    chosen: set[int] = set()
    for weights, choose in ((areas, _spread), (anomalies, _largest), (np.ones(len(group)), _spread)):
        weights = np.where(group, weights, 0)
        while True:
            weights[list(chosen)] = 0
            if len(chosen) >= count or not weights.any():
                break
            chosen.update(choose(weights, count - len(chosen)))
    return sorted(chosen)


def _spread(weights: np.ndarray, count: int) -> list[int]:
    """At most `count` indices with equal shares of the weights between them."""
    shares = (np.arange(count) + 0.5) / count
    return np.searchsorted(np.cumsum(weights) / weights.sum(), shares).tolist()


def _largest(weights: np.ndarray, count: int) -> list[int]:
    """`count` indices of the largest weights above 0, or all of them: as far apart as that allows."""
    chosen: list[int] = []
    for gap in range(max(2, np.count_nonzero(weights) // (2 * count)), 0, -1):
        for index in np.argsort(-weights, kind="stable").tolist():
            if weights[index] > 0 and len(chosen) < count and all(abs(index - other) >= gap for other in chosen):
                chosen.append(index)
    return chosen
