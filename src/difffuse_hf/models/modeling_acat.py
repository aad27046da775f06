"""ACAT: saliency of adversarial counterfactuals as spatial attention at three scales (thesis Secs. 5.5.2, 5.6.2)."""

import torch
from torch import nn

from .attention import AttentionFusion, SliceAttention, SpatialAttention, modulate
from .backbone import FeatureModifier
from .configuration_acat import ACATConfig
from .modeling_guided import GuidedClassifier, require_stages

FIRST_MASK = 0.5  # what the sigmoid of Eq. 5.1 gives before its convolution has learnt anything


class ACATModifier(FeatureModifier):
    """The attention of one batch; keeps the masks it has made."""

    def __init__(self, model: "ACATClassifier", saliency: torch.Tensor | None):
        self.model, self.branch_maps = model, saliency
        self.spatial_attention: list[torch.Tensor] = []
        self.fused_attention = self.slice_attention = None

    def features(self, stage, maps):
        model, config = self.model, self.model.config
        attended = list(config.attention_stages or ())
        if config.attention == "saliency" and stage <= max(attended):
            self.branch_maps = model.branch.step(stage, self.branch_maps)  # S^i, of the size that `maps` has
        if stage in attended and config.attention == "dropout":
            maps = model.dropout(maps)
        elif stage in attended:
            source = self.branch_maps if config.attention == "saliency" else maps
            mask = model.spatial_attention[attended.index(stage)](source)  # Eq. 5.1
            self.spatial_attention.append(mask)
            maps = modulate(maps, mask, config.residual)  # Eq. 5.2
        if stage == model.num_stages and config.fusion and self.spatial_attention:
            self.fused_attention = model.fusion(self.spatial_attention, maps.shape[-2:])
            maps = modulate(maps, self.fused_attention)  # always with the residual: S_f is no mask, it may be negative
        if stage == model.num_stages and config.slice_attention and config.num_slices:
            self.slice_attention = model.slice_attention(maps, model.base.num_views)
            maps = maps * self.slice_attention[:, None, None, None]
        return maps

    def slice_weights(self, maps):
        if not self.model.config.slice_attention or self.model.config.num_slices:
            return None
        self.slice_attention = self.model.slice_attention(maps)
        return self.slice_attention


class ACATClassifier(GuidedClassifier):
    """A base classifier whose maps are modulated by attention computed from saliency maps.

    The saliency maps go through a branch of the base network's architecture. S_s^i = σ(conv(max_c S^i)) after an
    early, a middle and a late stage (Eq. 5.1), G = F + F ⊙ S_s^i (Eq. 5.2); the three masks are fused and modulate the
    last maps; the slices of a scan are averaged with learned weights. On the half-brain CNN 325,064 parameters, of
    which the branch has 157,520; those of its stages after the last mask, 74,000, are there as in the author's code
    and reach no output.

    It starts with the logits of its baseline: the masks are the same everywhere at first, and what reads the maps that
    they multiply is scaled back (`load_baseline`).
    """

    config: ACATConfig

    @property
    def needs_saliency(self) -> bool:
        return self.config.attention == "saliency"

    def build(self, config):
        stages = config.attention_stages
        require_stages(self, stages)
        if config.attention == "saliency":
            self.branch = self.base.make_trunk(num_channels=1)
        if config.attention == "dropout":
            self.dropout = nn.Dropout(config.dropout)
        else:
            self.spatial_attention = nn.ModuleList(SpatialAttention(config.attention_batch_norm) for _ in stages)
            if config.fusion:
                self.fusion = AttentionFusion(len(stages))
        if config.slice_attention:
            self.slice_attention = SliceAttention(
                self.stage_widths[-1], config.slice_attention_hidden, config.slice_attention_dropout, config.num_slices
            )

    def load_baseline(self, baseline):
        """Copy the weights of a trained base classifier.

        The text's residual cannot be the identity, for a sigmoid is never 0: at first every mask is one half, and G is
        F times 1.5. The weights of the layers that read G are therefore divided by 1.5.
        """
        super().load_baseline(baseline)
        if self.config.attention != "dropout":
            scale = 1 + FIRST_MASK if self.config.residual else FIRST_MASK
            self.scale_back(self.config.attention_stages or (), scale)

    def guide(self, images, saliency):
        return ACATModifier(self, saliency)
