"""Tiny real networks for the tests of pipelines."""

from types import SimpleNamespace

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from difffuse_hf import (
    LesionClassifier,
    LesionClassifierConfig,
    NoisyClassifier,
    SliceClassifier,
    SliceClassifierConfig,
    make_healthy_unet,
)


def tiny_unet(channels: int = 2, **overrides) -> UNet2DModel:
    """A U-Net divisible by 2, whose noise prediction is small but depends on everything."""
    torch.manual_seed(0)
    options = {"attention_levels": 1, "norm_num_groups": 4, "layers_per_block": 1, **overrides}
    unet = make_healthy_unet(channels, 16, (8, 16), **options).eval()
    for parameter in unet.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


def constant_unet(channels: int = 2, noise: float = 0.0) -> UNet2DModel:
    """A U-Net that predicts the same noise everywhere, whatever it is shown."""
    unet = tiny_unet(channels)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.constant_(unet.conv_out.bias, noise)
    return unet


class LinearNoisyClassifier(ModelMixin, ConfigMixin):
    """Logits that are linear in x_t; the timestep scales them."""

    @register_to_config
    def __init__(self, channels: int = 2, size: int = 16, num_labels: int = 2):
        super().__init__()
        self.head = torch.nn.Linear(channels * size * size, num_labels)

    def forward(self, sample, timestep):
        return SimpleNamespace(logits=self.head(sample.flatten(1)) * (1 + timestep[:, None] / 1000))


def tiny_classifier(kind: type, **options):
    """A classifier of one channel: the half-brain CNN, a narrow ResNet, or a guided one on the half-brain CNN."""
    torch.manual_seed(0)
    if kind is SliceClassifier:
        return SliceClassifier(
            SliceClassifierConfig(backbone="resnet10t", backbone_kwargs={"channels": [8, 8, 8, 8]}, **options)
        ).eval()
    config = LesionClassifierConfig(hidden_sizes=[4, 4, 6, 6, 8], num_pools=2)
    if kind is not LesionClassifier:
        config = kind.config_class(base=config, **options)
    return kind(config).eval()


def tiny_noisy_classifier(channels: int = 1) -> NoisyClassifier:
    """For two classes of slices at a noise level."""
    torch.manual_seed(0)
    return NoisyClassifier(channels, 2, 16, (8, 16), layers_per_block=1, attention_levels=1, norm_num_groups=4).eval()
