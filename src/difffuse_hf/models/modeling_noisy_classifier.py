"""Classifier of noisy slices, whose gradient guides a diffusion model to healthy ones (Dhariwal 2021, Wolleb 2022).

The encoder half of the denoiser's U-Net, timestep embedding included, and attention pooling as in CLIP.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from timm.layers import AttentionPool2d  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from ..io.hub import private_by_default
from .backbone import check_channels
from .loading import CheckedNetwork
from .unet import make_healthy_unet


@private_by_default
class NoisyClassifier(CheckedNetwork, ModelMixin, ConfigMixin):
    """log p(y | x_t); the defaults are Wolleb's: width 32, depth 4, attention at 32, 16 and 8 of 256 pixels.

    Args:
        in_channels (`int`): channels of a slice.
        num_labels (`int`): classes; 0 is healthy.
        sample_size (`int`): side of the training slices; other sizes get the pooling's positions interpolated.
        block_out_channels (`tuple[int, ...]`): width of each level, from the finest to the coarsest.
        layers_per_block (`int`): ResNet blocks on a level, the depth.
        attention_levels (`int`): how many of the coarsest levels have self-attention.
        attention_head_dim (`int`): width of a head, or the width of the narrowest attention if that is less.
        norm_num_groups (`int`): groups of every group norm; divides every width.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        num_labels: int = 2,
        sample_size: int = 256,
        block_out_channels: tuple[int, ...] = (32, 32, 64, 64, 128, 128),
        layers_per_block: int = 4,
        attention_levels: int = 3,
        attention_head_dim: int = 64,
        norm_num_groups: int = 32,
    ):
        super().__init__()
        if num_labels < 2:
            raise ValueError(f"`num_labels` must be at least 2, healthy and lesion, got {num_labels}.")
        head_dim = min(attention_head_dim, *block_out_channels[-max(1, attention_levels) :])
        unet = make_healthy_unet(
            in_channels,
            sample_size,
            tuple(block_out_channels),
            attention_levels,
            norm_num_groups,
            layers_per_block=layers_per_block,
            attention_head_dim=head_dim,
        )
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.conv_in, self.down_blocks = unet.conv_in, unet.down_blocks
        self.mid_block: Any = unet.mid_block  # a U-Net may have none, this one has
        width, coarsest = block_out_channels[-1], -(-sample_size // 2 ** (len(block_out_channels) - 1))
        self.norm = nn.GroupNorm(norm_num_groups, width)
        self.pool = AttentionPool2d(width, feat_size=coarsest, out_features=num_labels, head_dim=head_dim)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | int,
        labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> ImageClassifierOutput | tuple[torch.Tensor, ...]:
        """Class logits of noisy slices; differentiable in `sample`.

        A side that cannot be halved at every level is filled up below and on the right with its last pixels.

        Args:
            sample (`torch.Tensor` of shape `(B, C, H, W)`): x_t, of slices in [-1, 1].
            timestep (`int` or `torch.Tensor` of shape `()` or `(B,)`): t − 1, counted from 0.
            labels (`torch.Tensor` of shape `(B,)`, *optional*): class indices; with them the output has a `loss`.
            return_dict (`bool`): `False` for a tuple, of the loss if there are labels, and the logits.

        Returns:
            `ImageClassifierOutput` with `logits` of shape `(B, num_labels)`.
        """
        check_channels(sample, self.config["in_channels"], "classifier", name="sample")
        multiple = 2 ** (len(self.down_blocks) - 1)
        height, width = sample.shape[2:]
        if height % multiple or width % multiple:
            sample = F.pad(sample, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_embedding(self.time_proj(timestep).to(sample.dtype))
        hidden = self.conv_in(sample)
        for block in self.down_blocks:
            hidden, _ = block(hidden, embedding)
        hidden = self.mid_block(hidden, embedding)
        logits = self.pool(F.silu(self.norm(hidden)))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        output = ImageClassifierOutput(loss=loss, logits=logits)
        return output if return_dict else output.to_tuple()
