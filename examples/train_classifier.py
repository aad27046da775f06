"""Train a classifier of slices or scans from image-level labels (thesis Ch. 4).

accelerate launch examples/train_classifier.py --dataset data/ist3 --backbone half_brain --output_dir out/classifier
accelerate launch examples/train_classifier.py --dataset data/brats_slices --output_dir out/classifier

`--backbone half_brain` is the multi-task CNN, trained in the thesis's three stages: the halves of the brain alone
(Adam 1e-3), the heads over both halves (1e-4), everything (1e-5), 200 epochs in all; how the epochs are shared out is
our choice. `--num_layers 1` to 8 is Fig. 4.3. `whole_brain` sees whole slices with the same layers (Sec. 4.4.2), in
one stage of as many epochs. `vit` and `swin` are the counted transformers of Table 4.2; any other name is a timm model
with the first stage's recipe (transformers start better with --learning_rate 3e-4 --warmup_steps 200). All have a
cosine, weight decay 5e-5 and left-right flips. `--preset demo` is the shipped slice classifier.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from accelerate import PartialState

from difffuse_hf import LesionClassifier, LesionClassifierConfig, SliceClassifier, SliceClassifierConfig
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.models.configuration_lesion_classifier import NUM_LAYERS, POOLINGS, WIDTHS
from difffuse_hf.models.configuration_slice_classifier import THESIS_SWIN, THESIS_VIT
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
from difffuse_hf.training.outputs import push_trained

DEMO = {
    "channels": [16, 32, 64, 128],
    "dropout": 0.2,
    "balance_classes": True,
    "intensity_augmentation": 0.2,
    "noise_augmentation": 0.1,
    "shift_augmentation": 4,
    "mixed_precision": "auto",
    "max_steps": 2000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 100,
    "validation_steps": 250,
    "checkpointing_steps": 500,
}
TRANSFORMERS = {"vit": THESIS_VIT, "swin": THESIS_SWIN}
CNNS = ("half_brain", "whole_brain")
HALF_BRAIN = (("halves", 1e-3), ("heads", 1e-4), ("fine_tuned", 1e-5))  # stage, learning rate (Sec. 4.4)


@dataclass(kw_only=True)
class Arguments(ClassifierArguments):
    backbone: str = option("resnet18", "`half_brain`, `whole_brain`, `vit`, `swin`, or a timm model.")
    channels: list[int] | None = option(None, "Widths of the stages, for ResNets narrower than usual.")
    backbone_kwargs: str = option("{}", "Further arguments of the timm model, as JSON.")
    num_layers: int = option(NUM_LAYERS, "Convolutions of the half-brain CNN, 1 to 8.", range(1, len(WIDTHS) + 1))
    num_pools: int | None = option(None, "Poolings of the half-brain CNN; one between all layers by default.")
    pooling: str = option("average", "How it pools.", choices=POOLINGS)
    hidden_head: int | None = option(None, "Width of a hidden layer in the heads of the half-brain CNN.")
    stage_epochs: list[float] = option([100, 50, 50], "Epochs of the three stages of the half-brain CNN.")
    stage_learning_rates: list[float] = option([rate for _, rate in HALF_BRAIN], "Learning rates of the three stages.")
    dropout: float = option(0.0, "Dropout before the heads.")

    def __post_init__(self):
        super().__post_init__()
        ours = (*CNNS, *TRANSFORMERS)
        if not (self.backbone in ours or ":" in self.backbone or timm.is_model(self.backbone)):
            raise InputError(
                f"`backbone` must be {', '.join(ours)} or one of timm.list_models(), got {self.backbone!r}."
            )


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(Arguments, {"thesis": RECIPE, "demo": DEMO}, argv)
    torch.manual_seed(args.seed)
    train, validation = load_splits(args)
    if args.backbone in CNNS:
        return train_half_brain(args, train, validation)

    names = class_names(train)
    known = TRANSFORMERS.get(args.backbone, {"backbone": args.backbone, "backbone_kwargs": {}})
    kwargs = known["backbone_kwargs"] | json_options("--backbone_kwargs", args.backbone_kwargs)
    kwargs |= {"channels": args.channels} if args.channels else {}
    check_patches(kwargs)
    model = SliceClassifier(
        SliceClassifierConfig(
            backbone=known["backbone"],
            backbone_kwargs=kwargs,
            num_channels=train.features["pixel_values"].shape[-3],
            dropout=args.dropout,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )
    args.max_steps = steps(args, len(train), args.epochs)
    fit_classifier(model, train, validation, args)


def check_patches(kwargs: dict) -> None:
    """Raise an `InputError` if a transformer's patches would leave rows or columns of the image unseen."""
    patch, size = kwargs.get("patch_size"), kwargs.get("img_size", 224)
    left = [side % patch for side in (size if isinstance(size, (list, tuple)) else [size])] if patch else []
    if any(left):
        raise InputError(
            f"Patches of {patch} do not fit into {size} pixels: the last {max(left)} rows or columns would not be "
            "seen; choose a patch_size that divides img_size."
        )


def train_half_brain(args: Arguments, train, validation) -> None:
    """The three stages, each from what the one before has left; stages that ended are not repeated."""
    config = {name: getattr(args, name) for name in ("dropout", "hidden_head", "num_pools", "pooling")}
    config |= {"hidden_sizes": WIDTHS[: args.num_layers], "num_channels": train.features["pixel_values"].shape[-3]}
    stages = list(zip(HALF_BRAIN, args.stage_learning_rates, args.stage_epochs))
    if args.backbone == "whole_brain":  # no halves to begin with: its heads learn from the first step on
        stages = [(HALF_BRAIN[-1], args.stage_learning_rates[0], sum(args.stage_epochs))]
        config["whole_brain"] = True
    output, before = Path(args.output_dir), None
    scale = 1 if args.epochs is None else args.epochs / sum(args.stage_epochs)
    for (stage, _), rate, epochs in stages:
        folder = output if stage == "fine_tuned" else output / stage
        fused = "halves" if stage == "halves" else "fused"
        if before is None:
            model = LesionClassifier(LesionClassifierConfig(stage=fused, **config))
        else:
            model = LesionClassifier.from_pretrained(before, stage=fused)
        before = folder
        last = stage == "fine_tuned"
        if args.resume_from_checkpoint is not None and is_trained(folder):
            if last and PartialState(cpu=args.cpu).is_main_process:
                push_trained(args)  # which may be what was interrupted
            continue
        stage_args = dataclasses.replace(
            args,
            output_dir=str(folder),
            learning_rate=rate,
            max_steps=steps(args, len(train), epochs * scale),
        )
        frozen = ("backbone",) if stage == "heads" else ()
        fit_classifier(model, train, validation, stage_args, frozen, push=last)


if __name__ == "__main__":
    run_script(main)
