"""SpAtt: ACAT's masks, computed from the image's own feature maps; one branch, no saliency (thesis Sec. 5.6.3)."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModelForImageClassification

from .configuration_acat import ACATConfig
from .modeling_acat import ACATClassifier


@strict
class SpAttConfig(ACATConfig):
    """[`ACATConfig`] with `attention="image"`."""

    model_type = "difffuse_spatt"
    attention: str = "image"


class SpAttClassifier(ACATClassifier):
    """Spatial attention at three scales from the image alone: what ACAT is without its saliency maps."""

    config: SpAttConfig


AutoConfig.register(SpAttConfig.model_type, SpAttConfig)
AutoModelForImageClassification.register(SpAttConfig, SpAttClassifier)
