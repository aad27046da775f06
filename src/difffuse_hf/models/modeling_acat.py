"""ACAT: saliency of adversarial counterfactuals as spatial attention at three scales (thesis Secs. 5.5.2, 5.6.2)."""

import torch
from torch import nn
from torch.nn import functional as F

from .attention import AttentionFusion, SliceAttention, SpatialAttention, modulate
from .backbone import LEAKY_SLOPE, FeatureModifier
from .configuration_acat import ACATConfig
from .modeling_guided import GuidedClassifier, require_stages


class SaliencyBranch(nn.Module):
    """One 3x3 convolution, batch norm and leaky ReLU for each attended stage, on the saliency map, ever coarser.

    The map is brought to the size of the stage by max-pooling: a small salient spot survives it. Widths and depth are
    our choice.
    """

    def __init__(self, num_blocks: int, channels: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(1 if i == 0 else channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(LEAKY_SLOPE),
            )
            for i in range(num_blocks)
        )

    def forward(self, block: int, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Maps (N, channels, *size) that follow the saliency map, or the block before, `maps`."""
        return self.blocks[block](F.adaptive_max_pool2d(maps, size))


class ACATModifier(FeatureModifier):
    """The attention of one batch; keeps the masks it has made."""

    def __init__(self, model: "ACATClassifier", saliency: torch.Tensor | None):
        self.model, self.branch_maps = model, saliency
        self.spatial_attention: list[torch.Tensor] = []
        self.fused_attention = self.slice_attention = None

    def features(self, stage, maps):
        model, config = self.model, self.model.config
        attended = list(config.attention_stages or ())
        if stage in attended:
            block = attended.index(stage)
            if config.attention == "dropout":
                maps = model.dropout(maps)
            else:
                if config.attention == "saliency":
                    self.branch_maps = model.branch(block, self.branch_maps, maps.shape[-2:])
                source = self.branch_maps if config.attention == "saliency" else maps
                mask = model.spatial_attention[block](source)  # Eq. 5.1
                self.spatial_attention.append(mask)
                maps = modulate(maps, mask, config.residual)  # Eq. 5.2
        if stage == model.num_stages and config.fusion and self.spatial_attention:
            self.fused_attention = model.fusion(self.spatial_attention, maps.shape[-2:])
            maps = modulate(maps, self.fused_attention, config.residual)
        return maps

    def slice_weights(self, maps):
        if self.model.config.slice_attention:
            self.slice_attention = self.model.slice_attention(maps)
        return self.slice_attention


class ACATClassifier(GuidedClassifier):
    """A base classifier whose maps are modulated by attention computed from saliency maps.

    S_s^i = σ(conv(max_c S^i)) after an early, a middle and a late stage (Eq. 5.1), G = F + F ⊙ S_s^i (Eq. 5.2); the
    three masks are fused and modulate the last maps; the slices of a scan are averaged with learned weights.
    """

    config: ACATConfig

    @property
    def needs_saliency(self) -> bool:
        return self.config.attention == "saliency"

    def build(self, config):
        stages = config.attention_stages
        require_stages(self, stages)
        if config.attention == "saliency":
            self.branch = SaliencyBranch(len(stages), config.saliency_channels)
        if config.attention == "dropout":
            self.dropout = nn.Dropout(config.dropout)
        else:
            self.spatial_attention = nn.ModuleList(SpatialAttention(config.attention_batch_norm) for _ in stages)
            if config.fusion:
                self.fusion = AttentionFusion(len(stages))
        if config.slice_attention:
            self.slice_attention = SliceAttention(
                self.stage_widths[-1], config.slice_attention_hidden, config.slice_attention_dropout
            )

    def guide(self, images, saliency):
        return ACATModifier(self, saliency)
