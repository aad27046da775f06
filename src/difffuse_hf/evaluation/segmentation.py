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
    scores = dice_at(maps, reference, candidates).mean(1)
    best = int(scores.argmax())
    return float(candidates[best]), float(scores[best])


def dice_at(maps: torch.Tensor, reference: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """`dice(maps >= threshold, reference)` for many thresholds at once, by counting each image's pixels once.

    Args:
        maps, reference (`torch.Tensor` of shape `(B, ...)`): see `best_threshold`.
        thresholds (`torch.Tensor` of shape `(T,)`): rising.

    Returns:
        `torch.Tensor` of shape `(T, B)`.
    """
    count, bins = len(maps), len(thresholds) + 1
    reached = torch.bucketize(maps.flatten(1), thresholds, right=True)  # how many thresholds a pixel reaches
    places = (reached + bins * torch.arange(count, device=maps.device)[:, None]).flatten()
    drawn = reference.bool().flatten(1)

    def at_least(values):  # (B·bins,) counts by thresholds reached -> (T, B) counts of pixels that reach each
        return values.view(count, bins).flip(1).cumsum(1).flip(1)[:, 1:].T

    predicted = at_least(torch.bincount(places, minlength=count * bins))
    overlap = at_least(torch.bincount(places[drawn.flatten()], minlength=count * bins))
    total = predicted + drawn.sum(1)
    return torch.where(total > 0, 2 * overlap / total.clamp_min(1), torch.ones_like(overlap, dtype=torch.float))


def best_dice(maps: torch.Tensor, reference: torch.Tensor, num_candidates: int = 200) -> float:
    """Mean over images of each image's highest Dice over all thresholds: the ceiling, never a result."""
    scores = [
        best_threshold(one[None], drawn[None], num_candidates)[1] if one.max() > 0 else float(not drawn.any())
        for one, drawn in zip(maps, reference)
    ]
    return sum(scores) / len(scores)
