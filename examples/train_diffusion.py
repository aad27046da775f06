"""Train the denoiser of Dif-fuse on healthy slices (thesis Sec. 6.2).

accelerate launch examples/train_diffusion.py --dataset data/brats_slices --output_dir out/diffusion

Defaults are the thesis's recipe: 60,000 iterations of 10 slices, AdamW 1e-4 (0.9, 0.999) with weight decay 0.05, EMA
0.99, linear betas 1e-4 to 0.02, T = 1000, the 138 M-parameter U-Net. `--preset demo` is the shipped checkpoint.

    --learned_variance                          the loss of Nichol and Dhariwal (Sec. 6.2), of which the mean is used
    --class_conditional --label_dropout 0.15    for classifier-free guidance: lesions too, the last class is "unknown"
    --noise simplex --max_timestep 800          AnoDDPM
    --prediction_type v_prediction --snr_gamma 5    beyond the thesis

Every validation leaves a picture in OUTPUT/pictures: slices, what DDIM inversion and DDIM bring back, and a resampling
by DDPM from the same level. The loss is given by bands of the timestep too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from difffuse_hf import DifFuseScheduler, make_healthy_unet
from difffuse_hf.errors import run_script
from difffuse_hf.evaluation.round_trip import as_picture, round_trip
from difffuse_hf.io.files import write_into
from difffuse_hf.schedulers.simplex import simplex_noise
from difffuse_hf.training.arguments import NoiseLevelNetworkArguments, option, parse_arguments
from difffuse_hf.training.augmentation import augment_uniforms
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import diffusion_losses
from difffuse_hf.training.sampler import sample_uniform
from difffuse_hf.training.slices import augmented_images, load_split

RECIPE = {"weight_decay": 0.05, "ema_decay": 0.99}
DEMO = {
    "block_out_channels": [32, 48, 96, 128],
    "layers_per_block": 1,
    "attention_levels": 1,
    "norm_num_groups": 8,
    "max_timestep": 500,  # the demo model is asked to repaint from K = 500
    "intensity_augmentation": 0.1,
    "mixed_precision": "auto",
    "max_steps": 2600,
    "batch_size": 16,
    "learning_rate": 5e-4,
    "weight_decay": 0.0,
    "lr_scheduler": "cosine",
    "warmup_steps": 200,
    "ema_decay": 0.995,
    "max_grad_norm": 1.0,
    "validation_steps": 500,
    "validation_samples": 128,
    "checkpointing_steps": 500,
}
BANDS = 4  # of the timestep, in the validation loss


@dataclass(kw_only=True)
class DiffusionArguments(NoiseLevelNetworkArguments):
    prediction_type: Literal["epsilon", "v_prediction"] = option("epsilon", "What the network predicts.")
    patch_size: int = option(1, "Side of the squares of pixels that become channels: 2 for a quarter of the cost.")
    learned_variance: bool = option(False, "Learn the variance as well, by the hybrid loss.")
    snr_gamma: float | None = option(None, "Weigh timesteps by min-SNR with this gamma; off by default.")
    noise: Literal["gaussian", "simplex"] = option("gaussian", "`gaussian`, or `simplex` as AnoDDPM.")
    class_conditional: bool = option(False, "Tell the network the label, and train on lesions too.")
    label_dropout: float = option(0.15, "Share of the labels that are hidden from a class-conditional network.")
    picture_slices: int = option(4, "Validation slices in the picture; 0 = no picture.")
    display_steps: int = option(20, "Steps up and steps down of it.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DiffusionArguments, {"thesis": RECIPE, "demo": DEMO}, argv)
    torch.manual_seed(args.seed)
    train, validation = (load_split(args, name, not args.class_conditional) for name in ("train", "validation"))

    channels, height, width = train.features["image"].shape
    unknown = train.features["label"].num_classes if args.class_conditional else None  # the label that says nothing
    unet = make_healthy_unet(
        in_channels=channels,
        sample_size=height if height == width else (height, width),
        out_channels=channels * (2 if args.learned_variance else 1),
        num_class_embeds=None if unknown is None else unknown + 1,
        patch_size=args.patch_size,
        **args.network_options(),
    )
    scheduler = DifFuseScheduler(  # linear betas 1e-4 to 0.02, T = 1000
        prediction_type=args.prediction_type,
        variance_type="learned_range" if args.learned_variance else "fixed_small",
        max_timestep=args.max_timestep,
    )
    levels = scheduler.highest_level

    def losses_of(unet, image, timestep, labels, generator):
        if args.noise == "simplex":
            noise = simplex_noise(image.shape, timestep, generator, device=image.device)
        else:
            noise = torch.randn(image.shape, generator=generator, device=image.device)
        return diffusion_losses(
            unet, image, noise, timestep, scheduler.alphas_cumprod, labels, args.prediction_type, args.snr_gamma
        )

    def compute_loss(unet, batch, generator):
        image, labels = augmented_images(args, batch), None
        if args.class_conditional:  # decided by the number after those of `augment`
            uniforms = sample_uniform(args.seed, batch["position"], augment_uniforms(channels) + 1)
            labels = batch["label"].masked_fill(uniforms[:, -1] < args.label_dropout, unknown)
        timestep = torch.randint(levels, (len(image),), generator=generator, device=image.device)
        return losses_of(unet, image, timestep, labels, generator).mean()

    def validate(unet, batches):
        generator = torch.Generator(unet.device).manual_seed(0)  # the same levels and noise every time
        losses, bands, shown = [], [], None
        for batch in batches:
            image = batch["image"]
            timestep = torch.randint(levels, (len(image),), generator=generator, device=image.device)
            labels = batch["label"] if args.class_conditional else None
            losses.append(losses_of(unet, image, timestep, labels, generator))
            bands.append(timestep * BANDS // levels)
            shown = image[: args.picture_slices] if shown is None else shown
        losses, bands = torch.cat(losses), torch.cat(bands)
        edges = [levels * band // BANDS for band in range(BANDS + 1)]
        metrics = {"loss": losses.mean().item()}
        for band in bands.unique().tolist():
            metrics[f"loss/timesteps {edges[band]}-{edges[band + 1] - 1}"] = losses[bands == band].mean().item()
        if len(shown):
            labels = torch.zeros(len(shown), dtype=torch.long, device=shown.device) if args.class_conditional else None
            rows = round_trip(unet, scheduler, shown, levels // 2, args.display_steps, labels, generator)
            metrics |= {"reconstruction_error": (rows[1] - shown).abs().mean().item(), "round_trip": as_picture(rows)}
        return metrics

    def save(unet):
        write_into(Path(args.output_dir) / "unet", unet.save_pretrained)
        write_into(Path(args.output_dir) / "scheduler", scheduler.save_pretrained)

    Trainer(unet, train, compute_loss, args, validation, validate, save).fit()


if __name__ == "__main__":
    run_script(main)
