"""Train the two networks of IterMask2 (Liang et al. 2024) on healthy slices, side by side.

accelerate launch examples/train_itermask.py --dataset data/brats_slices --output_dir out/itermask

Defaults are the public code's: 150,000 iterations of 32 slices, AdamW 1e-4 without weight decay or random changes, a
U-Net of five levels of 32 to 128 channels with dropout 0.1. It trains one network after the other, on one modality of
128 x 128 pixels, and tests the weights of iteration 90,000.
"""

from dataclasses import dataclass

import torch

from difffuse_hf import IterMaskNetwork
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import TrainingArguments, option, parse_arguments
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import masked_reconstruction_loss
from difffuse_hf.training.slices import augmented_images, load_split

RECIPE = {"flip": False, "max_steps": 150_000, "batch_size": 32}


@dataclass(kw_only=True)
class IterMaskArguments(TrainingArguments):
    block_out_channels: list[int] = option([32, 32, 64, 96, 128], "Widths of the levels.")
    layers_per_block: int = option(2, "ResNet blocks on a level.")
    attention_levels: int = option(3, "Levels with self-attention, counted from the deepest.")
    norm_num_groups: int = option(32, "Groups of every group norm.")
    dropout: float = option(0.1, "In the ResNet blocks.")
    radius: float = option(15.0, "Frequencies below it are left out of what guides, in cycles over the slice.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(IterMaskArguments, {"thesis": RECIPE}, argv)
    torch.manual_seed(args.seed)
    train, validation = (load_split(args, split, healthy_only=True) for split in ("train", "validation"))
    names = ("layers_per_block", "attention_levels", "norm_num_groups", "dropout", "radius")
    options = {name: getattr(args, name) for name in names}
    model = IterMaskNetwork(train.features["image"].shape[0], tuple(args.block_out_channels), **options)

    def compute_loss(model, batch, generator):
        return masked_reconstruction_loss(model, augmented_images(args, batch), generator)

    def validate(model, batches):
        generator = torch.Generator(model.device).manual_seed(0)  # the same masks and noise every time
        losses = [masked_reconstruction_loss(model, batch["image"], generator) for batch in batches]
        return {"loss": torch.stack(losses).mean().item()}

    Trainer(model, train, compute_loss, args, validation, validate).fit()


if __name__ == "__main__":
    run_script(main)
