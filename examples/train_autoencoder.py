"""Train the autoencoder in whose latent space counterfactuals are searched (thesis Sec. 5.5.3).

accelerate launch examples/train_autoencoder.py --dataset data/brats_slices --output_dir out/autoencoder

Three ResNet blocks with 3x3 filters in the encoder and in the decoder, on all slices, healthy or not; the author's
code trains on the healthy ones alone (`--healthy_only`). The thesis prints no optimiser for it: Adam 1e-3 with a
cosine is our choice, and so are the widths and steps. `--preset demo` is the shipped checkpoint.

What the maps can show is limited by the side of the latent code: the default strides leave 32 x 32 of 256 x 256
pixels. Take smaller ones for smaller slices: of 48 x 48 pixels, `--strides 2 1 1` leaves 24 x 24, which showed lesions
that 6 x 6 missed (docs/results.md).
"""

from dataclasses import dataclass

import torch

from difffuse_hf import ResNetAutoencoder
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import TrainingArguments, option, parse_arguments
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import reconstruction_loss
from difffuse_hf.training.slices import augmented_images, load_split

RECIPE = {
    "max_steps": 30_000,
    "batch_size": 32,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
}
DEMO = {
    "channels": [16, 32, 64],
    "strides": [2, 2, 1],
    "intensity_augmentation": 0.2,
    "mixed_precision": "auto",
    "max_steps": 2000,
    "batch_size": 16,
    "warmup_steps": 100,
    "ema_decay": 0.99,
    "validation_steps": 250,
    "checkpointing_steps": 500,
}


@dataclass(kw_only=True)
class AutoencoderArguments(TrainingArguments):
    channels: list[int] = option([64, 128, 256], "Widths of the three blocks.")
    strides: list[int] = option([2, 2, 2], "Downsampling of the three blocks.")
    latent_channels: int | None = option(None, "Channels of the latent map; the last width by default.")
    healthy_only: bool = option(False, "Train on slices without a lesion only, as the author's code does.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(AutoencoderArguments, {"thesis": RECIPE, "demo": DEMO}, argv)
    torch.manual_seed(args.seed)
    train, validation = load_split(args, "train", healthy_only=args.healthy_only), load_split(args, "validation")
    model = ResNetAutoencoder(
        in_channels=train.features["image"].shape[-3],
        channels=tuple(args.channels),
        strides=tuple(args.strides),
        latent_channels=args.latent_channels,
    )

    def single_slices(images):
        """The slices (N, C, H, W) of a batch of slices or of scans (B, S, C, H, W)."""
        return images.flatten(0, 1) if images.ndim == 5 else images

    def compute_loss(model, batch, generator):
        return reconstruction_loss(model, single_slices(augmented_images(args, batch)))

    def validate(model, batches):
        losses = [reconstruction_loss(model, single_slices(batch["image"])) for batch in batches]
        return {"loss": torch.stack(losses).mean().item()}

    Trainer(model, train, compute_loss, args, validation, validate).fit()


if __name__ == "__main__":
    run_script(main)
