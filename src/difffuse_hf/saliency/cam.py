"""Class activation maps (Sec. 5.6.5): sums of the last feature maps, weighed by what they mean to a class.

The maps are taken at the last stage of the classifier, through its `hook`, and live on the images that its
convolutions see: slices, or the mirrored half slices of the half-brain network. Grad-CAM and Grad-CAM++ weigh the
maps for each of these images by itself, Score-CAM for a whole scan, which is one forward pass. `classifier.to_scan`
puts them back. The thesis is silent on scans; so much is our reading.
"""

import torch

from ..models.backbone import FeatureHook
from .counterfactual import check_inputs, choose_target, class_logits, pick, scale_to_one
from .gradients import repeat

CONSTANT = 1e-5  # relative spread below which a map is constant but for what interpolation rounds


def grad_cam(
    classifier, image: torch.Tensor, target: torch.Tensor | None = None, *, saliency: torch.Tensor | None = None
) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017).

        ReLU(Σ_k w_k A_k),   w_k = mean over positions of ∂ logit_target / ∂A_k

    Args:
        classifier: with `hook`, `num_stages` and `to_scan`; in eval mode.
        image (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): slices or scans in [0, 1].
        target (`torch.Tensor` of shape `(B,)`, *optional*): class indices; the predicted classes by default.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): handed to the classifier.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)` in [0, 1], resized bilinearly from the maps.

    Raises:
        ValueError: if the classifier has no convolutional feature maps.
    """
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)
    maps, slopes = _last_maps_and_gradient(classifier, image, target, saliency)  # [N,D,h,w] both
    weights = slopes.mean((2, 3), keepdim=True)
    return _put_back(classifier, (weights * maps).sum(1, keepdim=True), image)


def grad_cam_plus_plus(
    classifier, image: torch.Tensor, target: torch.Tensor | None = None, *, saliency: torch.Tensor | None = None
) -> torch.Tensor:
    """Grad-CAM++ (Chattopadhyay et al. 2018, their Eqs. 10 and 19 with g = ∂ logit_target / ∂A_k).

        w_k = Σ_ij a_ij ReLU(g_ij),   a_ij = g_ij² / (2 g_ij² + Σ_ab A_ab g_ij³)

    That is the paper's closed form for the exponential of the logit, whose value is a factor that scaling to 1
    removes. a_ij is 0 where g_ij is.

    The arguments, the result and what is raised are those of `grad_cam`.
    """
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)
    maps, slopes = _last_maps_and_gradient(classifier, image, target, saliency)
    maps, slopes = maps.float(), slopes.float()
    denominator = 2 + maps.sum((2, 3), keepdim=True) * slopes  # the fraction cancelled by g², which may underflow
    alpha = torch.where((slopes != 0) & (denominator != 0), 1 / denominator, 0.0)
    weights = (alpha * slopes.clamp_min(0)).sum((2, 3), keepdim=True)  # [N,D,1,1]
    return _put_back(classifier, (weights * maps).sum(1, keepdim=True), image)


@torch.no_grad()
def score_cam(
    classifier,
    image: torch.Tensor,
    target: torch.Tensor | None = None,
    *,
    saliency: torch.Tensor | None = None,
    batch_size: int = 32,
) -> torch.Tensor:
    """Score-CAM (Wang et al. 2020): a map weighs as much as the class scores when only its region is seen.

        ReLU(Σ_k w_k A_k),   w = softmax_k logit_target(x ⊙ M_k),   M_k = A_k resized, from 0 to 1 over image or scan

    The paper subtracts the score of a black image from all logits, which the softmax does not see. A map that is
    constant shows no region and weighs nothing.

    Args:
        batch_size (`int`): most images (or scans) in one pass.

    The other arguments, the result and what is raised are those of `grad_cam`.
    """
    check_inputs(image, saliency)
    target = choose_target(classifier, image, target, saliency)
    hook = _LastMaps(classifier)
    classifier(image, saliency=saliency, hook=hook)
    maps = hook.maps()  # [N,D,h,w]
    scores = []
    for part in maps.split(max(batch_size // len(image), 1), dim=1):
        masks = classifier.to_scan(part, like=image).movedim(-3, 0)[..., None, :, :]  # [k,B,1,H,W] or [k,B,S,1,H,W]
        values = masks.flatten(2)
        low, high = (limit.view(*masks.shape[:2], *[1] * (masks.ndim - 2)) for limit in values.aminmax(dim=2))
        spread = high - low
        varies = spread > CONSTANT * torch.maximum(high.abs(), low.abs())
        masks = torch.where(varies, (masks - low) / spread, 0.0)
        count = len(masks)
        logits = class_logits(classifier, (image * masks).flatten(0, 1), repeat(saliency, count))
        score = pick(logits.float(), target.repeat(count)).view(count, -1)
        scores.append(score.masked_fill(~varies.view(count, -1), -torch.inf))
    weights = torch.cat(scores).softmax(0).nan_to_num(0)  # [D,B]; NaN where every map is constant
    summed = 0
    for part, weight in zip(maps.split(batch_size, dim=1), weights.split(batch_size)):
        shown = classifier.to_scan(part, like=image)  # [B,k,H,W] or [B,S,k,H,W]
        weight = weight.T.view(len(image), *[1] * (image.ndim - 4), -1, 1, 1).to(shown.dtype)
        summed = summed + (weight * shown).sum(-3, keepdim=True)
    return scale_to_one(summed.clamp_min(0))


class _LastMaps(FeatureHook):
    """Keeps the maps of a classifier's last stage; the graph behind them is cut off, nothing needs it."""

    def __init__(self, classifier):
        self.stage = getattr(classifier, "num_stages", 0)
        self.owner = type(classifier).__name__
        self.seen = None

    def features(self, stage, maps):
        if stage == self.stage:
            maps = self.seen = maps.detach().requires_grad_(torch.is_grad_enabled())
        return maps

    def maps(self) -> torch.Tensor:
        if self.seen is None:
            raise ValueError(f"`classifier` ({self.owner}) has no convolutional feature maps; use `gradient` instead.")
        return self.seen


def _last_maps_and_gradient(classifier, image, target, saliency):
    hook = _LastMaps(classifier)
    with torch.enable_grad():
        logits = classifier(image, saliency=saliency, hook=hook).logits
        slopes = torch.autograd.grad(pick(logits, target).sum(), hook.maps())[0]
    return hook.maps().detach(), slopes


def _put_back(classifier, cam, image):
    return scale_to_one(classifier.to_scan(cam.clamp_min(0), like=image).clamp_min(0))
