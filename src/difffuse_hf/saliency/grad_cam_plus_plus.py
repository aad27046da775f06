"""Grad-CAM++ (Chattopadhyay et al. 2018): Grad-CAM with weights for every position of a map."""

import torch

from .common import Images, Maps, Query, Target
from .feature_maps import Layer, activation_map, last_maps_and_gradient


def grad_cam_plus_plus(
    classifier, image: Images, target: Target = None, *, saliency: Maps = None, target_layer: Layer = None
) -> torch.Tensor:
    """Grad-CAM++ (their Eqs. 10 and 19 with g = ∂ logit_target / ∂A_k).

        w_k = Σ_ij a_ij ReLU(g_ij),   a_ij = g_ij² / (2 g_ij² + Σ_ab A_ab g_ij³)

    That is the paper's closed form for the exponential of the logit, whose value is a factor that scaling to 1
    removes. a_ij is 0 where g_ij is.

    The arguments, the result and what is raised are those of `grad_cam`.
    """
    query = Query.of(classifier, image, target, saliency)
    maps, slopes = (values.float() for values in last_maps_and_gradient(query, target_layer))
    denominator = 2 + maps.sum((2, 3), keepdim=True) * slopes  # the fraction cancelled by g², which may underflow
    alpha = torch.where((slopes != 0) & (denominator != 0), 1 / denominator, 0.0)
    return activation_map(query, maps, (alpha * slopes.clamp_min(0)).sum((2, 3), keepdim=True))
