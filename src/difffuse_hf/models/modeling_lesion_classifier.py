"""The half-brain multi-task CNN (thesis Sec. 4.4, Table 4.1): is there a lesion, and on which side?

One network looks at the left half of every slice and at the mirrored right half. A half's maps are averaged over the
slices and pooled; both halves together tell whether there is a lesion and where, which makes four classes.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel  # noqa: F401  diffusers looks for this name in the module of a component
from transformers.utils.generic import ModelOutput

from .attention import weighted_mean
from .backbone import LEAKY_SLOPE, HalfBrainCNN, as_scan, check_labels, resize_maps
from .configuration_lesion_classifier import SIDES, LesionClassifierConfig
from .modeling_classifier import ScanClassifier


@dataclass
class LesionClassifierOutput(ModelOutput):
    """`logits` (B, 4): log-probabilities of none, left, right, both. In the stage "fused" `presence_logits` (B, 2) and
    `side_logits` (B, 3); in the stage "halves" `half_logits` (B, 2, 2): of the left and right half, healthy or not."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    presence_logits: torch.Tensor | None = None
    side_logits: torch.Tensor | None = None
    half_logits: torch.Tensor | None = None


class LesionClassifier(ScanClassifier):
    """Half-brain CNN with the heads presence (2) and side (3): 163,285 parameters by default (Table 4.1).

    Images are seen in radiological convention, the patient's right on the left; the midline is the central column.
    """

    config: LesionClassifierConfig
    base_model_prefix = "backbone"

    def __init__(self, config: LesionClassifierConfig):
        super().__init__(config)
        self.backbone = self.make_trunk(config.num_channels)
        self.dropout = nn.Dropout(config.dropout)
        features = config.hidden_sizes[-1] * config.pooled_size**2
        if config.stage == "halves":
            self.half_head = _head(features, 2, config.hidden_head)
        else:
            self.presence_head = _head(self.num_views * features, 2, config.hidden_head)
            self.side_head = _head(self.num_views * features, 3, config.hidden_head)
        self.post_init()

    def make_trunk(self, num_channels: int) -> HalfBrainCNN:
        config = self.config
        return HalfBrainCNN(num_channels, config.hidden_sizes, config.num_pools or 0, config.pooling)

    @property
    def num_views(self) -> int:
        return 1 if self.config.whole_brain else 2

    @property
    def num_stages(self) -> int:
        return len(self.config.hidden_sizes)

    @property
    def stage_widths(self) -> list[int]:
        return list(self.config.hidden_sizes)

    def to_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Half slices (B * S * 2, C, H, ceil(W / 2)), columns from the midline outwards; the patient's left first.

        Where the width is odd, the central column belongs to both halves. Of a whole brain all slices (B * S, ...).
        """
        scan = as_scan(pixel_values)
        if self.config.whole_brain:
            return scan.flatten(0, 1)
        half = (scan.shape[-1] + 1) // 2
        halves = torch.stack([scan[..., -half:], scan[..., :half].flip(-1)], dim=2)  # [B,S,2,C,H,W/2]
        return halves.flatten(0, 2)

    def to_scan(self, maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Maps (B * S * 2, K, h, w) on the half slices, put together."""
        height, width = like.shape[-2:]
        if self.config.whole_brain:
            whole = resize_maps(maps, (height, width))
            return whole.unflatten(0, like.shape[:2]) if like.ndim == 5 else whole
        half = (width + 1) // 2
        left, right = resize_maps(maps, (height, half)).unflatten(0, (-1, 2)).unbind(1)  # [BS,K,H,W/2] each
        if width % 2:
            middle = (left[..., :1] + right[..., :1]) / 2
            whole = torch.cat([right[..., 1:].flip(-1), middle, left[..., 1:]], dim=-1)
        else:
            whole = torch.cat([right.flip(-1), left], dim=-1)
        return whole.unflatten(0, like.shape[:2]) if like.ndim == 5 else whole

    def classify(self, pixel_values, saliency, feature_modifier) -> LesionClassifierOutput:
        """The side of the lesion; the saliency is not used."""
        scan = as_scan(pixel_values)
        maps = self.backbone(self.to_images(scan), feature_modifier)  # [B*S*2,D,h,w]
        weights = feature_modifier.slice_weights(maps)
        layout = (len(scan), scan.shape[1], self.num_views)
        weights = None if weights is None else weights.unflatten(0, layout)
        maps = weighted_mean(maps.unflatten(0, layout), weights)  # [B,2,D,h,w]
        pooled = F.adaptive_avg_pool2d(maps.flatten(0, 1), self.config.pooled_size).flatten(1)  # [B*2,D*9]
        pooled = self.dropout(pooled.unflatten(0, (-1, self.num_views)))  # [B,2,D*9]
        if self.config.stage == "halves":
            halves = self.half_head(pooled)
            output = LesionClassifierOutput(logits=_sides_from_halves(halves), half_logits=halves)
        else:
            both = pooled.flatten(1)
            presence, side = self.presence_head(both), self.side_head(both)
            logits = four_classes(presence, side)
            output = LesionClassifierOutput(logits=logits, presence_logits=presence, side_logits=side)
        return output

    def readers(self, stage):
        if stage < self.num_stages:
            return [self.backbone.stages[stage].conv]
        heads = [self.half_head] if self.config.stage == "halves" else [self.presence_head, self.side_head]
        return [head[0] if isinstance(head, nn.Sequential) else head for head in heads]

    def decide(self, logits):
        """Presence first, then side (Sec. 4.4), or the highest probability, as `combination` says.

        The halves are judged each by itself, and the likeliest class is then what both say."""
        hard = self.config.combination == "hard" and self.config.stage == "fused"
        return presence_first(logits) if hard else super().decide(logits)

    def sample_losses(self, output: ModelOutput, labels: torch.Tensor) -> torch.Tensor:
        """Loss (B,) of each scan: presence plus, where there is a lesion, side; or the mean over the two halves."""
        check_labels(labels, len(SIDES))
        if "half_logits" in output:
            sick = torch.stack([(labels == 1) | (labels == 3), labels >= 2], dim=1).long()  # [B,2]
            halves = output["half_logits"].float().transpose(1, 2)  # [B, class, half]
            return F.cross_entropy(halves, sick, reduction="none").mean(1)
        lesion = labels > 0
        presence = F.cross_entropy(output["presence_logits"].float(), lesion.long(), reduction="none")
        side = F.cross_entropy(output["side_logits"].float(), (labels - 1).clamp_min(0), reduction="none")
        return presence + lesion * side


def four_classes(presence: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, 4) of none, left, right, both from logits of presence (B, 2) and of side (B, 3)."""
    presence, side = presence.float().log_softmax(1), side.float().log_softmax(1)
    none, lesion = presence.split(1, dim=1)
    return torch.cat([none, lesion + side], dim=1)


def presence_first(logits: torch.Tensor) -> torch.Tensor:
    """Classes (B,) of logits (B, K): the first, or, where the others together are likelier, the likeliest of them."""
    lesion = logits[:, 1:].logsumexp(1) > logits[:, 0]
    return torch.where(lesion, logits[:, 1:].argmax(1) + 1, 0)


def _sides_from_halves(halves: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, 4) when the halves (B, 2, 2) are judged independently of each other."""
    healthy, sick = halves.float().log_softmax(-1).unbind(-1)  # [B,2] each
    left, right = sick.unbind(1)
    no_left, no_right = healthy.unbind(1)
    return torch.stack([no_left + no_right, left + no_right, no_left + right, left + right], dim=1)


def _head(num_features: int, num_classes: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(num_features, num_classes)
    return nn.Sequential(nn.Linear(num_features, hidden), nn.LeakyReLU(LEAKY_SLOPE), nn.Linear(hidden, num_classes))
