"""The anomaly map: where, and by how much, the scan differs from its healthy counterfactual (thesis Ch. 6)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..errors import require_choice

DIFFERENCES = ("absolute", "squared")
OVER_CHANNELS = ("mean", "sum")
FOREGROUND = 0.01  # sum over channels above which a pixel is not background (Kascenas 2022)


def anomaly_map(
    image: torch.Tensor,
    counterfactual: torch.Tensor,
    channels: Sequence[int] | None = None,
    morphology_size: int = 5,
    difference: str = "absolute",
    over_channels: str = "mean",
) -> torch.Tensor:
    """δ = close(open(mean over channels of |x_0 − x̂_0|)).

    The opening removes bright specks narrower than the square, the closing fills holes narrower than it.

    Args:
        image, counterfactual (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1] (the map has their unit).
        channels (`Sequence[int]`, *optional*): the channels that count, all by default. The author's code takes FLAIR.
        morphology_size (`int`): side of the flat square in pixels, odd; 1 leaves the difference as it is.
        difference (`str`): `"absolute"`, or `"squared"` as AnoDDPM takes it.
        over_channels (`str`): `"mean"`, or `"sum"` as classifier guidance takes it.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)`: change of intensity, in [0, 1] with the defaults.

    Raises:
        InputError: an unknown `difference` or `over_channels`.
    """
    require_choice("difference", difference, DIFFERENCES)
    require_choice("over_channels", over_channels, OVER_CHANNELS)
    change = image - counterfactual
    change = change.abs() if difference == "absolute" else change**2
    if channels is not None:
        change = change[:, list(channels)]
    change = change.mean(1, keepdim=True) if over_channels == "mean" else change.sum(1, keepdim=True)  # (B, 1, H, W)
    return closing(opening(change, morphology_size), morphology_size)


def otsu_threshold(maps: torch.Tensor, num_bins: int = 256) -> torch.Tensor:
    """Threshold of each map with the largest variance between the two classes it makes (Otsu 1979).

    Args:
        maps (`torch.Tensor` of shape `(B, 1, H, W)`): any range.
        num_bins (`int`): bins of the histogram between a map's minimum and maximum.

    Returns:
        `torch.Tensor` of shape `(B, 1, 1, 1)`: values above it are the upper class; a constant map has none.
    """
    thresholds = []
    for values in maps.double().flatten(1).cpu():
        low, high = values.min().item(), values.max().item()
        if low == high:
            thresholds.append(high)
            continue
        counts, edges = torch.histogram(values, num_bins, range=(low, high))
        centres = (edges[1:] + edges[:-1]) / 2
        below, mass_below = counts.cumsum(0), (counts * centres).cumsum(0)
        above, mass_above = below[-1] - below, mass_below[-1] - mass_below
        between = below * above * (mass_below / below - mass_above / above) ** 2  # NaN where nothing is above
        thresholds.append(centres[between.nan_to_num(-1).argmax()].item())
    return torch.tensor(thresholds, dtype=maps.dtype, device=maps.device).view(-1, 1, 1, 1)


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


def foreground(image: torch.Tensor) -> torch.Tensor:
    """Where images (B, C, H, W) in [0, 1] are not black: boolean, (B, 1, H, W)."""
    return image.sum(1, keepdim=True) > FOREGROUND


def residual_map(
    image: torch.Tensor,
    reconstruction: torch.Tensor,
    erosion_size: int = 5,
    median_size: int = 5,
    channels: Sequence[int] | None = None,
) -> torch.Tensor:
    """What a reconstruction f(x) has left out (Kascenas 2022): median(m ⊙ mean over channels of |x − f(x)|).

    m is the eroded foreground: a pixel stays if the mean of the foreground over a square is more than 0.95, that is at
    5 × 5, if no two pixels of the square are background or beyond the image. The median is over a square, the image
    reflected at its border.

    Args:
        image, reconstruction (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
        erosion_size, median_size (`int`): sides of the two squares in pixels, odd; 1 does nothing.
        channels (`Sequence[int]`, *optional*): the channels that count, all by default as in the paper.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)`, ≥ 0.
    """
    if erosion_size % 2 == 0 or median_size % 2 == 0:
        raise ValueError(f"The sides of the squares must be odd, got {erosion_size} and {median_size}.")
    mask = F.avg_pool2d(foreground(image).to(image), erosion_size, stride=1, padding=erosion_size // 2) > 0.95
    difference = ((image - reconstruction) * mask).abs()
    difference = (difference if channels is None else difference[:, list(channels)]).mean(dim=1, keepdim=True)
    return median_filter(difference, median_size)


def median_filter(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Median over a `size` × `size` square of maps (B, 1, H, W), reflected at their border."""
    padded = F.pad(maps, (size // 2,) * 4, mode="reflect")
    return padded.unfold(2, size, 1).unfold(3, size, 1).flatten(-2).median(dim=-1).values  # (B, 1, H, W, k · k)
