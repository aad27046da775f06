"""Train the classifier whose gradient guides a diffusion model, on healthy and lesion slices at all noise levels.

accelerate launch examples/train_noisy_classifier.py --dataset data/brats_slices --output_dir out/noisy_classifier

Architecture, learning rate and batch size are those of Wolleb (2022) at 256 pixels; 150,000 iterations of AdamW
without weight decay are the defaults of that code. It is trained for all T levels; guidance from level L needs no more
than L (`--max_timestep`). The flips are ours.
"""

from dataclasses import dataclass

import torch

from difffuse_hf import DifFuseScheduler, NoisyClassifier
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import NoiseLevelNetworkArguments, option, parse_arguments
from difffuse_hf.training.classifiers import class_names
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import balanced_class_weights, noisy_classification_loss
from difffuse_hf.training.slices import augmented_images, load_split

RECIPE = {"block_out_channels": [32, 32, 64, 64, 128, 128], "layers_per_block": 4, "max_steps": 150_000}


@dataclass(kw_only=True)
class NoisyClassifierArguments(NoiseLevelNetworkArguments):
    attention_head_dim: int = option(64, "Width of an attention head.")
    balance_classes: bool = option(False, "Weigh the loss by inverse class frequency.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(NoisyClassifierArguments, {"thesis": RECIPE}, argv)
    torch.manual_seed(args.seed)
    train, validation = load_split(args, "train"), load_split(args, "validation")
    channels, height, _ = train.features["image"].shape
    num_labels = len(class_names(train))
    model = NoisyClassifier(
        in_channels=channels,
        num_labels=num_labels,
        sample_size=height,
        attention_head_dim=args.attention_head_dim,
        **args.network_options(),
    )
    weights = balanced_class_weights(torch.as_tensor(train["label"]), num_labels) if args.balance_classes else None
    alphas_cumprod = DifFuseScheduler().alphas_cumprod  # linear betas 1e-4 to 0.02, T = 1000

    def loss_of(model, image, labels, generator):
        return noisy_classification_loss(
            model, image, labels, alphas_cumprod, generator, args.max_timestep, class_weights=weights
        )

    def compute_loss(model, batch, generator):
        return loss_of(model, augmented_images(args, batch), batch["label"], generator)[0]

    def validate(model, batches):
        generator = torch.Generator(model.device).manual_seed(0)  # the same levels and noise every time
        losses, right = [], []
        for batch in batches:
            loss, logits = loss_of(model, batch["image"], batch["label"], generator)
            losses.append(loss)
            right.append(logits.argmax(1) == batch["label"])
        return {"loss": torch.stack(losses).mean().item(), "accuracy": torch.cat(right).float().mean().item()}

    Trainer(model, train, compute_loss, args, validation, validate).fit()


if __name__ == "__main__":
    run_script(main)
