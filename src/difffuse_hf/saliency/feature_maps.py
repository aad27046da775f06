"""The last feature maps of a classifier, which class activation maps are sums of (Sec. 5.6.5).

The maps are taken at the last stage, through the classifier's `feature_modifier`, and live on the images that its
convolutions see: slices, or the mirrored half slices of the half-brain network. Grad-CAM and Grad-CAM++ weigh the
maps for each of these images by itself, Score-CAM for a whole scan, which is one forward pass. `classifier.to_scan`
puts them back. The thesis is silent on scans; so much is our reading.
"""

import torch

from ..models.backbone import FeatureModifier
from .common import Query, pick, read_logits, scale_to_one


def last_maps(query: Query) -> torch.Tensor:
    """Maps (N, D, h, w) of the images that the convolutions see.

    Raises:
        ValueError: the classifier has no convolutional feature maps.
    """
    with torch.no_grad():
        return _run(query)[0]


def last_maps_and_gradient(query: Query) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps, and ∂ logit_target / ∂ maps, (N, D, h, w) both."""
    with torch.enable_grad():
        maps, logits = _run(query)
        slopes = torch.autograd.grad(pick(logits, query.target).sum(), maps)[0]
    return maps.detach(), slopes


def activation_map(query: Query, maps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """ReLU(Σ_k w_k A_k) of maps A (N, D, h, w) and weights (N, D, 1, 1), resized to the image and scaled to one."""
    summed = (weights * maps).sum(1, keepdim=True).clamp_min(0)
    return scale_to_one(query.classifier.to_scan(summed, like=query.image).clamp_min(0))


class _LastMaps(FeatureModifier):
    """Keeps the maps of a classifier's last stage; the graph behind them is cut off, nothing needs it."""

    def __init__(self, num_stages: int):
        self.stage = num_stages
        self.seen: torch.Tensor | None = None

    def features(self, stage, maps):
        if stage == self.stage:
            maps = self.seen = maps.detach().requires_grad_(torch.is_grad_enabled())
        return maps


def _run(query):
    keep = _LastMaps(getattr(query.classifier, "num_stages", 0))
    if hasattr(query.classifier, "to_scan"):  # of ours
        logits = read_logits(query.classifier(query.image, saliency=query.saliency, feature_modifier=keep))
        if keep.seen is not None:
            return keep.seen, logits
    name = type(query.classifier).__name__
    raise ValueError(
        f"`classifier` ({name}) has no convolutional feature maps that can be reached; use `gradient` instead, or "
        "wrap the network as a `SliceClassifier`."
    )
