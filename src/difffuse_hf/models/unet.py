"""The U-Net that learns healthy anatomy (thesis Ch. 6): OpenAI's guided-diffusion network as a `UNet2DModel`."""

import torch.nn as nn
from diffusers import UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D


def make_healthy_unet(
    in_channels: int = 4,
    sample_size: int = 256,
    block_out_channels: tuple[int, ...] = (128, 128, 256, 256, 512, 512),
    attention_levels: int = 3,
    norm_num_groups: int = 32,
    **overrides,
) -> UNet2DModel:
    """A fresh noise predictor for healthy slices; the defaults are the thesis's 138,288,772 parameters.

    Args:
        in_channels (`int`): modalities stacked on the channel axis; as many go out.
        sample_size (`int`): side of the training slices in pixels, divisible by 2 per level but the last.
        block_out_channels (`tuple[int, ...]`): width of each level, from the finest to the coarsest.
        attention_levels (`int`): how many of the coarsest levels have self-attention.
        norm_num_groups (`int`): groups of every group norm; divides every width.
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
    unet = UNet2DModel(**{**settings, **overrides})
    zero_last_convolutions(unet)
    return unet


def zero_last_convolutions(unet: UNet2DModel) -> None:
    """Start as OpenAI's network does: every residual branch, every attention and the output are zero."""
    last = [module.conv2 for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    last += [module.to_out[0] for module in unet.modules() if isinstance(module, Attention) and module.to_out]
    for layer in [*last, unet.conv_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
