"""Score-CAM (Wang et al. 2020): the last feature maps, weighed by what the classifier says when it sees only them."""

import torch

from .common import Images, Maps, Query, Target, scale_to_one
from .feature_maps import Layer, last_maps, shown

CONSTANT = 1e-5  # relative spread below which a map is constant but for what interpolation rounds


@torch.no_grad()
def score_cam(
    classifier,
    image: Images,
    target: Target = None,
    *,
    saliency: Maps = None,
    target_layer: Layer = None,
    batch_size: int = 32,
) -> torch.Tensor:
    """Score-CAM: a map weighs as much as the class scores when only its region is seen.

        ReLU(Σ_k w_k A_k),   w = softmax_k logit_target(x ⊙ M_k),   M_k = A_k resized, from 0 to 1 over image or scan

    The paper subtracts the score of a black image from all logits, which the softmax does not see. A map that is
    constant shows no region and weighs nothing.

    Args:
        batch_size (`int`): most images (or scans) in one pass.

    The other arguments, the result and what is raised are those of `grad_cam`.
    """
    query = Query.of(classifier, image, target, saliency)
    maps = last_maps(query, target_layer)  # [N,D,h,w]
    scores = []
    for part in maps.split(query.batches_in(batch_size), dim=1):
        masks = shown(classifier, part, image).movedim(-3, 0)[..., None, :, :]  # [k,B,1,H,W] or [k,B,S,1,H,W]
        low, high = masks.flatten(2).aminmax(dim=2)  # [k,B]
        low, high = (limit.view(*limit.shape, *[1] * (masks.ndim - 2)) for limit in (low, high))
        spread = high - low
        varies = spread > CONSTANT * torch.maximum(high.abs(), low.abs())
        masks = torch.where(varies, (masks - low) / spread, 0.0)
        score = query.score((image * masks).flatten(0, 1)).float().view(len(masks), -1)  # [k,B]
        scores.append(score.masked_fill(~varies.view(len(masks), -1), -torch.inf))
    weights = torch.cat(scores).softmax(0).nan_to_num(0)  # [D,B]; NaN where every map is constant
    summed = torch.zeros((), device=maps.device)
    for part, weight in zip(maps.split(batch_size, dim=1), weights.split(batch_size)):
        region = shown(classifier, part, image)  # [B,k,H,W] or [B,S,k,H,W]
        weight = weight.T.view(len(image), *[1] * (image.ndim - 4), -1, 1, 1).to(region.dtype)
        summed = summed + (weight * region).sum(-3, keepdim=True)
    return scale_to_one(summed.clamp_min(0))
