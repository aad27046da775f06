"""What a training leaves in its output folder and sends to the Hub, beside the checkpoints."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import InputError
from ..io.files import write_into, write_whole
from ..io.hub import HUB_ERRORS, push_folder, refuse_public
from .arguments import TrainingArguments
from .run_log import DURATION


def prepare_output(output_dir: str) -> None:
    """Make the folder, and say before hours of training that nothing can be written there."""
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        probe = Path(output_dir) / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {output_dir}: {error.strerror}; choose another --output_dir.") from None


def saver_of(model: Any, output_dir: str) -> Callable[[Any], object] | None:
    """What saves a model into the folder; None for one without `save_pretrained`."""
    return (lambda kept: write_into(output_dir, kept.save_pretrained)) if hasattr(model, "save_pretrained") else None


def show_pictures(pictures: Mapping[str, torch.Tensor], step: int, output_dir: str, trackers: list) -> None:
    """Pictures (H, W) in [0, 1] as files in `output_dir` and in the trackers that take images."""
    for name, picture in pictures.items():
        grey = (picture.clamp(0, 1) * 255).round().byte().cpu().numpy()
        folder = Path(output_dir, "pictures")
        folder.mkdir(exist_ok=True)
        image = Image.fromarray(grey)
        write_whole(folder / f"{name}-{step:06d}.png", partial(image.save, format="PNG"))
        for tracker in trackers:
            if tracker.name in ("tensorboard", "wandb"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({f"validation/{name}": grey[None, ..., None]}, step=step, **layout)


def refuse_public_early(args: TrainingArguments) -> None:
    """Say before hours of training what the push would say after them; where the Hub is out of reach, it is left."""
    if args.push_to_hub is None or args.public or "/" not in args.push_to_hub or int(os.environ.get("RANK", 0)):
        return
    try:
        refuse_public(args.push_to_hub)
    except HUB_ERRORS:
        pass


def push_trained(args: TrainingArguments) -> None:
    """Push the trained model in `args.output_dir`, without the checkpoints and logs beside it, to where `args` say."""
    if args.push_to_hub is not None:
        push_folder(
            args.output_dir,
            args.push_to_hub,
            public=args.public,
            allow_patterns=["*.safetensors", "*.json", "*.md"],
            ignore_patterns=["checkpoint-*/*", "logs/*", DURATION],
            commit_message="Trained with difffuse_hf",
        )
