"""Configuration of the slice classifiers of Table 4.2: a timm backbone with a linear head."""

import re
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# The vision transformer of Table 4.2 (51,439,620 parameters for 1 channel and 4 classes) as a timm model.
THESIS_VIT = {
    "backbone": "vit_base_patch16_224",
    "backbone_kwargs": {
        "img_size": 500,
        "patch_size": 25,
        "embed_dim": 1024,
        "depth": 6,
        "num_heads": 16,
        "mlp_ratio": 2,
        "qkv_bias": False,
        "pos_drop_rate": 0.1,
        "proj_drop_rate": 0.1,
        "attn_drop_rate": 0.1,
    },
}
THESIS_SWIN = {  # of Table 4.2 (27,519,358 parameters); from block to block the drop path rises from 0 to 0.2
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"drop_path_rate": 0.2},
}

LOADING = ("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit")  # of `timm.create_model`


@strict
class SliceClassifierConfig(PreTrainedConfig):
    """What a [`SliceClassifier`] is made of.

    Args:
        backbone (`str`): name of a timm model (`resnet18`, `resnet50`, `swin_tiny_patch4_window7_224`, ...).
        backbone_kwargs (`dict`): passed on to `timm.create_model`; `{"channels": [16, 32, 64, 128]}` makes a ResNet
            narrow.
        num_channels (`int`): channels of a slice; 1 for CT, 4 for the BraTS modalities.
        dropout (`float`): probability of dropping a pooled feature before the linear head, while training.
        num_labels (`int`, defaults to 4): number of classes, when `id2label` does not name them; two classes are
            called healthy and lesion.
    """

    model_type = "difffuse_slice_classifier"

    backbone: str = "resnet18"
    backbone_kwargs: dict[str, Any] | None = None
    num_channels: int = 1
    dropout: float = 0.0

    def __post_init__(self, **kwargs):
        self.backbone_kwargs = dict(self.backbone_kwargs or {})
        if self.id2label is None and kwargs.get("num_labels") == 2:
            self.id2label = {0: "healthy", 1: "lesion"}
            self.label2id = {"healthy": 0, "lesion": 1}
        elif self.id2label is None:
            kwargs.setdefault("num_labels", 4)  # IST-3: no lesion, left, right, both (Table 4.2)
        super().__post_init__(**kwargs)

    def validate_backbone(self):
        if not re.fullmatch(r"\w+(\.\w+)?", self.backbone):
            raise ValueError(
                f"`backbone` is the name of a timm model, not a place to load one from: {self.backbone!r}."
            )
        refused = [name for name in self.backbone_kwargs or {} if name in LOADING or name.startswith("pretrained")]
        if refused:
            raise ValueError(f"`backbone_kwargs` shape the network and load nothing, got `{refused[0]}`.")

    def validate_dropout(self):
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`dropout` is a probability in [0, 1), got {self.dropout}.")

    def validate_classes(self):
        if len(self.id2label or {}) == 1:
            raise ValueError("`num_labels` must be at least 2, got 1; for a sigmoid's one output take two classes.")
