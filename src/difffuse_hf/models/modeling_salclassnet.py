"""SalClassNet (Murabito 2018): the saliency map is one more channel of the input."""

import copy
from typing import Any

import torch

from .backbone import FeatureModifier
from .configuration_competitors import SalClassNetConfig
from .modeling_guided import GuidedClassifier


class SalClassNetClassifier(GuidedClassifier):
    """A base classifier on image and saliency map, concatenated."""

    config: SalClassNetConfig
    needs_saliency = True

    @staticmethod
    def base_config(config):
        base = copy.deepcopy(config.base)
        base.num_channels += 1
        return base

    def build(self, config):
        pass

    def guide(self, images, saliency):
        return FeatureModifier()

    def inputs(self, scan, saliency: Any):
        return torch.cat([scan, saliency], dim=2)

    def load_baseline(self, baseline):
        """Copy the weights of a trained base classifier; the new channel counts for nothing at the start."""
        weights = baseline.state_dict()
        for name, own in self.base.state_dict().items():
            if weights[name].shape != own.shape:  # the first layer
                weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name][:, :1])], dim=1)
        self.base.load_state_dict(weights)
