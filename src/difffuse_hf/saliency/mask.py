"""From a saliency map to the mask of tissue that Dif-fuse repaints (thesis Ch. 6)."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import InputError, require_choice

VARIANTS = ("thesis", "reference_code")
BLUR_KERNEL = 5  # pixels, Ch. 6


def saliency_to_mask(
    saliency: torch.Tensor,
    percentile: float = 90.0,
    blur_kernel: int = BLUR_KERNEL,
    variant: str = "thesis",
    foreground: torch.Tensor | None = None,
    together: bool = False,
) -> torch.Tensor:
    """Binarise a saliency map at its percentile τ, image by image or, beyond the thesis, all images together.

    The thesis blurs the map and then binarises it. The author's code binarises first, blurs, and keeps all that is
    above zero, which widens the mask by half a kernel (2 pixels). A constant map has nothing salient: an empty mask.

    Args:
        saliency (`torch.Tensor` of shape `(B, 1, H, W)`): any range. With several channels the percentile is taken
            over all of them together and each gets its mask, as in the author's code.
        percentile (`float`): τ, 0–100.
        blur_kernel (`int`): side of the Gaussian in pixels, odd.
        variant (`str`): `"thesis"` or `"reference_code"`.
        foreground (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): the percentile is taken over these pixels
            only, and the mask stays inside them.
        together (`bool`): one percentile for the batch, so that an image with much that is salient gets a larger mask
            than one with little; the maps are then compared as they are.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)`: 1 where tissue is repainted, else 0.
    """
    if not 0 <= percentile <= 100:
        raise InputError(f"`percentile` must lie between 0 and 100, got {percentile}.")
    require_choice("variant", variant, VARIANTS)
    saliency = saliency.float()
    saliency = saliency - saliency.amin(dim=(1, 2, 3), keepdim=True)  # a constant map is exactly 0, blurred or not
    if variant == "thesis":
        mask = above_percentile(gaussian_blur(saliency, blur_kernel), percentile, foreground, together)
    else:
        mask = gaussian_blur(above_percentile(saliency, percentile, foreground, together).float(), blur_kernel) > 0
    if foreground is not None:
        mask = mask & foreground.bool()
    return mask.float()


def above_percentile(
    values: torch.Tensor, percentile: float, foreground: torch.Tensor | None = None, together: bool = False
) -> torch.Tensor:
    """Which pixels exceed the image's own percentile, or that of all images together; boolean, `(B, C, H, W)`.

    No foreground at all gives none.
    """
    counted = values if foreground is None else values.masked_fill(~foreground.bool(), float("nan"))
    if together:  # by NumPy, for torch sorts no more than 2^24 values
        pixels = counted[~counted.isnan()].cpu().numpy()
        return values > (float(np.percentile(pixels, percentile)) if pixels.size else float("nan"))
    thresholds = torch.stack([image.nanquantile(percentile / 100) for image in counted.flatten(1)])  # (B,)
    return values > thresholds.view(-1, 1, 1, 1)


def gaussian_blur(image: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Gaussian blur, borders reflected, with the σ that OpenCV and torchvision derive from the size: 1.1 for 5 × 5."""
    sigma = 0.3 * ((kernel_size - 1) / 2 - 1) + 0.8
    offsets = torch.arange(kernel_size, device=image.device, dtype=image.dtype) - (kernel_size - 1) / 2
    weights = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0)  # (k,)
    radius = kernel_size // 2
    padded = F.pad(image, (radius, radius, radius, radius), mode="reflect").flatten(0, 1)[:, None]  # (B·C, 1, …)
    blurred = F.conv2d(F.conv2d(padded, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return blurred.view_as(image)


def smooth_through_slices(saliency: torch.Tensor, sigma: float = 1.0) -> torch.Tensor:
    """Gaussian along the slice axis of one scan, so that masks do not jump from slice to slice; beyond the thesis.

    Args:
        saliency (`torch.Tensor` of shape `(S, 1, H, W)`): neighbouring slices in order; the outer ones are repeated.
        sigma (`float`): standard deviation in slices; 0 leaves the maps as they are.

    Returns:
        `torch.Tensor` of shape `(S, 1, H, W)`.
    """
    if sigma < 0:
        raise InputError(f"`sigma` must be 0 or more slices, got {sigma}.")
    if sigma == 0:
        return saliency
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=saliency.device)
    weights = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0).to(saliency)
    index = torch.arange(len(saliency), device=saliency.device)
    neighbours = (index[:, None] + offsets).clamp(0, len(saliency) - 1)  # (S, 2 · radius + 1)
    through = torch.zeros(len(saliency), len(saliency), device=saliency.device, dtype=saliency.dtype)
    through.scatter_add_(1, neighbours, weights.expand(neighbours.shape))  # (S, S), rows sum to 1
    return torch.einsum("st,tchw->schw", through, saliency)
