"""The autoencoder whose latent space the counterfactual is searched in (Eqs. 5.3 and 5.4).

Three ResNet blocks with 3x3 filters on each side and no bottleneck layer (thesis recipe): the latent is a map that
keeps the layout of the slice, so a step in latent space changes the picture locally.
"""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

from ..io.hub import private_by_default
from .backbone import check_channels
from .loading import CheckedNetwork

GROUP_SIZE = 8  # channels normalised together; GroupNorm, so that an image's output does not depend on its batch


class ResNetBlock(nn.Module):
    """Two 3x3 convolutions, normalised and activated before each, plus a shortcut; the first one strides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.norm1 = nn.GroupNorm(max(1, in_channels // GROUP_SIZE), in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm2 = nn.GroupNorm(max(1, out_channels // GROUP_SIZE), out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = self.conv1(F.silu(self.norm1(hidden)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        return self.shortcut(hidden) + residual


@private_by_default
class ResNetAutoencoder(CheckedNetwork, ModelMixin, ConfigMixin):
    """Encoder and decoder of three ResNet blocks each; the decoder mirrors the encoder.

    The decoder ends in a sigmoid: it is differentiable everywhere, so the counterfactual search never meets a pixel
    without a gradient; the price is that the black background is approached and not met exactly.

    Args:
        in_channels (`int`): channels of a slice.
        channels (`tuple[int, int, int]`): widths after each encoder block.
        strides (`tuple[int, int, int]`): downsampling of each encoder block.
        latent_channels (`int`, *optional*): width of the latent map; the last of `channels` by default.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        channels: tuple[int, ...] = (64, 128, 256),
        strides: tuple[int, ...] = (2, 2, 2),
        latent_channels: int | None = None,
    ):
        super().__init__()
        if len(channels) != len(strides):
            raise ValueError(f"`channels` and `strides` have one entry per block, got {channels} and {strides}.")
        self.reduction = 1
        for stride in strides:
            self.reduction *= stride
        widths = (channels[0], *channels)
        steps = list(zip(widths[:-1], widths[1:], strides))
        latent_channels = latent_channels or channels[-1]

        self.encoder_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResNetBlock(narrow, wide, stride) for narrow, wide, stride in steps)
        self.encoder_out = nn.Conv2d(channels[-1], latent_channels, 3, padding=1)

        self.decoder_in = nn.Conv2d(latent_channels, channels[-1], 3, padding=1)
        self.decoder = nn.ModuleList(ResNetBlock(wide, narrow) for narrow, wide, _ in reversed(steps))
        self.decoder_norm = nn.GroupNorm(max(1, channels[0] // GROUP_SIZE), channels[0])
        self.decoder_out = nn.Conv2d(channels[0], in_channels, 3, padding=1)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Latent map (B, latent_channels, ⌈H / reduction⌉, ⌈W / reduction⌉) of an image (B, C, H, W) in [0, 1].

        A height or width that is no multiple of the reduction is filled up with black below and on the right.
        """
        check_channels(image, self.config["in_channels"], "autoencoder")
        height, width = image.shape[2:]
        hidden = self.encoder_in(F.pad(image, (0, -width % self.reduction, 0, -height % self.reduction)))
        for block in self.encoder:
            hidden = block(hidden)
        return self.encoder_out(hidden)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Image (B, C, H, W) in (0, 1) of a latent map, with what `encode` has filled up."""
        hidden = self.decoder_in(latent)
        for block, stride in zip(self.decoder, reversed(self.config["strides"])):
            hidden = F.interpolate(hidden, scale_factor=float(stride), mode="nearest") if stride > 1 else hidden
            hidden = block(hidden)
        return self.decoder_out(F.silu(self.decoder_norm(hidden))).sigmoid()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruction decode(encode(image)) of shape (B, C, H, W)."""
        height, width = image.shape[2:]
        return self.decode(self.encode(image))[..., :height, :width]
