"""Train a classifier of slices or scans from image-level labels (thesis Ch. 4).

accelerate launch examples/train_classifier.py --dataset data/ist3 --backbone half_brain --output_dir out/classifier
accelerate launch examples/train_classifier.py --dataset data/brats_slices --output_dir out/classifier

`--backbone half_brain` is the multi-task CNN, trained in the thesis's three stages: the halves of the brain alone
(Adam 1e-3), the heads over both halves (1e-4), everything (1e-5), 200 epochs in all; how the epochs are shared out is
our choice. `vit` is the counted vision transformer of Table 4.2; any other name is a timm model with the first stage's
recipe (transformers start better with --learning_rate 3e-4 --warmup_steps 200). All have a cosine, weight decay 5e-5
and left-right flips. `--preset demo` is the shipped slice classifier.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from difffuse_hf import LesionClassifier, LesionClassifierConfig, SliceClassifier, SliceClassifierConfig
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.models.configuration_slice_classifier import THESIS_VIT
from difffuse_hf.training.arguments import json_options, option, parse_arguments
from difffuse_hf.training.classifiers import (
    RECIPE,
    ClassifierArguments,
    class_names,
    fit_classifier,
    is_trained,
    load_splits,
    steps,
)

DEMO = {
    "channels": [16, 32, 64, 128],
    "dropout": 0.2,
    "balance_classes": True,
    "intensity_augmentation": 0.2,
    "noise_augmentation": 0.1,
    "shift_augmentation": 4,
    "mixed_precision": "bf16",
    "max_steps": 2000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 100,
    "validation_steps": 250,
    "checkpointing_steps": 500,
}
HALF_BRAIN = (("halves", 1e-3), ("heads", 1e-4), ("fine_tuned", 1e-5))  # stage, learning rate (Sec. 4.4)


@dataclass(kw_only=True)
class Arguments(ClassifierArguments):
    backbone: str = option("resnet18", "`half_brain`, `vit`, or a timm model.")
    channels: list[int] | None = option(None, "Widths of the stages, for ResNets narrower than usual.")
    backbone_kwargs: str = option("{}", "Further arguments of the timm model, as JSON.")
    num_pools: int | None = option(None, "Max-poolings of the half-brain CNN.")
    hidden_head: int | None = option(None, "Width of a hidden layer in the heads of the half-brain CNN.")
    stage_epochs: list[float] = option([100, 50, 50], "Epochs of the three stages of the half-brain CNN.")
    stage_learning_rates: list[float] = option([rate for _, rate in HALF_BRAIN], "Learning rates of the three stages.")
    dropout: float = option(0.0, "Dropout before the heads.")

    def __post_init__(self):
        super().__post_init__()
        known = self.backbone in ("half_brain", "vit") or ":" in self.backbone or timm.is_model(self.backbone)
        if not known:
            raise InputError(
                f"`backbone` must be half_brain, vit or one of timm.list_models(), got {self.backbone!r}."
            )


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(Arguments, {"thesis": RECIPE, "demo": DEMO}, argv)
    torch.manual_seed(args.seed)
    train, validation = load_splits(args)
    if args.backbone == "half_brain":
        return train_half_brain(args, train, validation)

    names = class_names(train)
    kwargs = dict(THESIS_VIT["backbone_kwargs"]) if args.backbone == "vit" else {}
    kwargs |= json_options("--backbone_kwargs", args.backbone_kwargs)
    kwargs |= {"channels": args.channels} if args.channels else {}
    model = SliceClassifier(
        SliceClassifierConfig(
            backbone=THESIS_VIT["backbone"] if args.backbone == "vit" else args.backbone,
            backbone_kwargs=kwargs,
            num_channels=train.features["pixel_values"].shape[-3],
            dropout=args.dropout,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )
    args.max_steps = steps(args, len(train), args.epochs)
    fit_classifier(model, train, validation, args)


def train_half_brain(args: Arguments, train, validation) -> None:
    """The three stages, each from what the one before has left; stages that ended are not repeated."""
    config = {"dropout": args.dropout, "hidden_head": args.hidden_head}
    config |= {"num_channels": train.features["pixel_values"].shape[-3]}
    config |= {} if args.num_pools is None else {"num_pools": args.num_pools}
    output, before = Path(args.output_dir), None
    scale = 1 if args.epochs is None else args.epochs / sum(args.stage_epochs)
    for (stage, _), rate, epochs in zip(HALF_BRAIN, args.stage_learning_rates, args.stage_epochs):
        folder = output if stage == "fine_tuned" else output / stage
        fused = "halves" if stage == "halves" else "fused"
        if before is None:
            model = LesionClassifier(LesionClassifierConfig(stage=fused, **config))
        else:
            model = LesionClassifier.from_pretrained(before, stage=fused)
        before = folder
        if args.resume_from_checkpoint is not None and is_trained(folder):
            continue
        stage_args = dataclasses.replace(
            args,
            output_dir=str(folder),
            learning_rate=rate,
            max_steps=steps(args, len(train), epochs * scale),
        )
        frozen = ("backbone",) if stage == "heads" else ()
        fit_classifier(model, train, validation, stage_args, frozen, push=stage == "fine_tuned")


if __name__ == "__main__":
    run_script(main)
