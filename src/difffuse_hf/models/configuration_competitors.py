"""Configurations of ACAT's competitors; what each one is stands in its modeling module."""

from huggingface_hub.dataclasses import strict

from .configuration_acat import ACATConfig
from .configuration_guided import GuidedConfig, refuse_old


@strict
class SMICConfig(GuidedConfig):
    """Args:
    product_stage (`int`): after which stage the product is taken; the first.
    saliency_channels (`int`): width of the branch. Our choice.
    """

    model_type = "difffuse_smic"
    product_stage: int = 1
    saliency_channels: int = 16


@strict
class SalClassNetConfig(GuidedConfig):
    """[`GuidedConfig`]; `base.num_channels` counts the image's channels, the network has one more."""

    model_type = "difffuse_salclassnet"


@strict
class HSMConfig(GuidedConfig):
    """Args:
    product_stages (`list[int]`): the stages to which the convolutions of the branch correspond; there are four.
    saliency_channels (`int`): width of the branch. Our choice.
    """

    model_type = "difffuse_hsm"
    product_stages: list[int] | tuple[int, ...] = (1, 2, 3, 4)
    saliency_channels: int = 16

    def __post_init__(self, **kwargs):
        refuse_old("product_stage", kwargs)
        super().__post_init__(**kwargs)
        self.product_stages = list(self.product_stages)


@strict
class SpAttConfig(ACATConfig):
    """[`ACATConfig`] with `attention="image"` and without the fusion."""

    model_type = "difffuse_spatt"
    attention: str = "image"
    fusion: bool = False


@strict
class SeAttConfig(GuidedConfig):
    """Args:
    attention_stages (`list[int]`, *optional*): after convolutions 3 and 5 of the half-brain CNN, or blocks 3 and 4
        of a ResNet.
    """

    model_type = "difffuse_seatt"
    attention_stages: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.attention_stages = self.stages_or(self.attention_stages, (3, 5), (3, 4))
