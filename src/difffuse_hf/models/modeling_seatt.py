"""SeAtt: self-attention of SAGAN in the base network; no saliency (thesis Sec. 5.6.3)."""

from torch import nn
from transformers import initialization as init

from .attention import SelfAttention
from .backbone import FeatureModifier
from .configuration_competitors import SeAttConfig
from .modeling_guided import GuidedClassifier, require_stages


class SelfAttentionModifier(FeatureModifier):
    def __init__(self, layers: dict[int, nn.Module]):
        self.layers = layers

    def features(self, stage, maps):
        return self.layers[stage](maps) if stage in self.layers else maps


class SeAttClassifier(GuidedClassifier):
    """Self-attention after two stages, with a gain that starts at 0: at first it is the baseline."""

    config: SeAttConfig

    def build(self, config):
        require_stages(self, config.attention_stages)
        self.self_attention = nn.ModuleList(
            SelfAttention(self.stage_widths[stage - 1]) for stage in config.attention_stages
        )

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, SelfAttention):
            init.zeros_(module.gain)

    def guide(self, images, saliency):
        return SelfAttentionModifier(dict(zip(self.config.attention_stages or (), self.self_attention)))
