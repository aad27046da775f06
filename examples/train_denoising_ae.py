"""Train the denoising autoencoder that Dif-fuse is compared with (Kascenas 2022) on healthy slices.

accelerate launch examples/train_denoising_ae.py --dataset data/brats_slices --output_dir out/denoising_ae

Defaults are the published recipe: 67,200 iterations of 16 slices, Adam with AMSGrad 1e-4 and weight decay 1e-5, and a
learning rate that falls along a cosine in 3,200 iterations (100 rounds of 32), rises in as many, and so on; theirs is
the same from one round to the next. They train on slices of 128 x 128 without random changes and keep the weights with
the lowest validation loss, which here takes `--patience`.
"""

from dataclasses import dataclass

import torch

from difffuse_hf import DenoisingAutoencoder
from difffuse_hf.data.slices import augment, augment_uniforms, load_slices
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import LoopArguments, option, parse_arguments
from difffuse_hf.training.checkpoints import write_model
from difffuse_hf.training.loop import fit
from difffuse_hf.training.losses import denoising_loss
from difffuse_hf.training.sampler import sample_uniform


@dataclass(kw_only=True)
class DenoisingArguments(LoopArguments):
    channels: list[int] = option([64, 128, 256, 512], "Widths of the U-Net's levels.")
    noise_std: float = option(0.2, "Standard deviation of the noise on its coarse grid.")
    noise_resolution: int = option(16, "Points of that grid along each side.")
    flip: bool = option(False, "Random left-right flips.")
    intensity_augmentation: float = option(0.0, "Random gamma and scale per channel, on a log scale.")
    max_steps: int = option(67_200, "Optimiser steps.")
    batch_size: int = option(16, "Slices in a forward pass, on each process.")
    optimizer: str = option("amsgrad", "`adam`, `adamw`, `amsgrad` or `rmsprop`.")
    weight_decay: float = option(1e-5, "Weight decay.")
    lr_scheduler: str = option("cosine", "`constant` or `cosine`.")
    cosine_steps: int = option(3200, "Steps in which the cosine falls; it rises again in as many. 0 = all steps.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DenoisingArguments, {}, argv)
    torch.manual_seed(args.seed)
    options = {"image_size": args.image_size, "pixel_spacing_mm": args.pixel_spacing_mm}
    train = load_slices(args.dataset, "train", healthy_only=True, **options)
    validation = load_slices(args.dataset, "validation", healthy_only=True, **options)
    channels = train.features["image"].shape[0]
    model = DenoisingAutoencoder(in_channels=channels, channels=tuple(args.channels))

    def loss_of(model, image, generator):
        return denoising_loss(model, image, generator, args.noise_std, args.noise_resolution)

    def compute_loss(model, batch, generator):
        uniforms = sample_uniform(args.seed, batch["position"], augment_uniforms(channels))
        image = augment(batch["image"], flip=args.flip, intensity=args.intensity_augmentation, uniforms=uniforms)
        return loss_of(model, image, generator)

    def validate(model, batches):
        generator = torch.Generator(model.device).manual_seed(0)  # the same noise every time
        return {"loss": torch.stack([loss_of(model, batch["image"], generator) for batch in batches]).mean().item()}

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
