"""What a training script can be told on its command line, and what that means for the optimiser."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import HfArgumentParser


def option(default, text: str):
    """A field of an arguments class with the help text that `--help` prints."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class LoopArguments:
    """What every training script can be told; a script adds its own fields in a subclass."""

    dataset: str = field(metadata={"help": "Saved slices, Parquet folder, raw BraTS 2021 folder, or Hub name."})
    output_dir: str = field(metadata={"help": "Folder for checkpoints, logs and the trained model."})
    preset: Literal["thesis", "demo"] = option("thesis", "Named set of defaults; flags given explicitly win.")
    image_size: int | None = option(None, "Height and width of slices read from a raw folder.")
    pixel_spacing_mm: float | None = option(None, "Pixel size of slices read from a raw folder.")
    seed: int = option(0, "Seed of the weights, the order of the slices and all noise.")
    max_steps: int = option(60_000, "Optimiser steps.")
    batch_size: int = option(10, "Slices in a forward pass, on each process.")
    gradient_accumulation_steps: int = option(1, "Forward passes in an optimiser step.")
    optimizer: Literal["adam", "adamw", "amsgrad", "rmsprop"] = option(
        "adamw", "Adam with coupled or decoupled weight decay, AMSGrad (coupled), or RMSProp."
    )
    adam_betas: list[float] = option([0.9, 0.999], "Decay of Adam's averages of the gradient and of its square.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    weight_decay: float = option(0.0, "Weight decay.")
    lr_scheduler: Literal["constant", "cosine"] = option("constant", "Learning rate after the warm-up.")
    cosine_steps: int = option(0, "Steps in which the cosine falls; it rises again in as many. 0 = all steps.")
    warmup_steps: int = option(0, "Steps over which the learning rate rises linearly.")
    max_grad_norm: float = option(0.0, "Clip the gradient to this norm; 0 = off.")
    ema_decay: float = option(0.0, "Decay of the averaged weights, which are the ones validated and saved; 0 = off.")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = option(None, "Left out, what `accelerate launch` says.")
    cpu: bool = option(False, "Train on the CPU even where there is a GPU; needed for several CPU processes.")
    num_workers: int = option(0, "Processes that read slices.")
    checkpointing_steps: int = option(1000, "Steps between checkpoints; 0 = none but on Ctrl-C.")
    checkpoints_total_limit: int = option(2, "Checkpoints kept; the oldest go first.")
    resume_from_checkpoint: str | None = option(None, "`latest`, or the folder of a checkpoint.")
    validation_steps: int = option(1000, "Steps between validations; 0 = none.")
    validation_samples: int = option(1024, "Validation slices used, evenly spaced over the split.")
    patience: int = option(0, "Validations without a lower loss before stopping; the best weights are kept. 0 = off.")
    report_to: str = option("tensorboard", "`tensorboard`, `trackio`, another tracker of accelerate, or `none`.")
    log_every: int = option(10, "Steps between lines of the log.")
    push_to_hub: str | None = option(None, "Push the trained model to this Hub repository (private if new).")


def parse_arguments(arguments_class: type, presets: dict[str, dict], argv: list[str] | None = None):
    """Command line to an instance of `arguments_class`: flags, over the preset's values, over the defaults."""
    parser = HfArgumentParser(arguments_class, allow_abbrev=False)
    command = sys.argv[1:] if argv is None else argv
    asked = HfArgumentParser(arguments_class, allow_abbrev=False, add_help=False)
    for action in asked._actions:
        action.required = False
    preset = asked.parse_known_args(command)[0].preset
    parser.set_defaults(**presets.get(preset, {}))
    return parser.parse_args_into_dataclasses(command, look_for_args_file=False)[0]


def make_optimizer(parameters: Sequence[torch.nn.Parameter], args: LoopArguments) -> torch.optim.Optimizer:
    """The optimiser that `args.optimizer` names."""
    options = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    if args.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, **options)
    options["betas"] = tuple(args.adam_betas)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.Adam(parameters, amsgrad=args.optimizer == "amsgrad", **options)


def learning_rate_factor(step: int, args: LoopArguments) -> float:
    """Factor on the learning rate in step `step`, counted from 0: linear warm-up, then constant or a cosine.

    The cosine falls to 0 at the last step, or over and over again with `cosine_steps`, as PyTorch's with T_max does.
    """
    warmup = min(1.0, (step + 1) / (args.warmup_steps + 1))
    if args.lr_scheduler == "constant":
        return warmup
    progress = max(0, step - args.warmup_steps) / (args.cosine_steps or max(1, args.max_steps - args.warmup_steps))
    return warmup * 0.5 * (1 + math.cos(math.pi * progress))
