"""What the training of every classifier shares (thesis Chs. 4-5): arguments, random changes, loss and validation.

The loop itself is `training.loop.Trainer`. Everything random about a scan belongs to the scan (`sample_uniform`), so
that the loss does not depend on how many processes share the batch.
"""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from accelerate import PartialState
from scipy.stats import rankdata

from ..data.cards import is_synthetic
from ..data.scans import load_scans
from ..errors import InputError
from ..io.files import write_into, write_whole
from ..io.model_card import classifier_card
from ..models.processing_acat import ACATProcessor
from .arguments import TrainingArguments, option
from .augmentation import augment, augment_uniforms, drop_modalities, flip_labels, mirrored
from .loop import Trainer, push_trained
from .losses import balanced_class_weights
from .sampler import sample_uniform

if TYPE_CHECKING:
    from ..models.modeling_guided import GuidedClassifier
    from ..models.modeling_lesion_classifier import LesionClassifier
    from ..models.modeling_slice_classifier import SliceClassifier

FINISHED = "training.json"  # written last: a folder that holds it holds a trained model
STRENGTHS = ("intensity", "noise", "shift", "rotation", "zoom")  # of `augment`, arguments `<name>_augmentation`
RECIPE = {  # of every classifier, as the preset "thesis"; steps, optimiser and schedule are our choice
    "max_steps": 30_000,
    "batch_size": 32,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 5e-5,
    "lr_scheduler": "cosine",
}


@dataclass(kw_only=True)
class ClassifierArguments(TrainingArguments):
    """Arguments of examples/train_classifier.py and train_acat.py."""

    epochs: float | None = option(None, "Passes through the training split; replaces --max_steps.")
    balance_classes: bool = option(False, "Weigh the loss by inverse class frequency.")
    train_scans: int | None = option(None, "Train on so many scans only, the first of a fixed order (Sec. 5.6.4).")
    noise_augmentation: float = option(0.0, "Largest standard deviation of added noise.")
    shift_augmentation: int = option(0, "Largest random shift in pixels.")
    rotation_augmentation: float = option(0.0, "Largest random rotation in degrees.")
    zoom_augmentation: float = option(0.0, "Random magnification, on a log scale.")


