"""The anomaly map as a choice to be calibrated: what counts as a change, and how the picture of it is cleaned.

The thesis takes |x_0 − x̂_0|, opened and closed (`anomaly_map`). What is here goes beyond it:

    d   = s · (x_0 − x̄), negative values 0            x̄, σ: mean and standard deviation of the samples, s: the sign
    δ   = clean(mean over channels of d / √(σ² + ε²))

A lesion that is known to be bright, as on FLAIR, is never darker than healthy tissue: a change of the other sign is an
error of the counterfactual. Where the samples disagree about what healthy tissue would be, a change means little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import InputError
from .anomaly_map import closing, dilation, foreground, opening

SIGNS = (-1, 0, 1)


@dataclass(frozen=True)
class MapRecipe:
    """How a map is made of an image and the samples of its healthy counterfactual; lengths in millimetres.

    Args:
        channels (`Sequence[int]`): the channels that count.
        signs (`Sequence[int]`): of each of them: 1 where lesions are brighter than healthy tissue, −1 where they are
            darker, 0 where either may be: then the absolute change counts.
        sample_noise (`float`, *optional*): ε, the disagreement that samples have about healthy tissue anyway, in the
            unit of the image; the map is then in standard deviations. Without it the samples' disagreement is not used
            and the map is a change of intensity.
        smoothing_mm (`float`): side of the square that the map is averaged over.
        opening_mm, closing_mm (`float`): sides of the squares of the opening and of the closing after it.
        edge_mm (`float`): the map is 0 so close to the edge of the brain.
        weighted (`bool`): times the saliency, where there is one.

    Raises:
        InputError: channels and signs do not match, or a value is out of its range.
    """

    channels: Sequence[int] = (0,)
    signs: Sequence[int] = (0,)
    sample_noise: float | None = None
    smoothing_mm: float = 0.0
    opening_mm: float = 0.0
    closing_mm: float = 0.0
    edge_mm: float = 0.0
    weighted: bool = False

    def __post_init__(self):
        object.__setattr__(self, "channels", tuple(self.channels))  # lists, where it comes from a file
        object.__setattr__(self, "signs", tuple(self.signs))
        if not self.channels or len(self.channels) != len(self.signs) or not set(self.signs) <= set(SIGNS):
            raise InputError(
                f"A map needs a sign of -1, 0 or 1 for each channel, got the channels {list(self.channels)} and the "
                f"signs {list(self.signs)}."
            )
        if self.sample_noise is not None and self.sample_noise <= 0:
            raise InputError(f"`sample_noise` must be above 0, got {self.sample_noise}.")
        for name in ("smoothing_mm", "opening_mm", "closing_mm", "edge_mm"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` must not be negative, got {getattr(self, name)}.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "MapRecipe":
        """From a file's values.

        Raises:
            InputError: there is no such value.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"A map has no value {unknown[0]!r}; it has {', '.join(sorted(known))}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As a file holds it: numbers, lists and words."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def in_words(self, modalities: Sequence[str] = ()) -> str:
        """What the map shows, in half a sentence."""
        names = [modalities[channel] if modalities else f"channel {channel}" for channel in self.channels]
        how = {1: "brighter", -1: "darker", 0: "brighter or darker"}
        changes = ", ".join(f"{how[sign]} on {name}" for name, sign in zip(names, self.signs))
        unit = "share of the model's intensity range" if self.sample_noise is None else "standard deviations"
        return f"{changes} than healthy, {unit}"


def map_by_recipe(
    image: torch.Tensor,
    expected: torch.Tensor,
    deviation: torch.Tensor | None,
    recipe: MapRecipe,
    pixel_mm: float = 1.0,
    saliency: torch.Tensor | None = None,
) -> torch.Tensor:
    """The anomaly map δ of a recipe.

    Args:
        image (`torch.Tensor` of shape `(B, C, H, W)`): x_0 in [0, 1].
        expected (`torch.Tensor` of shape `(B, C, H, W)`): x̄, mean of the samples, in [0, 1].
        deviation (`torch.Tensor` of shape `(B, C, H, W)`, *optional*): σ, their standard deviation; 0 without it.
        recipe (`MapRecipe`): what counts as a change.
        pixel_mm (`float`): side of a pixel.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)`, *optional*): in [0, 1], for recipes that weight with it.

    Returns:
        `torch.Tensor` of shape `(B, 1, H, W)`, ≥ 0, in standard deviations or in the unit of the image.
    """
    change = signed_change(image, expected, deviation, recipe).mean(1, keepdim=True)  # (B, 1, H, W)
    if recipe.edge_mm:
        change = change * away_from_edge(image, recipe.edge_mm, pixel_mm)
    if recipe.smoothing_mm:
        size = odd_pixels(recipe.smoothing_mm, pixel_mm)
        change = F.avg_pool2d(change, size, stride=1, padding=size // 2, count_include_pad=False)
    change = opening(change, odd_pixels(recipe.opening_mm, pixel_mm))
    change = closing(change, odd_pixels(recipe.closing_mm, pixel_mm))
    return change * saliency if recipe.weighted and saliency is not None else change


def signed_change(
    image: torch.Tensor, expected: torch.Tensor, deviation: torch.Tensor | None, recipe: MapRecipe
) -> torch.Tensor:
    """s · (x_0 − x̄), negative values 0, over √(σ² + ε²) if there is an ε; of the recipe's channels, (B, K, H, W)."""
    channels = list(recipe.channels)
    change = (image - expected)[:, channels]
    signs = torch.tensor(recipe.signs, device=change.device).view(1, -1, 1, 1)
    change = torch.where(signs == 0, change.abs(), (signs * change).clamp_min(0))
    if recipe.sample_noise is None:
        return change
    variance = torch.zeros_like(change) if deviation is None else deviation[:, channels] ** 2
    return change / (variance + recipe.sample_noise**2).sqrt()


def odd_pixels(length_mm: float, pixel_mm: float) -> int:
    """The odd number of pixels nearest to a length, at least 1, so that a square of it has a centre."""
    return 2 * round(max(length_mm / pixel_mm - 1, 0) / 2) + 1


def away_from_edge(image: torch.Tensor, distance_mm: float, pixel_mm: float) -> torch.Tensor:
    """1 where every pixel within the distance is brain (the border of the image is not), else 0; (B, 1, H, W)."""
    radius = round(distance_mm / pixel_mm)
    outside = F.pad(1 - foreground(image).to(image), (radius,) * 4, value=1.0)
    return 1 - F.max_pool2d(outside, 2 * radius + 1, stride=1)


def widened(mask: torch.Tensor, margin_mm: float, pixel_mm: float) -> torch.Tensor:
    """A mask (B, 1, H, W) with a margin of so many millimetres all around."""
    return dilation(mask, 2 * round(margin_mm / pixel_mm) + 1)
