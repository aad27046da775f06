"""HSM (Flores 2020, hallucinated saliency maps): the branch sees the image and learns its maps from the labels."""

import torch
from torch import nn

from .backbone import ConvStage, FeatureModifier, resize_maps, starts_at
from .configuration_competitors import HSMConfig
from .modeling_guided import GuidedClassifier, require_stages
from .modeling_smic import FIRST_GATE


class HallucinationModifier(FeatureModifier):
    """G = F ⊙ S after each stage to which a convolution of the branch corresponds."""

    def __init__(self, model: "HSMClassifier", images: torch.Tensor):
        self.model, self.branch_maps = model, images
        self.spatial_attention: list[torch.Tensor] = []

    def features(self, stage, maps):
        stages = list(self.model.config.product_stages)
        if stage not in stages:
            return maps
        number = stages.index(stage)
        self.branch_maps = resize_maps(self.model.branch[number](self.branch_maps), maps.shape[-2:])
        self.spatial_attention.append(self.model.gates[number](self.branch_maps).sigmoid())
        return maps * self.spatial_attention[-1]


class HSMClassifier(GuidedClassifier):
    """A branch of four convolutions on the image, trained end to end.

    After each of them a map in [0, 1] multiplies the features of the corresponding stage of the base network. How the
    branch's channels become one map, a 1x1 convolution and a sigmoid, is our reading.
    """

    config: HSMConfig

    def build(self, config):
        require_stages(self, config.product_stages)
        widths = [config.num_channels, *[config.saliency_channels] * len(config.product_stages)]
        self.branch = nn.ModuleList(ConvStage(narrow, wide, None) for narrow, wide in zip(widths, widths[1:]))
        self.gates = nn.ModuleList(starts_at(0.0, nn.Conv2d(wide, 1, 1)) for wide in widths[1:])

    def load_baseline(self, baseline):
        """Copy the weights of a trained base classifier, and start with its logits."""
        super().load_baseline(baseline)
        self.scale_back(self.config.product_stages, FIRST_GATE)

    def guide(self, images, saliency):
        return HallucinationModifier(self, images)
