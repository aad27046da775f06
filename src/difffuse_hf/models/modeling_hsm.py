"""HSM (Flores 2020, hallucinated saliency maps): the branch sees the image and learns its map from the labels."""

from .configuration_competitors import HSMConfig
from .modeling_guided import GuidedClassifier, require_stages
from .modeling_smic import ProductModifier, conv_branch


class HSMClassifier(GuidedClassifier):
    """Features of an early stage times a map that four convolutions make from the image, trained end to end."""

    config: HSMConfig

    def build(self, config):
        require_stages(self, [config.product_stage])
        self.branch = conv_branch(config.num_channels, config.saliency_channels, depth=4)

    def guide(self, images, saliency):
        return ProductModifier(self.config.product_stage, self.branch(images))
