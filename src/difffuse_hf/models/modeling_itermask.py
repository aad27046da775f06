"""The two networks of IterMask2 (Liang et al. 2024): a slice from its high frequencies, and from what a mask leaves.

Images are in [0, 1] outside the networks and in [-3, 3] inside, as in the public code, whose noise of variance 1 hides
what is masked.
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch.nn import functional as F

from ..io.hub import private_by_default
from .backbone import check_channels
from .loading import CheckedNetwork
from .unet import make_healthy_unet

RADIUS = 15.0  # cycles over the slice: lower frequencies keep their phase alone
PUBLISHED_SIDE = 240  # pixels of the slices on which the public code draws its masks
SQUARES = (4, 8, 16)  # pixels of such a slice


@private_by_default
class IterMaskNetwork(CheckedNetwork, ModelMixin, ConfigMixin):
    """A U-Net for the first iteration, which is shown no pixel, and one for all others; they share no weights.

    Their architecture is that of a noise predictor asked for a single timestep; the defaults are the published widths.

    Args:
        in_channels (`int`): channels of a slice.
        block_out_channels (`tuple[int, ...]`): width of each level, from the finest to the coarsest.
        layers_per_block, attention_levels, norm_num_groups (`int`), dropout (`float`): as in `make_healthy_unet`.
        radius (`float`): of the frequencies that are left out, in cycles over the slice.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        block_out_channels: tuple[int, ...] = (32, 32, 64, 96, 128),
        layers_per_block: int = 2,
        attention_levels: int = 3,
        norm_num_groups: int = 32,
        dropout: float = 0.1,
        radius: float = RADIUS,
    ):
        super().__init__()
        options = {"attention_levels": attention_levels, "norm_num_groups": norm_num_groups, "dropout": dropout}
        options |= {"block_out_channels": tuple(block_out_channels), "layers_per_block": layers_per_block}
        self.first = make_healthy_unet(in_channels, **options)
        self.refiner = make_healthy_unet(2 * in_channels, out_channels=in_channels, **options)

    def forward(
        self, image: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What each network makes of an image, see `from_frequencies` and `from_surroundings`."""
        return self.from_frequencies(image), self.from_surroundings(image, mask, noise)

    def from_frequencies(self, image: torch.Tensor) -> torch.Tensor:
        """The image as its high frequencies suggest it, `(B, C, H, W)`, not clamped."""
        return self.first(self._high(image), 0).sample / 6 + 0.5

    def from_surroundings(self, image: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The image from what lies outside the mask, and from its high frequencies everywhere.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1].
            mask (`torch.Tensor` of shape `(B, 1, H, W)`): 1 where the network sees `noise` instead, else 0.
            noise (`torch.Tensor` of shape `(B, C, H, W)`): of unit variance.

        Returns:
            `torch.Tensor` of shape `(B, C, H, W)`: not clamped.
        """
        seen = (1 - mask) * (6 * image - 3) + mask * noise
        return self.refiner(torch.cat([seen, self._high(image)], 1), 0).sample / 6 + 0.5

    def _high(self, image):
        check_channels(image, self.config["in_channels"], "IterMask2 network")
        return high_frequencies(6 * image.float() - 3, self.config["radius"]).to(image.dtype)


def high_frequencies(image: torch.Tensor, radius: float = RADIUS) -> torch.Tensor:
    """The image without the amplitudes of its low frequencies, which become 1; their phases stay.

        F⁻¹(A e^{iφ}), with A = |F(x)| at frequencies of `radius` or more, else 1

    Args:
        image (`torch.Tensor` of shape `(B, C, H, W)`): any range.
        radius (`float`): in cycles over the height, or the width.
    """
    spectrum = torch.fft.fft2(image)
    height, width = (torch.fft.fftfreq(side, 1 / side, device=image.device) for side in image.shape[-2:])
    low = (height[:, None] ** 2 + width**2).sqrt() < radius
    return torch.fft.ifft2(torch.where(low, torch.polar(torch.ones_like(image), spectrum.angle()), spectrum)).real


def random_masks(brain: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Masks for training, `(B, 1, H, W)`: squares of three sizes scattered around a random pixel of each brain.

    As in the public code, rows and columns are scattered apart from each other, in two of three masks over 5 to 32
    pixels (standard deviation, of 240) with 100 to 200 small squares a unit of area, else over a quarter of that with
    5 to 20; and 5 to 9 middle and 3 to 9 large ones. There the corners are pixels of the brain; here a square may
    begin outside it. What lies outside the brain is not masked.

    Args:
        brain (`torch.Tensor` of shape `(B, 1, H, W)`): 1 or True where there is tissue.
        generator (`torch.Generator`, *optional*): source of the masks, on the brain's device.
    """
    brain = brain.float()
    batch, _, height, width = brain.shape
    options = {"generator": generator, "device": brain.device}

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, **options)

    centre = torch.multinomial(brain.flatten(1) + 1e-9, 1, generator=generator)
    spread = torch.stack([uniform(0.3, 10), uniform(0.3, 10)], 1).sqrt()  # [B,2]
    narrow = torch.randint(3, (batch,), **options) == 2
    per_area = torch.where(narrow, uniform(5, 20), uniform(100, 200))
    counts = [spread.prod(1) * per_area, uniform(5, 10).floor(), uniform(3, 10).floor()]
    scale = min(height, width) / PUBLISHED_SIDE
    spread = spread * torch.where(narrow, 2.5, 10.0)[:, None] * scale  # pixels
    centre = torch.cat([centre // width, centre % width], 1)[:, None]  # [B,1,2]
    masks = torch.zeros_like(brain)
    for count, square in zip(counts, SQUARES):
        number = int(count.max())
        corners = (centre + spread[:, None] * torch.randn(batch, number, 2, **options)).round().long()
        row, column = corners.unbind(-1)
        kept = (torch.arange(number, device=brain.device) < count[:, None]) & (row >= 0) & (column >= 0)
        kept &= (row < height) & (column < width)
        begins = torch.zeros_like(masks)
        begins[kept.nonzero()[:, 0], 0, row[kept], column[kept]] = 1
        masks = torch.maximum(masks, squares_from(begins, max(1, round(square * scale))))
    return masks * brain


def squares_from(corners: torch.Tensor, side: int) -> torch.Tensor:
    """Squares whose first pixel, in the row above all and the column before all, is a corner (B, 1, H, W)."""
    return F.max_pool2d(F.pad(corners, (side - 1, 0, side - 1, 0)), side, stride=1)


def tissue_error(image: torch.Tensor, made: torch.Tensor, channels: Sequence[int] | None = None) -> torch.Tensor:
    """Mean over the channels that count, all by default, of (x − x̂)²; `(B, 1, H, W)`."""
    error = (image - made) ** 2
    return (error if channels is None else error[:, list(channels)]).mean(1, keepdim=True)
