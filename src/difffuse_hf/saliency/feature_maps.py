"""The last feature maps of a classifier, which class activation maps are sums of (Sec. 5.6.5).

The maps of our classifiers are taken at the last stage, through their `feature_modifier`, and live on the images that
the convolutions see: slices, or the mirrored half slices of the half-brain network. Grad-CAM and Grad-CAM++ weigh the
maps for each of these images by itself, Score-CAM for a whole scan, which is one forward pass. `classifier.to_scan`
puts them back. The thesis is silent on scans; so much is our reading. Of another network (torchvision, timm) the layer
is named, and sees slices.
"""

import torch
from torch import nn

from ..models.backbone import FeatureModifier, resize_maps
from .common import Images, Query, class_logits, pick, read_logits, scale_to_one

Layer = str | nn.Module | None  # whose output the maps are; `None` is the last stage of a classifier of ours


def last_maps(query: Query, layer: Layer = None) -> torch.Tensor:
    """Maps (N, D, h, w) of the images that the convolutions see.

    Raises:
        ValueError: the classifier has no convolutional feature maps, or no such layer.
    """
    with torch.no_grad():
        return _run(query, layer)[0]


def last_maps_and_gradient(query: Query, layer: Layer = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps, and ∂ logit_target / ∂ maps, (N, D, h, w) both."""
    with torch.enable_grad():
        maps, logits = _run(query, layer)
        slopes = torch.autograd.grad(pick(logits, query.target).sum(), maps)[0]
    return maps.detach(), slopes


def activation_map(query: Query, maps: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """ReLU(Σ_k w_k A_k) of maps A (N, D, h, w) and weights (N, D, 1, 1), resized to the image and scaled to one."""
    summed = (weights * maps).sum(1, keepdim=True).clamp_min(0)
    return scale_to_one(shown(query.classifier, summed, query.image).clamp_min(0))


def shown(classifier, maps: torch.Tensor, image: Images) -> torch.Tensor:
    """Maps (N, K, h, w) of the images that the convolutions see, at the size of the slices or scans."""
    if hasattr(classifier, "to_scan"):
        return classifier.to_scan(maps, like=image)
    return resize_maps(maps, image.shape[-2:])


class _Maps(FeatureModifier):
    """Keeps the maps of a stage, or of a layer that it is a hook of; the graph behind them is cut off."""

    def __init__(self, stage: int = 0):
        self.stage = stage
        self.seen: torch.Tensor | None = None

    def features(self, stage, maps):
        return self.keep(maps) if stage == self.stage else maps

    def keep(self, maps):
        self.seen = maps.detach().requires_grad_(torch.is_grad_enabled())
        return self.seen


def _run(query: Query, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and logits."""
    classifier, name = query.classifier, type(query.classifier).__name__
    if layer is not None:
        return _run_with_hook(query, layer, name)
    kept = _Maps(getattr(classifier, "num_stages", 0))
    if hasattr(classifier, "to_scan"):  # of ours
        logits = read_logits(classifier(query.image, saliency=query.saliency, feature_modifier=kept))
        if kept.seen is not None:
            return kept.seen, logits
    raise ValueError(
        f"`classifier` ({name}) has no convolutional feature maps that can be reached; name the layer that makes them "
        'by `target_layer` (such as "layer4"), or use `gradient` instead.'
    )


def _run_with_hook(query: Query, layer: str | nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps and logits, the maps being what a layer puts out."""
    module = dict(query.classifier.named_modules()).get(layer) if isinstance(layer, str) else layer
    if module is None:
        raise ValueError(f"`classifier` ({name}) has no layer {layer!r}; see its `named_modules()`.")
    kept = _Maps()

    def hook(module, inputs, output):
        return kept.keep(output).clone() if isinstance(output, torch.Tensor) else output  # what follows may overwrite

    handle = module.register_forward_hook(hook)
    try:
        logits = class_logits(query.classifier, query.image, query.saliency)
    finally:
        handle.remove()
    if kept.seen is None or kept.seen.ndim != 4:
        got = "nothing" if kept.seen is None else f"shape {tuple(kept.seen.shape)}"
        raise ValueError(f"`target_layer` must put out maps (B, D, h, w), got {got}.")
    return kept.seen, logits
