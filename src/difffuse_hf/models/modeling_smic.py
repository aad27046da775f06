"""SMIC (Flores 2019): a saliency branch of two convolutions whose map multiplies the features of an early block."""

import torch
from torch import nn

from .backbone import LEAKY_SLOPE, FeatureModifier, resize_maps, starts_at
from .configuration_competitors import SMICConfig
from .modeling_guided import GuidedClassifier, require_stages

FIRST_GATE = 0.5  # what a sigmoid gives before the convolution under it has learnt anything


class ProductModifier(FeatureModifier):
    """G = F ⊙ S after one stage, with a map S (N, 1, h, w) in [0, 1] averaged down to the size of F."""

    def __init__(self, stage: int, gate: torch.Tensor):
        self.stage, self.gate = stage, gate
        self.spatial_attention: list[torch.Tensor] = []

    def features(self, stage, maps):
        if stage != self.stage:
            return maps
        self.spatial_attention.append(resize_maps(self.gate, maps.shape[-2:]))
        return maps * self.spatial_attention[-1]


def conv_branch(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` 3x3 convolutions to one map in [0, 1], `FIRST_GATE` everywhere at first."""
    widths = [in_channels, *[channels] * (depth - 1)]
    layers: list[nn.Module] = []
    for narrow, wide in zip(widths, widths[1:]):
        layers += [nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(LEAKY_SLOPE)]
    return nn.Sequential(*layers, starts_at(0.0, nn.Conv2d(widths[-1], 1, 3, padding=1)), nn.Sigmoid())


class SMICClassifier(GuidedClassifier):
    """Features of an early stage times a map that two convolutions make from the saliency."""

    config: SMICConfig
    needs_saliency = True

    def build(self, config):
        require_stages(self, [config.product_stage])
        self.branch = conv_branch(1, config.saliency_channels, depth=2)

    def load_baseline(self, baseline):
        """Copy the weights of a trained base classifier, and start with its logits."""
        super().load_baseline(baseline)
        self.scale_back([self.config.product_stage], FIRST_GATE)

    def guide(self, images, saliency):
        return ProductModifier(self.config.product_stage, self.branch(saliency))
