"""What ACAT and its competitors share: a base classifier whose feature maps are changed on the way.

A subclass makes a `FeatureModifier` for the batch at hand (`guide`), and that is all it adds to the base network.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.utils.generic import ModelOutput

from ..errors import InputError, one_sentence
from ..io.hub import local_folder
from .backbone import FeatureModifier, ModifierChain, as_scan
from .configuration_guided import GuidedConfig
from .modeling_classifier import ScanClassifier


@dataclass
class GuidedClassifierOutput(ModelOutput):
    """`logits` (B, num_labels), and what the base network gave beside them.

    `spatial_attention`: the masks (N, 1, h, w) of each attended stage, on the images that the base network sees
    (`to_scan` puts them back); `fused_attention` (N, 1, h', w'); `slice_attention` (N,)."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    presence_logits: torch.Tensor | None = None
    side_logits: torch.Tensor | None = None
    half_logits: torch.Tensor | None = None
    spatial_attention: tuple[torch.Tensor, ...] | None = None
    fused_attention: torch.Tensor | None = None
    slice_attention: torch.Tensor | None = None


class GuidedClassifier(ScanClassifier):
    """A base classifier, and what happens to its maps; see the subclasses."""

    base_model_prefix = "base"
    needs_saliency = False

    def __init__(self, config: GuidedConfig):
        super().__init__(config)
        self.base = AutoModelForImageClassification.from_config(self.base_config(config))
        self.build(config)
        self.post_init()

    @staticmethod
    def base_config(config: GuidedConfig):
        """Configuration of the base network; SalClassNet gives it a channel more."""
        return config.base

    def build(self, config: GuidedConfig) -> None:
        """Make the modules beside the base network."""
        raise NotImplementedError

    def guide(self, images: torch.Tensor, saliency: torch.Tensor | None) -> FeatureModifier:
        """What happens to the maps of one batch.

        Args:
            images (`torch.Tensor` of shape `(N, C, h, w)`): what the base network sees (`to_images`).
            saliency (`torch.Tensor` of shape `(N, 1, h, w)`, *optional*): the maps, cut the same way.
        """
        raise NotImplementedError

    def inputs(self, scan: torch.Tensor, saliency: torch.Tensor | None) -> torch.Tensor:
        """What goes into the base network, (B, S, C, H, W)."""
        return scan

    @classmethod
    def from_baseline(
        cls, baseline: PreTrainedModel | str | Path, from_scratch: bool = False, **options
    ) -> "GuidedClassifier":
        """Start from a trained base classifier (Sec. 5.6.2), a model or the folder or Hub name of one.

        Args:
            from_scratch (`bool`): take the architecture of the base classifier alone, and none of its weights, as for
                the variances of Sec. 5.6.9.
            options: of the configuration, but for `base`.

        Raises:
            InputError: there is no such option, or not with this value.
        """
        if isinstance(baseline, (str, Path)):
            trained = AutoModelForImageClassification.from_pretrained(local_folder(baseline))
            return cls.from_baseline(trained, from_scratch, **options)
        configuration: Any = cls.config_class
        own = {field.name for config in configuration.__mro__ for field in _own_fields(config)} - {"base"}
        unknown = sorted(set(options) - own)
        if unknown:
            raise InputError(f"{cls.__name__} has no option {unknown[0]}; its options are {', '.join(sorted(own))}.")
        try:
            model = cls(configuration(base=baseline.config.to_dict(), **options))
        except InputError:
            raise
        except (StrictDataclassError, ValueError, TypeError, RuntimeError, IndexError) as error:
            raise InputError(f"{cls.__name__} takes no such options: {one_sentence(error)}") from None
        if not from_scratch:
            model.load_baseline(baseline)
        return model

    def load_baseline(self, baseline: PreTrainedModel) -> None:
        """Copy the weights of a trained base classifier."""
        self.base.load_state_dict(baseline.state_dict())

    @torch.no_grad()
    def scale_back(self, stages: Sequence[int], scale: float) -> None:
        """Make up for maps that are multiplied by `scale` after these stages, in the weights of what reads them."""
        for stage in stages:
            for layer in self.base.readers(stage):
                layer.weight /= scale

    @property
    def num_stages(self) -> int:
        return self.base.num_stages

    @property
    def stage_widths(self) -> list[int]:
        return self.base.stage_widths

    def to_images(self, pixel_values):
        return self.base.to_images(pixel_values)

    def to_scan(self, maps, like):
        return self.base.to_scan(maps, like)

    def decide(self, logits):
        return self.base.decide(logits)

    def sample_losses(self, output: ModelOutput, labels: torch.Tensor) -> torch.Tensor:
        """Loss (B,) of each slice or scan: the base classifier's."""
        return self.base.sample_losses(output, labels)

    def classify(self, pixel_values, saliency, feature_modifier) -> GuidedClassifierOutput:
        """The base network's answer after the model's own modifier, and the attention that it made."""
        self._check_saliency(pixel_values, saliency)
        scan = as_scan(pixel_values)
        saliency = as_scan(saliency).to(scan.dtype) if self.needs_saliency and saliency is not None else None
        cut = None if saliency is None else self.base.to_images(saliency)
        guide = self.guide(self.base.to_images(scan), cut)
        chain = ModifierChain(guide, feature_modifier)
        made = self.base(self.inputs(scan, saliency), feature_modifier=chain, return_dict=True)
        attention = {name: getattr(guide, name, None) for name in ("fused_attention", "slice_attention")}
        masks = getattr(guide, "spatial_attention", None)
        return GuidedClassifierOutput(**dict(made), **attention, spatial_attention=tuple(masks) if masks else None)

    def _check_saliency(self, pixel_values, saliency):
        if not self.needs_saliency:
            return
        expected = (*pixel_values.shape[:-3], 1, *pixel_values.shape[-2:])
        if saliency is None:
            raise ValueError(
                f"{type(self).__name__} needs `saliency` maps of shape {expected}; make them with "
                "`class_agnostic_saliency` or examples/compute_saliency.py."
            )
        if tuple(saliency.shape) != expected:
            raise ValueError(f"`saliency` has the shape {tuple(saliency.shape)} where {expected} fits the images.")


def _own_fields(config_class: type) -> tuple:
    """The fields that a configuration of this package has beside those of transformers."""
    ours = issubclass(config_class, GuidedConfig)
    names = vars(config_class).get("__annotations__", {}) if ours else {}
    return tuple(field for field in dataclasses.fields(config_class) if field.name in names) if ours else ()


def require_stages(model: GuidedClassifier, stages: Sequence[int]) -> None:
    """Raise an `InputError` unless the base network has all of these stages."""
    if not stages or min(stages) < 1 or max(stages) > model.num_stages:
        raise InputError(
            f"{type(model).__name__} acts after the stages {stages}, but its base network has {model.num_stages}; "
            "the half-brain CNN has 7, a ResNet 4, and other networks cannot be steered."
        )
