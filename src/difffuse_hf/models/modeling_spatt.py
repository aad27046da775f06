"""SpAtt: ACAT's masks, computed from the image's own feature maps; one branch, no fusion (thesis Sec. 5.6.3)."""

from .configuration_competitors import SpAttConfig
from .modeling_acat import ACATClassifier


class SpAttClassifier(ACATClassifier):
    """Spatial attention at three scales from the image alone: what ACAT is without its saliency maps."""

    config_class = SpAttConfig
