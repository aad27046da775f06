"""Grad-CAM (Selvaraju et al. 2017): the last feature maps, weighed by the mean gradient of the class score."""

import torch

from .common import Images, Maps, Query, Target
from .feature_maps import Layer, activation_map, last_maps_and_gradient


def grad_cam(
    classifier, image: Images, target: Target = None, *, saliency: Maps = None, target_layer: Layer = None
) -> torch.Tensor:
    """Grad-CAM.

        ReLU(Σ_k w_k A_k),   w_k = mean over positions of ∂ logit_target / ∂A_k

    Args:
        classifier: a classifier of this package, or another network with `target_layer`; in eval mode.
        target_layer (`str` or `torch.nn.Module`, *optional*): whose output the maps (B, D, h, w) are, by its name in
            `named_modules()` or itself; the last stage of a classifier of this package by default.

    Raises:
        ValueError: if the classifier has no convolutional feature maps, or no such layer.

    The other arguments and the result are those of `gradient`; the maps are resized bilinearly.
    """
    query = Query.of(classifier, image, target, saliency)
    maps, slopes = last_maps_and_gradient(query, target_layer)  # [N,D,h,w] both
    return activation_map(query, maps, slopes.mean((2, 3), keepdim=True))
