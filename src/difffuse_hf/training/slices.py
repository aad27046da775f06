"""What the trainings on slices share: the split they read and the random changes of a batch."""

from typing import TYPE_CHECKING, cast

import torch

from ..data.slices import load_slices
from .arguments import TrainingArguments
from .augmentation import augment, augment_uniforms, drop_modalities
from .sampler import sample_uniform

if TYPE_CHECKING:
    from datasets import Dataset


def load_split(args: TrainingArguments, split: str, healthy_only: bool = False) -> "Dataset":
    """A split of the slices that `args` name, see `load_slices`."""
    geometry = {"image_size": args.image_size, "pixel_spacing_mm": args.pixel_spacing_mm}
    return cast("Dataset", load_slices(args.dataset, split, healthy_only, **geometry))


def augmented_images(args: TrainingArguments, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The images of a batch under the random changes that `args` ask for, decided by the samples' positions."""
    image = batch["image"]
    uniforms = sample_uniform(args.seed, batch["position"], augment_uniforms(image.shape[-3]) + 2)
    changed = augment(image, flip=args.flip, intensity=args.intensity_augmentation, uniforms=uniforms)
    changed = cast(torch.Tensor, changed)  # a pair only with a saliency map
    return drop_modalities(changed, args.modality_dropout, uniforms[:, -1])  # the last but one is for labels
