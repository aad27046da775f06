"""Perceptual distances `(a, b) -> (B, 1, H, W)` between two batches of images, pixel by pixel.

AutoDDPM weighs its residual with LPIPS (Zhang et al. 2018), whose learned weights cannot be shipped here. Its place is
taken by a stand-in without weights, `structural_distance`. Who has the weights of LPIPS passes it itself:

    lpips = lpips.LPIPS(net="squeeze", spatial=True)
    distance = lambda a, b: lpips(*(2 * x.mean(1, keepdim=True).expand(-1, 3, -1, -1) - 1 for x in (a, b)))
"""

import torch
import torch.nn.functional as F

from ..saliency.mask import gaussian_blur

SCALES = (1, 2, 4)  # pixels
WINDOW = 7  # pixels; Gaussian with σ = 1.4, close to the 1.5 of Wang et al. 2004
STABILISERS = (0.01**2, 0.03**2)  # C_1 and C_2 of Wang et al. 2004, for intensities up to 1


def structural_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(1 − SSIM) / 2 around each pixel, averaged over channels and over scales of 1, 2 and 4 pixels.

        SSIM = (2 μ_a μ_b + C_1)(2 σ_ab + C_2) / ((μ_a² + μ_b² + C_1)(σ_a² + σ_b² + C_2))   (Wang et al. 2004)

    It stands in for LPIPS: like it, it asks for structure more than for brightness; unlike it, it has learned nothing.

    Args:
        a, b (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1]; scales at which the images have fewer than 4 pixels a
            side are left out.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)`: 0 where the images agree, at most 1.
    """
    size = a.shape[-2:]
    if min(size) <= WINDOW // 2:
        raise ValueError(f"Images must have at least {WINDOW // 2 + 1} pixels a side, got {tuple(size)}.")
    distances = []
    for scale in SCALES:
        if min(size) // scale > WINDOW // 2:
            distance = _dissimilarity(F.avg_pool2d(a, scale), F.avg_pool2d(b, scale)).mean(1, keepdim=True)
            distances.append(F.interpolate(distance, size=size, mode="bilinear"))
    return torch.stack(distances).mean(0)


def _dissimilarity(a, b):
    """(1 − SSIM) / 2 of each channel, (B, C, H, W)."""
    mean_a, mean_b = gaussian_blur(a, WINDOW), gaussian_blur(b, WINDOW)
    variance_a = gaussian_blur(a * a, WINDOW) - mean_a**2
    variance_b = gaussian_blur(b * b, WINDOW) - mean_b**2
    covariance = gaussian_blur(a * b, WINDOW) - mean_a * mean_b
    brightness, structure = STABILISERS
    similarity = (2 * mean_a * mean_b + brightness) * (2 * covariance + structure)
    similarity = similarity / ((mean_a**2 + mean_b**2 + brightness) * (variance_a + variance_b + structure))
    return ((1 - similarity) / 2).clamp(0, 1)
