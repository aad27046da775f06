"""Train the denoiser of Dif-fuse on healthy slices (thesis Sec. 6.2).

accelerate launch examples/train_diffusion.py --dataset data/brats_slices --output_dir out/diffusion

Defaults are the thesis's recipe: 60,000 iterations of 10 slices, AdamW 1e-4 (0.9, 0.999) with weight decay 0.05, EMA
0.99, linear betas 1e-4 to 0.02, T = 1000, the 138 M-parameter U-Net. `--preset demo` is the shipped checkpoint.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from difffuse_hf import DifFuseScheduler, make_healthy_unet
from difffuse_hf.checkpoints import write_model
from difffuse_hf.data.slices import augment, augment_uniforms, load_slices
from difffuse_hf.losses import diffusion_loss
from difffuse_hf.sample_stream import sample_uniform
from difffuse_hf.training import (
    LoopArguments,
    fit,
    option,
    parse_arguments,
    run_script,
)

DEMO = {
    "block_out_channels": [32, 48, 96, 128],
    "layers_per_block": 1,
    "attention_levels": 1,
    "norm_num_groups": 8,
    "max_timestep": 500,  # the demo model is asked to repaint from K = 500
    "intensity_augmentation": 0.1,
    "mixed_precision": "bf16",
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


@dataclass(kw_only=True)
class DiffusionArguments(LoopArguments):
    block_out_channels: list[int] = option([128, 128, 256, 256, 512, 512], "Widths of the U-Net's levels.")
    layers_per_block: int = option(2, "ResNet blocks on a level.")
    attention_levels: int = option(3, "Levels with self-attention, counted from the deepest.")
    norm_num_groups: int = option(32, "Groups of every group norm.")
    max_timestep: int | None = option(None, "Draw timesteps below this one only; all of them by default.")
    flip: bool = option(True, "Random left-right flips.")
    intensity_augmentation: float = option(0.0, "Random gamma and scale per channel, on a log scale.")
    weight_decay: float = option(0.05, "Weight decay.")
    ema_decay: float = option(0.99, "Decay of the averaged weights, which are the ones validated and saved; 0 = off.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DiffusionArguments, {"demo": DEMO}, argv)
    torch.manual_seed(args.seed)
    options = {"image_size": args.image_size, "pixel_spacing_mm": args.pixel_spacing_mm}
    train = load_slices(args.dataset, "train", healthy_only=True, **options)
    validation = load_slices(args.dataset, "validation", healthy_only=True, **options)

    channels, height, width = train.features["image"].shape
    unet = make_healthy_unet(
        in_channels=channels,
        sample_size=height if height == width else (height, width),
        block_out_channels=tuple(args.block_out_channels),
        layers_per_block=args.layers_per_block,
        attention_levels=args.attention_levels,
        norm_num_groups=args.norm_num_groups,
    )
    scheduler = DifFuseScheduler()  # linear betas 1e-4 to 0.02, T = 1000

    def compute_loss(unet, batch, generator):
        uniforms = sample_uniform(args.seed, batch["position"], augment_uniforms(batch["image"].shape[1]))
        image = augment(batch["image"], flip=args.flip, intensity=args.intensity_augmentation, uniforms=uniforms)
        return diffusion_loss(unet, image, scheduler.alphas_cumprod, generator, args.max_timestep)

    def validate(unet, batches):
        generator = torch.Generator(unet.device).manual_seed(0)  # the same levels and noise every time
        losses = [
            diffusion_loss(unet, batch["image"], scheduler.alphas_cumprod, generator, args.max_timestep)
            for batch in batches
        ]
        return {"loss": torch.stack(losses).mean().item()}

    def save(unet):
        write_model(Path(args.output_dir) / "unet", unet.save_pretrained)
        write_model(Path(args.output_dir) / "scheduler", scheduler.save_pretrained)

    fit(unet, train, compute_loss, args, validation_dataset=validation, validate=validate, save=save)


if __name__ == "__main__":
    run_script(main)
