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
from difffuse_hf.data.slices import augment, augment_uniforms, load_slices
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import LoopArguments, option, parse_arguments
from difffuse_hf.training.checkpoints import write_model
from difffuse_hf.training.loop import fit
from difffuse_hf.training.losses import critic_loss, izi_f_losses
from difffuse_hf.training.sampler import sample_uniform


@dataclass(kw_only=True)
class FAnoGANArguments(LoopArguments):
    sample_size: int = option(64, "Side of the slices the networks see, a multiple of 16.")
    width: int = option(64, "Width of the finest level.")
    latent_size: int = option(128, "Length of the latent vector.")
    critic_steps: int = option(5, "Steps of the critic for each step of the generator.")
    penalty_weight: float = option(10.0, "Weight of the gradient penalty.")
    kappa: float = option(1.0, "Weight of the critic's features in the encoder's loss.")
    flip: bool = option(True, "Random left-right flips.")
    max_steps: int = option(500_000, "Iterations of each stage; in the first, one takes critic_steps + 1 steps.")
    encoder_steps: int | None = option(None, "Iterations of the second stage, if not as many as of the first.")
    batch_size: int = option(64, "Slices in a forward pass, on each process.")
    optimizer: str = option("adam", "Of the first stage: `adam`, `adamw`, `amsgrad` or `rmsprop`.")
    adam_betas: list[float] = option([0.0, 0.9], "Decay of Adam's averages of the gradient and of its square.")
    encoder_optimizer: str = option("rmsprop", "Of the second stage.")
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
    args = parse_arguments(FAnoGANArguments, {}, argv)
    torch.manual_seed(args.seed)
    options = {"image_size": args.image_size, "pixel_spacing_mm": args.pixel_spacing_mm}
    train = load_slices(args.dataset, "train", healthy_only=True, **options)
    validation = load_slices(args.dataset, "validation", healthy_only=True, **options)
    channels = train.features["image"].shape[0]
    model = FAnoGAN(channels, args.sample_size, args.width, args.latent_size)
    gan = Path(args.output_dir) / "gan"
    if args.resume_from_checkpoint is None or not (gan / "config.json").exists():
        train_players(model, train, validation, args, gan)
    train_encoder(FAnoGAN.from_pretrained(gan), train, validation, args)


def flipped(args, batch):
    uniforms = sample_uniform(args.seed, batch["position"], augment_uniforms(batch["image"].shape[1]))
    return augment(batch["image"], flip=args.flip, uniforms=uniforms)


def train_players(model, train, validation, args, folder):
    model.encoder.requires_grad_(False)
    iteration = args.critic_steps + 1
    slices_in_a_step = args.batch_size * args.gradient_accumulation_steps * int(os.environ.get("WORLD_SIZE", 1))

    def compute_loss(game, batch, generator):
        step = int(batch["position"][0]) // slices_in_a_step
        return game(flipped(args, batch), step % iteration < args.critic_steps, generator)

    def validate(game, batches):
        generator = torch.Generator(game.model.device).manual_seed(0)  # the same latents every time
        scores = []
        for batch in batches:
            real = game.model.to_sample(batch["image"])
            latent = torch.randn(len(real), args.latent_size, generator=generator, device=real.device)
            scores.append(game.model.critic(real).mean() - game.model.critic(game.model.generator(latent)).mean())
        return {"loss": torch.stack(scores).mean().item()}

    stage = dataclasses.replace(
        args, output_dir=str(folder), max_steps=args.max_steps * iteration, patience=0, push_to_hub=None
    )
    fit(
        Game(model, args.penalty_weight),
        train,
        compute_loss,
        stage,
        validation_dataset=validation,
        validate=validate,
        save=lambda game: write_model(folder, game.model.save_pretrained),
        find_unused_parameters=True,
    )


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
    fit(
        EncoderLoss(model, args.kappa),
        train,
        lambda loss, batch, generator: loss(flipped(args, batch)),
        stage,
        validation_dataset=validation,
        validate=validate,
        save=lambda loss: write_model(args.output_dir, loss.model.save_pretrained),
    )


if __name__ == "__main__":
    run_script(main)
