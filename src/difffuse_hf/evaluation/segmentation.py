"""How well an anomaly map finds the drawn lesion: overlap at a threshold, and the threshold itself.

Thresholds are chosen on validation data (`best_threshold`) and carried to the test data; `best_dice` there is the
ceiling that no honest threshold passes, and is printed in a column of its own. Both are exact.
"""

import numpy as np
import torch


def dice(prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Dice = 2 |P ∩ R| / (|P| + |R|) of boolean masks (B, ...), one value an image; 1 where both are empty."""
    prediction, reference = prediction.bool().flatten(1), reference.bool().flatten(1)
    overlap = (prediction & reference).sum(1)
    total = prediction.sum(1) + reference.sum(1)
    return torch.where(total > 0, 2 * overlap / total.clamp_min(1), torch.ones_like(overlap, dtype=torch.float))


def iou(prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """IoU = |P ∩ R| / |P ∪ R| of boolean masks (B, ...), one value an image; 1 where both are empty."""
    overlap = dice(prediction, reference)
    return overlap / (2 - overlap)


def best_threshold(maps: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """Threshold above 0 with the highest mean Dice over images, and that Dice; for validation data.

    It is exact: every value of the maps is tried. On the way down through all values, each pixel that is reached
    changes the Dice of its own image; the running sum of these changes is the mean Dice at each value.

    Args:
        maps (`torch.Tensor` of shape `(B, ...)`): anomaly maps, larger is more abnormal.
        reference (`torch.Tensor` of shape `(B, ...)`): drawn lesions.
    """
    if not (maps > 0).any():
        raise ValueError("All anomaly maps are zero: there is no threshold to choose.")
    reached, changes, agreed = [], [], 0
    for values, drawn in zip(*_flat(maps, reference)):
        positive, area = values > 0, drawn.sum()
        order = np.argsort(-values[positive])
        hits = drawn[positive][order].cumsum()
        reached.append(values[positive][order])
        changes.append(np.diff(2 * hits / (np.arange(1, len(hits) + 1) + area), prepend=float(area == 0)))
        agreed += area == 0  # as long as nothing is flagged
    order = np.argsort(-np.concatenate(reached))
    values = np.concatenate(reached)[order]
    scores = (agreed + np.concatenate(changes)[order].cumsum()) / len(maps)
    last = np.append(values[1:] < values[:-1], True)  # of equal values
    best = scores[last].argmax()
    return float(values[last][best]), float(scores[last][best])


def best_dice(maps: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean over images of each image's highest Dice over all thresholds above 0: the ceiling, never a result.

    It is exact: Dice is highest at a value of a drawn pixel, for to reach down to another pixel lowers it.
    """
    return float(np.mean([_highest_dice(values, drawn) for values, drawn in zip(*_flat(maps, reference))]))


def _highest_dice(values: np.ndarray, drawn: np.ndarray) -> float:
    """Of one image; 1 where nothing is drawn, for nothing needs to be flagged."""
    positive, area = values > 0, drawn.sum()
    rising, candidates = np.sort(values[positive]), np.sort(values[positive & drawn])
    flagged = len(rising) - np.searchsorted(rising, candidates)
    hits = np.arange(len(candidates), 0, -1)  # of equal candidates, the first one's is right and the largest
    return float((2 * hits / (flagged + area)).max(initial=float(area == 0)))


def _flat(maps: torch.Tensor, reference: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays (B, pixels), which numpy sorts several times as fast as torch on a CPU."""
    return maps.flatten(1).cpu().numpy(), reference.bool().flatten(1).cpu().numpy()
