"""Train the slice classifier, healthy against lesion, from image-level labels (thesis Ch. 4).

accelerate launch examples/train_classifier.py --dataset data/brats_slices --output_dir out/classifier

Defaults follow the thesis's classifier recipe (Adam 1e-3, cosine, weight decay 5e-5, random left-right flips) with the
ResNet-18 of Table 4.2; the thesis counts 200 epochs, this loop steps. `--preset demo` is the shipped checkpoint.
"""

from dataclasses import dataclass

import torch
from scipy.stats import rankdata

from difffuse_hf import SliceClassifier, SliceClassifierConfig
from difffuse_hf.data.slices import augment, load_slices
from difffuse_hf.losses import balanced_class_weights, classification_loss
from difffuse_hf.training import LoopArguments, fit, option, parse_arguments, run_script, write_model

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


@dataclass(kw_only=True)
class ClassifierArguments(LoopArguments):
    backbone: str = option("resnet18", "timm model.")
    channels: list[int] | None = option(None, "Widths of the stages, for ResNets narrower than usual.")
    dropout: float = option(0.0, "Dropout before the linear head.")
    balance_classes: bool = option(False, "Weigh the loss by inverse class frequency.")
    flip: bool = option(True, "Random left-right flips.")
    intensity_augmentation: float = option(0.0, "Random gamma and scale per channel, on a log scale.")
    noise_augmentation: float = option(0.0, "Largest standard deviation of added noise.")
    shift_augmentation: int = option(0, "Largest random shift in pixels.")
    max_steps: int = option(30_000, "Optimiser steps.")
    batch_size: int = option(32, "Slices in a forward pass, on each process.")
    optimizer: str = option("adam", "`adam` or `adamw`.")
    learning_rate: float = option(1e-3, "Peak learning rate.")
    weight_decay: float = option(5e-5, "Weight decay.")
    lr_scheduler: str = option("cosine", "`constant` or `cosine`.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ClassifierArguments, {"demo": DEMO}, argv)
    torch.manual_seed(args.seed)
    options = {"image_size": args.image_size, "pixel_spacing_mm": args.pixel_spacing_mm}
    train = load_slices(args.dataset, "train", **options)
    validation = load_slices(args.dataset, "validation", **options)

    names = train.features["label"].names
    model = SliceClassifier(
        SliceClassifierConfig(
            backbone=args.backbone,
            backbone_kwargs={"channels": args.channels} if args.channels else {},
            num_channels=train.features["image"].shape[0],
            dropout=args.dropout,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )
    weights = balanced_class_weights(torch.as_tensor(train["label"]), len(names)) if args.balance_classes else None

    def compute_loss(model, batch, generator):
        image = augment(
            batch["image"],
            generator,
            flip=args.flip,
            intensity=args.intensity_augmentation,
            noise=args.noise_augmentation,
            shift=args.shift_augmentation,
        )
        return classification_loss(model(image).logits, batch["label"], weights)

    def validate(model, batches):
        pairs = [(model(batch["image"]).logits.float(), batch["label"]) for batch in batches]
        logits, labels = (torch.cat(parts).cpu() for parts in zip(*pairs))
        metrics = {
            "loss": classification_loss(logits, labels, weights).item(),
            "accuracy": (logits.argmax(1) == labels).float().mean().item(),
        }
        lesions = (labels > 0).sum().item()
        if 0 < lesions < len(labels):  # area under the ROC curve, from the ranks of the slices with a lesion
            ranks = rankdata(1 - logits.softmax(1)[:, 0])[labels > 0]
            metrics["auc"] = float(ranks.sum() - lesions * (lesions + 1) / 2) / (lesions * (len(labels) - lesions))
        return metrics

    fit(
        model,
        train,
        compute_loss,
        args,
        validation_dataset=validation,
        validate=validate,
        save=lambda model: write_model(args.output_dir, model.save_pretrained),
    )


if __name__ == "__main__":
    run_script(main)
