"""Slice classifier: is there a lesion in this slice? (Table 4.2; the classifier f of Eq. 5.3)"""

from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel  # noqa: F401  diffusers looks for this name in the module of a component
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import ModelOutput

from .attention import weighted_mean
from .backbone import ResNetTrunk, TimmStages, as_scan, check_labels, resize_maps
from .configuration_slice_classifier import SliceClassifierConfig
from .modeling_classifier import ScanClassifier


class SliceClassifier(ScanClassifier):
    """A timm backbone, the mean of its pooled features over the slices of a scan, and a linear head."""

    config: SliceClassifierConfig
    base_model_prefix = "backbone"

    def __init__(self, config: SliceClassifierConfig):
        super().__init__(config)
        self.backbone: Any = self._make_network(config.num_channels)
        self.stages = TimmStages(self.backbone)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.backbone.head_hidden_size, len(config.id2label or ()))
        self.gradient_checkpointing = False
        self.post_init()

    def _make_network(self, num_channels: int) -> Any:
        options = {"in_chans": num_channels, "num_classes": 0, **(self.config.backbone_kwargs or {})}
        return timm.create_model(self.config.backbone, pretrained=False, **options)

    def make_trunk(self, num_channels):
        return ResNetTrunk(self._make_network(num_channels))

    def readers(self, stage):
        return self.stages.readers(stage) if stage < self.num_stages else [self.head]

    @torch.no_grad()
    def _init_weights(self, module):
        if module is self.head:  # timm has initialised its own layers; the default here would overwrite them
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif hasattr(module, "init_non_persistent_buffers"):  # buffers timm leaves out of the state dict
            module.init_non_persistent_buffers()

    @property
    def num_stages(self) -> int:
        """Four of a ResNet, one (the last maps) of another network, none of a vision transformer."""
        return self.stages.num_stages

    @property
    def stage_widths(self) -> list[int]:
        return self.stages.stage_widths()

    def to_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """All slices (B * S, C, H, W)."""
        return as_scan(pixel_values).flatten(0, 1)

    def to_scan(self, maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Maps (B * S, K, h, w) on the slices, at their size."""
        maps = resize_maps(maps, like.shape[-2:])
        return maps.unflatten(0, like.shape[:2]) if like.ndim == 5 else maps

    def classify(self, pixel_values, saliency, feature_modifier) -> ImageClassifierOutput:
        """Class logits; the saliency is not used."""
        scan = as_scan(pixel_values)
        images = self.to_images(scan)
        size = self.backbone.patch_embed.img_size if hasattr(self.backbone, "patch_embed") else None
        if size is not None and tuple(images.shape[-2:]) != tuple(size):  # transformers are made for one size
            images = pad_to(images, size)
        features, maps = self.stages(self, images, feature_modifier)  # [B*S,D]
        weights = None if maps is None else feature_modifier.slice_weights(maps)
        layout = scan.shape[:2]
        weights = None if weights is None else weights.unflatten(0, layout)
        features = weighted_mean(features.unflatten(0, layout), weights)  # [B,D]
        return ImageClassifierOutput(logits=self.head(self.dropout(features)))

    def sample_losses(self, output: ModelOutput, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy (B,) of each slice or scan."""
        check_labels(labels, self.head.out_features)
        return F.cross_entropy(output["logits"].float(), labels, reduction="none")


def pad_to(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Images (N, C, H, W) on a black canvas of the size a transformer was made for; larger ones are an error."""
    down, right = size[0] - images.shape[-2], size[1] - images.shape[-1]
    if down < 0 or right < 0:
        raise ValueError(
            f"`pixel_values` are {tuple(images.shape[-2:])} pixels but the transformer was made for {tuple(size)}; "
            "set `img_size` in `backbone_kwargs`, or resize the images."
        )
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
