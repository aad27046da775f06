"""How well an anomaly map finds the drawn lesion: overlap at a threshold, and the threshold itself.

Thresholds are chosen on validation data (`best_threshold`) and carried to the test data; `best_dice` there is the
ceiling that no honest threshold reaches, and is printed in a column of its own.
"""

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


def best_threshold(maps: torch.Tensor, reference: torch.Tensor, num_candidates: int = 200) -> tuple[float, float]:
    """Threshold with the highest mean Dice over images, and that Dice; for validation data.

    Candidates are quantiles of the positive values, so that they lie close where the maps differ.

    Args:
        maps (`torch.Tensor` of shape `(B, ...)`): anomaly maps, larger is more abnormal.
        reference (`torch.Tensor` of shape `(B, ...)`): drawn lesions.
    """
    positive = maps[maps > 0]
    if len(positive) == 0:
        raise ValueError("All anomaly maps are zero: there is no threshold to choose.")
    positive = positive[torch.linspace(0, len(positive) - 1, min(len(positive), 1_000_000)).long()]
    candidates = torch.quantile(positive, torch.linspace(0, 0.999, num_candidates, dtype=positive.dtype)).unique()
    scores = torch.stack([dice(maps >= threshold, reference).mean() for threshold in candidates])
    best = int(scores.argmax())
    return float(candidates[best]), float(scores[best])


def best_dice(maps: torch.Tensor, reference: torch.Tensor, num_candidates: int = 200) -> float:
    """Mean over images of each image's highest Dice over all thresholds: the ceiling, never a result."""
    scores = [
        best_threshold(one[None], drawn[None], num_candidates)[1] if one.max() > 0 else float(not drawn.any())
        for one, drawn in zip(maps, reference)
    ]
    return sum(scores) / len(scores)
