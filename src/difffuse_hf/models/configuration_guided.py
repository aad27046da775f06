"""Configuration that ACAT and its competitors share: a base classifier, and where it is steered."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_lesion_classifier import LesionClassifierConfig
from .configuration_slice_classifier import SliceClassifierConfig

BASES = {config.model_type: config for config in (LesionClassifierConfig, SliceClassifierConfig)}


@strict
class GuidedConfig(PreTrainedConfig):
    """A base classifier's configuration, whose classes and channels are taken over.

    Args:
        base: a `LesionClassifierConfig`, a `SliceClassifierConfig` with a ResNet, or either as a dict; the half-brain
            CNN by default.
    """

    base: Any = None

    def __post_init__(self, **kwargs):
        if self.base is None:
            self.base = LesionClassifierConfig()
        as_dict = isinstance(self.base, dict)
        model_type = self.base.get("model_type") if as_dict else self.base.model_type
        if model_type not in BASES:
            raise ValueError(f"`base` is a half-brain or a slice classifier, got one of type {model_type!r}.")
        if as_dict:
            known = {name: value for name, value in self.base.items() if name != "model_type"}
            self.base = BASES[model_type].from_dict(known)
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
            stages = half_brain if self.base.model_type == LesionClassifierConfig.model_type else resnet
        return list(stages)


def refuse_old(field: str, saved: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for a configuration of version 0.1.0, whose network this one's weights would not fit."""
    if field in saved:
        raise ValueError(
            f"this model was trained by version 0.1.0 (`{field}`), whose network was not the thesis's; train it again"
        )
