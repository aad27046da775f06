"""The anomaly map: where, and by how much, the scan differs from its healthy counterfactual (thesis Ch. 6)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def anomaly_map(
    image: torch.Tensor,
    counterfactual: torch.Tensor,
    channels: Sequence[int] | None = None,
    morphology_size: int = 5,
) -> torch.Tensor:
    """δ = close(open(mean over channels of |x_0 − x̂_0|)).

    The opening removes bright specks narrower than the square, the closing fills holes narrower than it.

    Args:
        image, counterfactual (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
        channels (`Sequence[int]`, *optional*): the channels that count, all by default. The author's code takes FLAIR.
        morphology_size (`int`): side of the flat square in pixels, odd; 1 leaves the difference as it is.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)`: change of intensity in [0, 1].
    """
    difference = (image - counterfactual).abs()
    if channels is not None:
        difference = difference[:, list(channels)]
    difference = difference.mean(dim=1, keepdim=True)  # (B, 1, H, W)
    return closing(opening(difference, morphology_size), morphology_size)


def opening(image: torch.Tensor, size: int) -> torch.Tensor:
    """Grey-scale erosion, then dilation, with a flat `size` × `size` square."""
    return dilation(erosion(image, size), size)


def closing(image: torch.Tensor, size: int) -> torch.Tensor:
    """Grey-scale dilation, then erosion, with a flat `size` × `size` square."""
    return erosion(dilation(image, size), size)


def dilation(image: torch.Tensor, size: int) -> torch.Tensor:
    """Maximum over a `size` × `size` square, cut off at the border, which is the same as replicating the border."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"The side of the square must be odd and positive, so that it has a centre, got {size}.")
    return F.max_pool2d(image, size, stride=1, padding=size // 2)  # pads with −inf


def erosion(image: torch.Tensor, size: int) -> torch.Tensor:
    """Minimum over a `size` × `size` square, cut off at the border."""
    return -dilation(-image, size)
