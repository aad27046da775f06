"""The U-Net that learns healthy anatomy (thesis Ch. 6): OpenAI's guided-diffusion network as a `UNet2DModel`."""

import inspect
from pathlib import Path

import torch
import torch.nn as nn
from diffusers import UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  diffusers looks for this name beside a component
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch.nn import functional as F

from ..io.hub import private_by_default


@private_by_default
class PatchUNet2DModel(UNet2DModel):
    """A `UNet2DModel` that sees squares of `patch_size` x `patch_size` pixels as the channels of one (space to depth).

    The network works on a grid that is so much coarser: slices of twice the side cost what slices of the side did.
    Takes and returns slices like any other; beyond the thesis.

    Args:
        patch_size (`int`): side of a square in pixels; divides the slices' sides.
        in_channels, out_channels, sample_size: of the slices.
        others: as in `UNet2DModel`.
    """

    @register_to_config
    def __init__(
        self,
        patch_size: int = 2,
        sample_size: int | tuple[int, int] | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        layers_per_block: int = 2,
        block_out_channels: tuple[int, ...] = (128, 128, 256, 256, 512, 512),
        down_block_types: tuple[str, ...] = ("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3,
        up_block_types: tuple[str, ...] = ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3,
        downsample_type: str = "resnet",
        upsample_type: str = "resnet",
        dropout: float = 0.0,
        attention_head_dim: int | None = None,
        norm_num_groups: int = 32,
        attn_norm_num_groups: int | None = None,
        resnet_time_scale_shift: str = "scale_shift",
        num_class_embeds: int | None = None,
    ):
        inner = {name: value for name, value in self.config.items() if name != "patch_size" and name[0] != "_"}
        sides = [sample_size] if isinstance(sample_size, int) else list(sample_size or [])
        if any(side % patch_size for side in sides):
            raise ValueError(f"`patch_size` {patch_size} does not divide slices of {sample_size} pixels.")
        inner |= {name: inner[name] * patch_size**2 for name in ("in_channels", "out_channels")}
        super().__init__(**inner)
        self.register_to_config(in_channels=in_channels, out_channels=out_channels)

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """As in diffusers, without the arguments of `UNet2DModel` that are not ours, which it would warn of."""
        ours = inspect.signature(cls.__init__).parameters
        known = {name: value for name, value in config_dict.items() if name in ours or name[0] == "_"}
        return super().extract_init_dict(known, **kwargs)

    def forward(self, sample: torch.Tensor, *args, return_dict: bool = True, **kwargs):  # pyright: ignore[reportIncompatibleMethodOverride]
        """As `UNet2DModel.forward`, of slices (B, C, H, W)."""
        patches = F.pixel_unshuffle(sample, self.config["patch_size"])
        predicted = super().forward(patches, *args, return_dict=False, **kwargs)[0]
        predicted = F.pixel_shuffle(predicted, self.config["patch_size"])
        return UNet2DOutput(sample=predicted) if return_dict else (predicted,)


def make_healthy_unet(
    in_channels: int = 4,
    sample_size: int = 256,
    block_out_channels: tuple[int, ...] = (128, 128, 256, 256, 512, 512),
    attention_levels: int = 3,
    norm_num_groups: int = 32,
    patch_size: int = 1,
    **overrides,
) -> UNet2DModel:
    """A fresh noise predictor for healthy slices; the defaults are the thesis's 138,288,772 parameters.

    Args:
        in_channels (`int`): modalities stacked on the channel axis; as many go out.
        sample_size (`int`): side of the training slices in pixels, divisible by 2 per level but the last.
        block_out_channels (`tuple[int, ...]`): width of each level, from the finest to the coarsest.
        attention_levels (`int`): how many of the coarsest levels have self-attention.
        norm_num_groups (`int`): groups of every group norm; divides every width.
        patch_size (`int`): above 1, squares of so many pixels a side become channels, see `PatchUNet2DModel`.
        overrides: further arguments of `UNet2DModel`.
    """
    plain_levels = len(block_out_channels) - attention_levels
    settings = {
        "sample_size": sample_size,
        "in_channels": in_channels,
        "out_channels": in_channels,  # no learned variance
        "layers_per_block": 2,
        "block_out_channels": tuple(block_out_channels),
        "down_block_types": ("ResnetDownsampleBlock2D",) * plain_levels + ("AttnDownBlock2D",) * attention_levels,
        "up_block_types": ("AttnUpBlock2D",) * attention_levels + ("ResnetUpsampleBlock2D",) * plain_levels,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": None,  # one head
        "norm_num_groups": norm_num_groups,
        "attn_norm_num_groups": norm_num_groups,
    }
    settings |= overrides
    unet = UNet2DModel(**settings) if patch_size == 1 else PatchUNet2DModel(patch_size, **settings)
    zero_last_convolutions(unet)
    return unet


def load_unet(folder: str | Path) -> UNet2DModel:
    """A U-Net of either kind, as `save_pretrained` left it."""
    patches = "patch_size" in UNet2DModel.load_config(folder)
    return (PatchUNet2DModel if patches else UNet2DModel).from_pretrained(folder)


def zero_last_convolutions(unet: UNet2DModel) -> None:
    """Start as OpenAI's network does: every residual branch, every attention and the output are zero."""
    last = [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.to_out[0] for module in unet.modules() if isinstance(module, Attention) and module.to_out]
    for layer in [*last, unet.conv_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
