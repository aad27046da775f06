"""Turn a guided-diffusion checkpoint (the author's format) into the folder that train_diffusion.py would have left.

python examples/import_guided_diffusion.py results/ema_0.99_060000.pt --output_dir out/diffusion

The defaults are the author's training script: 256x256, one attention head, linear betas, T = 1000. The architecture
is read from the weights; for Wolleb's and OpenAI's networks tell the heads that they were trained with.
"""

import argparse
from pathlib import Path

from difffuse_hf import DifFuseScheduler
from difffuse_hf.errors import run_script
from difffuse_hf.io.files import write_into
from difffuse_hf.models.guided_diffusion import import_guided_diffusion


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="state dict of the U-Net, a .pt file")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--num_heads", type=int, default=1)
    parser.add_argument("--num_head_channels", type=int, default=-1, help="in place of --num_heads")
    parser.add_argument("--use_new_attention_order", action="store_true")
    parser.add_argument("--drop_learned_variance", action="store_true", help="of networks trained with learn_sigma")
    parser.add_argument("--noise_schedule", choices=["linear", "cosine"], default="linear")
    args = parser.parse_args(argv)

    unet = import_guided_diffusion(
        args.checkpoint,
        args.image_size,
        args.num_heads,
        args.num_head_channels,
        args.use_new_attention_order,
        args.drop_learned_variance,
    )
    schedule = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[args.noise_schedule]
    scheduler = DifFuseScheduler(beta_schedule=schedule)
    write_into(Path(args.output_dir) / "unet", unet.save_pretrained)
    write_into(Path(args.output_dir) / "scheduler", scheduler.save_pretrained)
    count = sum(parameter.numel() for parameter in unet.parameters())
    print(
        f"Saved {args.output_dir}: {count:,} parameters, {unet.config.in_channels} channels in, "
        f"{unet.config.out_channels} out."
    )


if __name__ == "__main__":
    run_script(main)
