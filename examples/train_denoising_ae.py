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
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import TrainingArguments, option, parse_arguments
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import denoising_loss
from difffuse_hf.training.slices import augmented_images, load_split

RECIPE = {
    "flip": False,
    "max_steps": 67_200,
    "batch_size": 16,
    "optimizer": "amsgrad",
    "weight_decay": 1e-5,
    "lr_scheduler": "cosine",
    "cosine_steps": 3200,
}


@dataclass(kw_only=True)
class DenoisingArguments(TrainingArguments):
    channels: list[int] = option([64, 128, 256, 512], "Widths of the U-Net's levels.")
    noise_std: float = option(0.2, "Standard deviation of the noise on its coarse grid.")
    noise_resolution: int = option(16, "Points of that grid along each side.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DenoisingArguments, {"thesis": RECIPE}, argv)
    torch.manual_seed(args.seed)
    train, validation = (load_split(args, split, healthy_only=True) for split in ("train", "validation"))
    model = DenoisingAutoencoder(in_channels=train.features["image"].shape[0], channels=tuple(args.channels))

    def loss_of(model, image, generator):
        return denoising_loss(model, image, generator, args.noise_std, args.noise_resolution)

    def compute_loss(model, batch, generator):
        return loss_of(model, augmented_images(args, batch), generator)

    def validate(model, batches):
        generator = torch.Generator(model.device).manual_seed(0)  # the same noise every time
        return {"loss": torch.stack([loss_of(model, batch["image"], generator) for batch in batches]).mean().item()}

    Trainer(model, train, compute_loss, args, validation, validate).fit()


if __name__ == "__main__":
    run_script(main)
