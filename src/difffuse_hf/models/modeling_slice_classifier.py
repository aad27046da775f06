"""Slice classifier: is there a lesion in this slice? (Sec. 4.3, Table 4.2; the classifier f of Eq. 5.3)"""

import timm
import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_slice_classifier import SliceClassifierConfig


class SliceClassifier(PreTrainedModel):
    """A timm backbone, the mean of its pooled features over the slices of a scan, and a linear head."""

    config: SliceClassifierConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: SliceClassifierConfig):
        super().__init__(config)
        self.backbone = timm.create_model(
            config.backbone, pretrained=False, in_chans=config.num_channels, num_classes=0, **config.backbone_kwargs
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.backbone.head_hidden_size, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if module is self.head:  # timm has initialised its own layers; the default here would overwrite them
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif hasattr(module, "init_non_persistent_buffers"):  # buffers timm leaves out of the state dict
            module.init_non_persistent_buffers()

    def forward(
        self,
        pixel_values: torch.Tensor,
        saliency: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ImageClassifierOutput:
        """Class logits of slices, or of scans given as stacks of slices.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): intensities in [0, 1].
            saliency: not used; ACAT and its competitors share this signature.
            labels (`torch.Tensor` of shape `(B,)`, *optional*): class indices; with them the output has a `loss`.

        Returns:
            `ImageClassifierOutput` with `logits` of shape `(B, num_labels)`.
        """
        channels = pixel_values.shape[-3]
        if channels != self.config.num_channels:
            raise ValueError(
                f"`pixel_values` has {channels} channels but the classifier takes {self.config.num_channels}; "
                "stack the modalities on the channel axis: (B, C, H, W) or (B, S, C, H, W)."
            )
        if pixel_values.ndim == 5:
            features = self.backbone(pixel_values.flatten(0, 1))  # (B * S, D)
            features = features.unflatten(0, pixel_values.shape[:2]).mean(1)  # (B, D)
        else:
            features = self.backbone(pixel_values)  # (B, D)
        logits = self.head(self.dropout(features))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


AutoModelForImageClassification.register(SliceClassifierConfig, SliceClassifier)
