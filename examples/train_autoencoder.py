"""Train the autoencoder in whose latent space counterfactuals are searched (thesis Sec. 5.3).

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
from difffuse_hf.data.slices import augment, augment_uniforms, load_slices
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import LoopArguments, option, parse_arguments
from difffuse_hf.training.checkpoints import write_model
from difffuse_hf.training.loop import fit
from difffuse_hf.training.losses import reconstruction_loss
from difffuse_hf.training.sampler import sample_uniform

DEMO = {
    "channels": [16, 32, 64],
    "strides": [2, 2, 1],
    "intensity_augmentation": 0.2,
    "mixed_precision": "bf16",
    "max_steps": 2000,
    "batch_size": 16,
    "warmup_steps": 100,
    "ema_decay": 0.99,
    "validation_steps": 250,
    "checkpointing_steps": 500,
}


@dataclass(kw_only=True)
class AutoencoderArguments(LoopArguments):
    channels: list[int] = option([64, 128, 256], "Widths of the three blocks.")
    strides: list[int] = option([2, 2, 2], "Downsampling of the three blocks.")
    latent_channels: int | None = option(None, "Channels of the latent map; the last width by default.")
    healthy_only: bool = option(False, "Train on slices without a lesion only, as the author's code does.")
    flip: bool = option(True, "Random left-right flips.")
    intensity_augmentation: float = option(0.0, "Random gamma and scale per channel, on a log scale.")
    max_steps: int = option(30_000, "Optimiser steps.")
    batch_size: int = option(32, "Slices in a forward pass, on each process.")
    optimizer: str = option("adam", "`adam` or `adamw`.")
    learning_rate: float = option(1e-3, "Peak learning rate.")
    lr_scheduler: str = option("cosine", "`constant` or `cosine`.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(AutoencoderArguments, {"demo": DEMO}, argv)
    torch.manual_seed(args.seed)
    options = {"image_size": args.image_size, "pixel_spacing_mm": args.pixel_spacing_mm}
    train = load_slices(args.dataset, "train", healthy_only=args.healthy_only, **options)
    validation = load_slices(args.dataset, "validation", **options)

    channels = train.features["image"].shape[-3]

    model = ResNetAutoencoder(
        in_channels=channels,
        channels=tuple(args.channels),
        strides=tuple(args.strides),
        latent_channels=args.latent_channels,
    )

    def single_slices(images):
        """The slices (N, C, H, W) of a batch of slices or of scans (B, S, C, H, W)."""
        return images.flatten(0, 1) if images.ndim == 5 else images

    def compute_loss(model, batch, generator):
        uniforms = sample_uniform(args.seed, batch["position"], augment_uniforms(channels))
        image = augment(batch["image"], flip=args.flip, intensity=args.intensity_augmentation, uniforms=uniforms)
        return reconstruction_loss(model, single_slices(image))

    def validate(model, batches):
        losses = [reconstruction_loss(model, single_slices(batch["image"])) for batch in batches]
        return {"loss": torch.stack(losses).mean().item()}

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
