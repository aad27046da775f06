"""SpAtt: ACAT's masks, computed from the image's own feature maps; one branch, no saliency (thesis Sec. 5.6.3)."""

from huggingface_hub.dataclasses import strict

from .configuration_acat import ACATConfig
from .modeling_acat import ACATClassifier


@strict
class SpAttConfig(ACATConfig):
    """[`ACATConfig`] with `attention="image"`."""

    model_type = "difffuse_spatt"
    attention: str = "image"


class SpAttClassifier(ACATClassifier):
    """Spatial attention at three scales from the image alone: what ACAT is without its saliency maps."""

    config_class = SpAttConfig
