"""Train f-AnoGAN (Schlegl 2019) on healthy slices: a WGAN-GP, then the encoder into its latent space.

accelerate launch examples/train_fanogan.py --dataset data/brats_slices --output_dir out/fanogan

Defaults are the thesis's 500,000 iterations of each stage with the published settings: batches of 64 slices resized to
64 x 64, an iteration of the first stage being five steps of the critic and one of the generator, Adam 1e-4 (0, 0.9),
penalty 10; then the encoder against the fixed generator and critic, RMSProp 5e-5, kappa 1. The flips are ours.

The first stage leaves its checkpoints and history in OUTPUT_DIR/gan and counts every step of either player. Its log
has the mean over both players' losses, its validation loss is the estimate of the Wasserstein distance, mean D(x) -
mean D(G(z)). `--patience` is for the second stage.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from difffuse_hf import FAnoGAN
from difffuse_hf.errors import run_script
from difffuse_hf.io.files import write_into
from difffuse_hf.training.arguments import Optimizer, TrainingArguments, option, parse_arguments
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import critic_loss, izi_f_losses
from difffuse_hf.training.slices import augmented_images, load_split

RECIPE = {"max_steps": 500_000, "batch_size": 64, "optimizer": "adam", "adam_betas": [0.0, 0.9]}


@dataclass(kw_only=True)
class FAnoGANArguments(TrainingArguments):
    sample_size: int = option(64, "Side of the slices the networks see, a multiple of 16.")
    width: int = option(64, "Width of the finest level.")
    latent_size: int = option(128, "Length of the latent vector.")
    critic_steps: int = option(5, "Steps of the critic for each step of the generator.")
    penalty_weight: float = option(10.0, "Weight of the gradient penalty.")
    kappa: float = option(1.0, "Weight of the critic's features in the encoder's loss.")
    encoder_steps: int | None = option(None, "Iterations of the second stage; --max_steps by default.")
    encoder_optimizer: Optimizer = option("rmsprop", "Of the second stage; --optimizer is of the first.")
    encoder_learning_rate: float = option(5e-5, "Of the second stage.")


class Game(nn.Module):
    """The two players of a WGAN-GP as one module that gives the loss of the one whose turn it is.

    Only that player gets gradients, and Adam leaves parameters without a gradient and their averages alone: one
    optimiser over both does what one for each would do.
    """

    def __init__(self, model: FAnoGAN, penalty_weight: float):
        super().__init__()
        self.model, self.penalty_weight = model, penalty_weight

    def forward(self, image: torch.Tensor, turn_of_critic: bool, generator: torch.Generator) -> torch.Tensor:
        real = self.model.to_sample(image)
        latent = torch.randn(len(real), self.model.config.latent_size, generator=generator, device=real.device)
        if turn_of_critic:
            with torch.no_grad():
                fake = self.model.generator(latent)
            return critic_loss(self.model.critic, real, fake, generator, self.penalty_weight)
        critic = {name: value.detach() for name, value in self.model.critic.named_parameters()}
        return -torch.func.functional_call(self.model.critic, critic, self.model.generator(latent)).mean()


class EncoderLoss(nn.Module):
    """The loss of the encoder as a module, so that it may run on several processes."""

    def __init__(self, model: FAnoGAN, kappa: float):
        super().__init__()
        self.model, self.kappa = model, kappa

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return izi_f_losses(self.model, self.model.to_sample(image), self.kappa).mean()


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(FAnoGANArguments, {"thesis": RECIPE}, argv)
    torch.manual_seed(args.seed)
    train, validation = (load_split(args, name, healthy_only=True) for name in ("train", "validation"))
    model = FAnoGAN(train.features["image"].shape[0], args.sample_size, args.width, args.latent_size)
    gan = Path(args.output_dir) / "gan"
    if args.resume_from_checkpoint is None or not (gan / "config.json").exists():
        train_players(model, train, validation, args, gan)
    train_encoder(FAnoGAN.from_pretrained(gan), train, validation, args)


def train_players(model, train, validation, args, folder):
    model.encoder.requires_grad_(False)
    iteration = args.critic_steps + 1
    slices_in_a_step = args.batch_size * args.gradient_accumulation_steps * int(os.environ.get("WORLD_SIZE", 1))

    def compute_loss(game, batch, generator):
        step = int(batch["position"][0]) // slices_in_a_step
        return game(augmented_images(args, batch), step % iteration < args.critic_steps, generator)

    def validate(game, batches):
        generator = torch.Generator(game.model.device).manual_seed(0)  # the same latents every time
        scores = []
        for batch in batches:
            real = game.model.to_sample(batch["image"])
            latent = torch.randn(len(real), args.latent_size, generator=generator, device=real.device)
            scores.append(game.model.critic(real).mean() - game.model.critic(game.model.generator(latent)).mean())
        return {"loss": torch.stack(scores).mean().item()}

    stage = dataclasses.replace(args, output_dir=str(folder), max_steps=args.max_steps * iteration, patience=0)
    Trainer(
        Game(model, args.penalty_weight),
        train,
        compute_loss,
        stage,
        validation,
        validate,
        save=lambda game: write_into(folder, game.model.save_pretrained),
        find_unused_parameters=True,
        push=False,
    ).fit()


def train_encoder(model, train, validation, args):
    model.requires_grad_(False)
    model.encoder.requires_grad_(True)

    def validate(loss, batches):
        return {"loss": torch.stack([loss(batch["image"]) for batch in batches]).mean().item()}

    stage = dataclasses.replace(
        args,
        max_steps=args.max_steps if args.encoder_steps is None else args.encoder_steps,
        optimizer=args.encoder_optimizer,
        learning_rate=args.encoder_learning_rate,
    )
    Trainer(
        EncoderLoss(model, args.kappa),
        train,
        lambda loss, batch, generator: loss(augmented_images(args, batch)),
        stage,
        validation,
        validate,
        save=lambda loss: write_into(args.output_dir, loss.model.save_pretrained),
    ).fit()


if __name__ == "__main__":
    run_script(main)
