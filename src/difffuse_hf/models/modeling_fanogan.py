"""f-AnoGAN (Schlegl 2019): a WGAN-GP that has learned healthy slices, and an encoder back to its latent space.

A slice is encoded and generated again; what the generator of healthy slices cannot make is anomalous. Residual
networks for slices of 64 x 64 as in the published code, whose single channel is `in_channels` here.
"""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn import functional as F

from ..io.hub import private_by_default
from .backbone import check_channels
from .loading import CheckedNetwork

WIDTHS = (1, 2, 4, 8, 8)  # of the levels from the finest to 1/16 of the size, in units of `width`


class ResidualBlock(nn.Module):
    """Twice norm, ReLU and 3x3 convolution, plus a 1x1 shortcut; "up" doubles the size first, "down" halves it last.

    The generator and the encoder have batch norm, the critic layer norm (its penalty is of single images).
    """

    def __init__(self, in_channels: int, out_channels: int, resample: str, batch_norm: bool):
        super().__init__()
        self.resample = resample
        middle = in_channels if resample == "down" else out_channels
        self.norm1, self.norm2 = (_norm(channels, batch_norm) for channels in (in_channels, middle))
        self.conv1 = nn.Conv2d(in_channels, middle, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(middle, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = F.relu(self.norm1(hidden))
        if self.resample == "up":
            hidden, residual = (F.interpolate(maps, scale_factor=2.0, mode="nearest") for maps in (hidden, residual))
        residual = self.conv2(F.relu(self.norm2(self.conv1(residual))))
        if self.resample == "down":
            hidden, residual = F.avg_pool2d(hidden, 2), F.avg_pool2d(residual, 2)
        return self.shortcut(hidden) + residual


class Generator(nn.Module):
    """G: latents (B, latent_size) to slices (B, C, size, size) in [-1, 1]."""

    def __init__(self, out_channels: int, width: int, latent_size: int, size: int):
        super().__init__()
        widths = [width * factor for factor in reversed(WIDTHS)]
        self.start = (widths[0], size // 16, size // 16)
        self.project = nn.Linear(latent_size, widths[0] * (size // 16) ** 2)
        self.blocks = nn.Sequential(*[ResidualBlock(a, b, "up", True) for a, b in zip(widths, widths[1:])])
        self.norm = _norm(widths[-1], batch_norm=True)
        self.out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.project(latent).unflatten(1, self.start))
        return self.out(F.relu(self.norm(hidden))).tanh()


class Features(nn.Module):
    """Slices (B, C, size, size) in [-1, 1] to `num_outputs` numbers; the critic D and the encoder E."""

    def __init__(self, in_channels: int, width: int, size: int, num_outputs: int, batch_norm: bool):
        super().__init__()
        widths = [width * factor for factor in WIDTHS]
        self.start = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        blocks = [ResidualBlock(a, b, "down", batch_norm) for a, b in zip(widths, widths[1:])]
        self.blocks = nn.Sequential(*blocks)
        self.out = nn.Linear(widths[-1] * (size // 16) ** 2, num_outputs)

    def features(self, sample: torch.Tensor) -> torch.Tensor:
        """f: what the last layer sees, (B, N)."""
        return self.blocks(self.start(sample)).flatten(1)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return self.out(self.features(sample))


@private_by_default
class FAnoGAN(CheckedNetwork, ModelMixin, ConfigMixin):
    """Generator, critic and encoder of f-AnoGAN; called with slices, it gives their reconstructions G(E(x)).

    Slices of another size than `sample_size` are resized on the way in (bilinear, antialiased, both sides to the same
    length) and back on the way out, so that a reconstruction never holds more detail than `sample_size` has.

    Args:
        in_channels (`int`): channels of a slice.
        sample_size (`int`): side of the slices the networks see, a multiple of 16.
        width (`int`): DIM of the published code, the width of the finest level; the coarsest has 8 times as much.
        latent_size (`int`): length of z.
    """

    @register_to_config
    def __init__(self, in_channels: int = 4, sample_size: int = 64, width: int = 64, latent_size: int = 128):
        super().__init__()
        if sample_size < 16 or sample_size % 16:
            raise ValueError(f"`sample_size` is a multiple of 16, for it is halved four times, got {sample_size}.")
        self.generator = Generator(in_channels, width, latent_size, sample_size)
        self.critic = Features(in_channels, width, sample_size, 1, batch_norm=False)
        self.encoder = Features(in_channels, width, sample_size, latent_size, batch_norm=True)
        for name, module in self.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):  # the initialisation of the published code
                before_relu = name.rsplit(".", 1)[-1] in ("conv1", "conv2") or name == "generator.out"
                nn.init.xavier_uniform_(module.weight, gain=2**0.5 if before_relu else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def train(self, mode: bool = True) -> "FAnoGAN":
        """Training mode, but not of a network without trainable parameters: its running statistics stay, too."""
        super().train(mode)
        for network in (self.generator, self.critic, self.encoder):
            network.train(mode and any(parameter.requires_grad for parameter in network.parameters()))
        return self

    def to_sample(self, image: torch.Tensor) -> torch.Tensor:
        """Slices (B, C, H, W) in [0, 1] as the networks see them: (B, C, size, size) in [-1, 1]."""
        check_channels(image, self.config["in_channels"], "f-AnoGAN")
        return 2 * resize(image, (self.config["sample_size"],) * 2) - 1

    def reconstruct(self, sample: torch.Tensor) -> torch.Tensor:
        """G(E(x)) of slices (B, C, size, size) in [-1, 1]."""
        return self.generator(self.encoder(sample))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruction (B, C, H, W) in [0, 1] of slices (B, C, H, W) in [0, 1]."""
        return resize(self.reconstruct(self.to_sample(image)) / 2 + 0.5, image.shape[-2:])


def resize(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Images (B, C, H, W) at another size, bilinear and antialiased; of the size they have, they are as they were."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image.float(), list(size), mode="bilinear", antialias=True).to(image.dtype)


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.GroupNorm(1, channels)  # of one group: layer norm