def load_splits(args: ClassifierArguments, saliency: str | None = None) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Training and validation scans (or slices), the first cut to `train_scans` if that is set.

    The scans kept are the first of one order fixed by the seed, so that a larger training set contains a smaller one.
    """
    geometry = {"image_size": args.image_size, "pixel_spacing_mm": args.pixel_spacing_mm}
    train = load_scans(args.dataset, "train", saliency, **geometry)
    validation = load_scans(args.dataset, "validation", saliency, **geometry)
    if args.train_scans is not None:
        if not 0 < args.train_scans <= len(train):
            raise InputError(
                f"--train_scans {args.train_scans}: {args.dataset} has {len(train)} in its training split."
            )
        train = train.select(np.random.default_rng(args.seed).permutation(len(train))[: args.train_scans])
    return train, validation


def class_names(dataset: datasets.Dataset) -> list[str]:
    """Names of the classes of `label`, in order."""
    feature = dataset.features["label"]
    if not isinstance(feature, datasets.ClassLabel):
        raise InputError("The column `label` names no classes; prepare the data set with a builder of this package.")
    return list(feature.names)


def load_processor(dataset: str) -> ACATProcessor | None:
    """What images go through that are to be classified like a prepared data set's; None where nothing says so.

    Slices for diffusion are cut by a `DifFuseProcessor`: of them, the classifier's has the size and the channels.
    """
    path = Path(dataset, "preprocessor_config.json")
    if not path.exists():
        return None
    saved = json.loads(path.read_text(encoding="utf-8"))
    if saved.get("image_processor_type") == "ACATProcessor":
        return ACATProcessor.from_pretrained(dataset)
    return ACATProcessor(image_size=saved["image_size"], num_channels=len(saved["modalities"]))


def steps(args: ClassifierArguments, num_scans: int, epochs: float | None) -> int:
    """Optimiser steps of so many passes through the training split, on all processes together."""
    if epochs is None:
        return args.max_steps
    batch = args.batch_size * args.gradient_accumulation_steps * int(os.environ.get("WORLD_SIZE", 1))
    return max(1, math.ceil(epochs * num_scans / batch))


def is_trained(folder: str | Path) -> bool:
    """Whether a training that ended left its model in `folder`."""
    return Path(folder, FINISHED).exists()


def fit_classifier(
    model: "GuidedClassifier | LesionClassifier | SliceClassifier",
    train: datasets.Dataset,
    validation: datasets.Dataset,
    args: ClassifierArguments,
    frozen: tuple[str, ...] = (),
    push: bool = True,
) -> dict[str, float]:
    """Train a classifier; model, processor and `training.json` (validation metrics) are left in `args.output_dir`.

    Args:
        model: called as `model(pixel_values, saliency=..., ...)`; its `sample_losses(output, labels)` is (B,).
        train, validation: from `load_splits`; the column `saliency` is used if it is there.
        frozen: names of children whose weights stay as they are.
        push: whether the end of this training is the time for `args.push_to_hub`.
    """
    names = class_names(train)
    weights = torch.ones(len(names))
    if args.balance_classes:
        weights = balanced_class_weights(torch.as_tensor(train["label"]), len(names))
    for name, child in model.named_children():
        child.requires_grad_(name not in frozen)
    torch.nn.Module.to(model, memory_format=torch.channels_last)  # the faster layout for convolutions

    def losses_of(output, labels):
        return weights.to(labels.device)[labels] * model.sample_losses(output, labels)

    def compute_loss(network, batch, _generator):
        images, saliency, labels = augmented_scans(args, batch, names)
        return losses_of(network(images, saliency=saliency), labels).mean()

    def validate(model, batches):
        logits, labels, losses = [], [], []
        for batch in batches:
            output = model(batch["pixel_values"], saliency=batch.get("saliency"))
            losses.append(losses_of(output, batch["label"]))
            logits.append(output.logits.float().cpu())
            labels.append(batch["label"].cpu())
        logits, labels = torch.cat(logits), torch.cat(labels)
        return {
            "loss": torch.cat(losses).mean().item(),
            **classification_metrics(logits, labels, names, model.decide(logits)),
        }

    processor = load_processor(args.dataset)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)

    if args.validation_steps:  # a short run is validated at its end
        args = dataclasses.replace(args, validation_steps=min(args.validation_steps, args.max_steps))
    columns = [name for name in ("pixel_values", "label", "saliency") if name in train.column_names]
    metrics = Trainer(
        model,
        train,
        compute_loss,
        args,
        validation,
        validate,
        save=lambda _model: write_into(args.output_dir, write),
        columns=columns,
        find_unused_parameters=getattr(model, "needs_saliency", False),  # the branch's last stages lead nowhere
        push=False,
    ).fit()
    if PartialState().is_main_process:
        summary = {"validation": metrics, "training_scans": len(train), "steps": args.max_steps, "seed": args.seed}
        write_card(model, train, args, metrics)
        write_whole(Path(args.output_dir, FINISHED), lambda path: path.write_text(json.dumps(summary, indent=2)))
        if push:
            push_trained(args)
    return metrics


def write_card(model, train: datasets.Dataset, args: ClassifierArguments, metrics: dict[str, float]) -> None:
    """The card of a trained classifier in `args.output_dir`: its data, and what it scores on the validation split."""
    names, data = class_names(train), Path(args.dataset).name
    origin = "Where its scans come from, and what may be done with them, is said on the card of that data set"
    origin = "**Synthetic**, no patient is in it" if is_synthetic(args.dataset) else origin
    card = classifier_card(
        name=Path(args.output_dir).absolute().name,
        description=f"A {type(model).__name__} of difffuse_hf: {', '.join(names)}.",
        training_data=f"`{data}`, {len(train)} rows, seed {args.seed}. {origin}.",
        scores={
            f"{name}, validation": value for name, value in metrics.items() if name in ("accuracy", "auc", "loss")
        },
        classes=names,
        dataset=data,
        repo_id=args.push_to_hub or args.output_dir,
        trained_on=args.dataset,
        base_model=getattr(args, "classifier", ""),  # of ACAT and its competitors
    )
    write_whole(Path(args.output_dir, "README.md"), lambda path: path.write_text(card, encoding="utf-8"))


def augmented_scans(
    args: ClassifierArguments, batch: dict[str, torch.Tensor], names: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Images, saliency (or None) and labels of a batch under the random changes that `args` ask for."""
    images, saliency, labels = batch["pixel_values"], batch.get("saliency"), batch["label"]
    uniforms = sample_uniform(args.seed, batch["position"], augment_uniforms(images.shape[-3]) + 2)
    strengths = {name: getattr(args, f"{name}_augmentation") for name in STRENGTHS}
    changed = augment(images, flip=args.flip, uniforms=uniforms, saliency=saliency, **strengths)
    images, saliency = changed if isinstance(changed, tuple) else (changed, None)
    images = drop_modalities(images, args.modality_dropout, uniforms[:, -1])
    if args.flip:
        labels = flip_labels(labels, mirrored(uniforms), names)
    return images, saliency, labels


def classification_metrics(
    logits: torch.Tensor, labels: torch.Tensor, names: list[str], predicted: torch.Tensor
) -> dict[str, float]:
    """`accuracy`, `auc` of a lesion against the first class, and the counts `confusion/<true>/<predicted>`."""
    metrics = {"accuracy": (predicted == labels).float().mean().item()}
    lesions = int((labels > 0).sum())
    if 0 < lesions < len(labels):  # area under the ROC curve, from the ranks of the scans with a lesion
        ranks = rankdata(1 - logits.softmax(1)[:, 0].numpy())[(labels > 0).numpy()]
        metrics["auc"] = float(ranks.sum() - lesions * (lesions + 1) / 2) / (lesions * (len(labels) - lesions))
    counts = torch.bincount(labels * len(names) + predicted, minlength=len(names) ** 2).view(len(names), -1)
    for true, row in zip(names, counts.tolist()):
        metrics |= {f"confusion/{true}/{guess}": float(count) for guess, count in zip(names, row)}
    return metrics
