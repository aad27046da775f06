"""Denoising autoencoder (Kascenas 2022): a U-Net that removes coarse noise from healthy slices, and lesions with it.

It sees images with noise during training and without afterwards; what it cannot tell from noise, it takes away.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

from ..io.hub import private_by_default
from .backbone import check_channels
from .loading import CheckedNetwork


class StandardisedConv2d(nn.Conv2d):
    """3x3 convolution whose kernels have mean 0 and standard deviation 1 over (C, h, w) (Qiao 2019).

    The border is reflected.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1, padding_mode="reflect")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        kernels = centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(F.pad(input, (1, 1, 1, 1), mode="reflect"), kernels, self.bias)


class ConvBlock(nn.Sequential):
    """Twice: 3x3 convolution with the border reflected, swish, group norm, in that order."""

    def __init__(self, in_channels: int, out_channels: int):
        layers = []
        for channels in (in_channels, out_channels):
            layers += [
                StandardisedConv2d(channels, out_channels),
                nn.SiLU(),
                nn.GroupNorm(_num_groups(out_channels), out_channels),
            ]
        super().__init__(*layers)


@private_by_default
class DenoisingAutoencoder(CheckedNetwork, ModelMixin, ConfigMixin):
    """U-Net with a 1x1 convolution at its end; the defaults are the published 7,703,748 parameters.

    Args:
        in_channels (`int`): channels of a slice.
        channels (`tuple[int, ...]`): width of each level, from the finest to the coarsest; each halves the size.
    """

    @register_to_config
    def __init__(self, in_channels: int = 4, channels: tuple[int, ...] = (64, 128, 256, 512)):
        super().__init__()
        narrow_to_wide = list(zip((in_channels, *channels[:-1]), channels))
        self.down = nn.ModuleList(ConvBlock(narrow, wide) for narrow, wide in narrow_to_wide)
        wide_to_narrow = list(zip(channels[:0:-1], channels[-2::-1]))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, stride=2) for wide, narrow in wide_to_narrow)
        self.up = nn.ModuleList(ConvBlock(2 * narrow, narrow) for _, narrow in wide_to_narrow)
        self.out = nn.Conv2d(channels[0], in_channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The image without what does not belong to it.

        A side that is no multiple of 2 per level but the last, or shorter than two pixels on the last one, is filled
        up with black below and on the right.

        Args:
            image (`torch.Tensor` of shape `(B, C, H, W)`): in [0, 1], with or without noise added.

        Returns:
            `torch.Tensor` of shape `(B, C, H, W)`: not clamped.
        """
        check_channels(image, self.config["in_channels"], "autoencoder")
        height, width = image.shape[2:]
        multiple = 2 ** (len(self.down) - 1)
        below, right = (max(2 * multiple - side, -side % multiple) for side in (height, width))
        hidden, skips = F.pad(image, (0, right, 0, below)), []
        for block in self.down:
            hidden = block(F.avg_pool2d(hidden, 2) if skips else hidden)
            skips.append(hidden)
        skips.pop()
        for upsample, block in zip(self.upsample, self.up):
            hidden = block(torch.cat([upsample(hidden), skips.pop()], dim=1))
        return self.out(hidden)[..., :height, :width]


def coarse_noise(
    shape: tuple[int, int, int, int],
    std: float = 0.2,
    resolution: int = 16,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Noise in blobs: N(0, std²) on a coarse grid, bilinear up to the image size, rolled by a random distance.

    In the published code a batch is rolled as one; here every image by its own distance, all its channels alike.

    Args:
        shape (`tuple`): (B, C, H, W), of the images.
        std (`float`): standard deviation on the grid.
        resolution (`int`): points of the grid along each side; the outer ones lie on the border of the image.
        generator (`torch.Generator`, *optional*): source of the noise, on `device`.

    Returns:
        `torch.Tensor` of the shape given. Black background stays black only after a product with the foreground.
    """
    batch, channels, *size = shape
    options = {"generator": generator, "device": device}
    noise = std * torch.randn(batch, channels, resolution, resolution, dtype=dtype, **options)
    noise = F.interpolate(noise, size, mode="bilinear", align_corners=True)  # [B,C,H,W]
    for axis, side in zip((2, 3), size):
        shift = torch.randint(side, (batch, 1), **options)
        index = (torch.arange(side, device=device) + shift) % side  # [B,side]
        index = index[:, None, :, None] if axis == 2 else index[:, None, None, :]
        noise = noise.gather(axis, index.expand(shape))
    return noise


def _num_groups(channels: int) -> int:
    """The smallest divisor not below the square root: 8, 16, 16, 32 groups for 64, 128, 256, 512 channels."""
    return next(groups for groups in range(1, channels + 1) if channels % groups == 0 and groups**2 >= channels)
