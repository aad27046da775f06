"""Configuration that ACAT and its competitors share: a base classifier, and where it is steered."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

HALF_BRAIN, RESNET = "difffuse_lesion_classifier", "difffuse_slice_classifier"


@strict
class GuidedConfig(PreTrainedConfig):
    """A base classifier's configuration, whose classes and channels are taken over.

    Args:
        base: a `LesionClassifierConfig`, a `SliceClassifierConfig` with a ResNet, or either as a dict; the half-brain
            CNN by default.
    """

    base: Any = None

    def __post_init__(self, **kwargs):
        if isinstance(self.base, dict):
            values = dict(self.base)
            self.base = AutoConfig.for_model(values.pop("model_type"), **values)
        elif self.base is None:
            self.base = AutoConfig.for_model(HALF_BRAIN)
        if self.base.model_type not in (HALF_BRAIN, RESNET):
            raise ValueError(
                f"`base` is a half-brain or a slice classifier, got one of type {self.base.model_type!r}."
            )
        if self.id2label is None:
            kwargs.pop("num_labels", None)
            self.id2label, self.label2id = dict(self.base.id2label), dict(self.base.label2id)
        super().__post_init__(**kwargs)

    @property
    def num_channels(self) -> int:
        """Channels of a slice, as the caller gives it."""
        return self.base.num_channels

    def stages_or(self, stages, half_brain: tuple[int, ...], resnet: tuple[int, ...]) -> list[int]:
        """`stages`, or else those of the thesis for the base in use."""
        if stages is None:
            stages = half_brain if self.base.model_type == HALF_BRAIN else resnet
        return list(stages)
