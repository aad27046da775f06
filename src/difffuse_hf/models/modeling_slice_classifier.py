"""Slice classifier: is there a lesion in this slice? (Sec. 4.3, Table 4.2; the classifier f of Eq. 5.3)"""

import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput

from .attention import weighted_mean
from .backbone import FeatureHook, TimmStages, as_scan, check_labels, check_pixel_values, resize_maps
from .configuration_slice_classifier import SliceClassifierConfig


class SliceClassifier(PreTrainedModel):
    """A timm backbone, the mean of its pooled features over the slices of a scan, and a linear head."""

    config: SliceClassifierConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True

    def __init__(self, config: SliceClassifierConfig):
        super().__init__(config)
        self.backbone = timm.create_model(
            config.backbone, pretrained=False, in_chans=config.num_channels, num_classes=0, **config.backbone_kwargs
        )
        self.stages = TimmStages(self.backbone)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.backbone.head_hidden_size, config.num_labels)
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        if module is self.head:  # timm has initialised its own layers; the default here would overwrite them
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif hasattr(module, "init_non_persistent_buffers"):  # buffers timm leaves out of the state dict
            module.init_non_persistent_buffers()

    @property
    def num_stages(self) -> int:
        """Stages that a hook sees: 4 of a ResNet, 1 (the last maps) of another network, 0 of a vision transformer."""
        return self.stages.num_stages

    @property
    def stage_widths(self) -> list[int]:
        """Channels of the maps after each stage."""
        return self.stages.stage_widths()

    def to_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """All slices (B * S, C, H, W)."""
        return as_scan(pixel_values).flatten(0, 1)

    def to_scan(self, maps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Maps (B * S, K, h, w) on the slices, at their size: (B, S, K, H, W), or (B, K, H, W) for slices."""
        maps = resize_maps(maps, like.shape[-2:])
        return maps.unflatten(0, like.shape[:2]) if like.ndim == 5 else maps

    def forward(
        self,
        pixel_values: torch.Tensor,
        saliency: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        hook: FeatureHook | None = None,
    ) -> ImageClassifierOutput:
        """Class logits of slices, or of scans given as stacks of slices.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, C, H, W)` or `(B, S, C, H, W)`): intensities in [0, 1].
            saliency: not used; ACAT and its competitors share this signature.
            labels (`torch.Tensor` of shape `(B,)`, *optional*): class indices; with them the output has a `loss`.
            hook (`FeatureHook`, *optional*): sees and changes the maps of every stage.

        Returns:
            `ImageClassifierOutput` with `logits` of shape `(B, num_labels)`.
        """
        check_pixel_values(pixel_values, self.config.num_channels)
        scan, hook = as_scan(pixel_values), hook or FeatureHook()
        images = self.to_images(scan)
        size = self.backbone.patch_embed.img_size if hasattr(self.backbone, "patch_embed") else None
        if size is not None and tuple(images.shape[-2:]) != tuple(size):  # transformers are made for one size
            images = pad_to(images, size)
        features, maps = self.stages(self, images, hook)  # [B*S,D]
        weights = None if maps is None else hook.slice_weights(maps)
        layout = scan.shape[:2]
        weights = None if weights is None else weights.unflatten(0, layout)
        features = weighted_mean(features.unflatten(0, layout), weights)  # [B,D]
        output = ImageClassifierOutput(logits=self.head(self.dropout(features)))
        if labels is not None:
            output.loss = self.sample_losses(output, labels).mean()
        return output

    def sample_losses(self, output: ImageClassifierOutput, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy (B,) of each slice or scan."""
        check_labels(labels, self.config.num_labels)
        return F.cross_entropy(output.logits.float(), labels, reduction="none")


def pad_to(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Images (N, C, H, W) on a black canvas of the size a transformer was made for; larger ones are an error."""
    down, right = size[0] - images.shape[-2], size[1] - images.shape[-1]
    if down < 0 or right < 0:
        raise ValueError(
            f"`pixel_values` are {tuple(images.shape[-2:])} pixels but the transformer was made for {tuple(size)}; "
            "set `img_size` in `backbone_kwargs`, or resize the images."
        )
    return F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))


AutoModelForImageClassification.register(SliceClassifierConfig, SliceClassifier)
