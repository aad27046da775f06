"""What a training script can be told on its command line, and what that means for the optimiser."""

import json
import math
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from transformers import HfArgumentParser

from ..errors import InputError, require_choice
from ..models.precision import fastest_dtype

TRACKERS = ("none", *(tracker.value for tracker in LoggerType))
Optimizer = Literal["adam", "adamw", "amsgrad", "rmsprop"]


def option(default: Any, text: str, choices: Iterable[str] = ()) -> Any:
    """A field of an arguments class with the help text that `--help` prints.

    Args:
        choices (`str`s): what the field may be, where its type is no `Literal` that says so.
    """
    metadata = {"help": text, **({"choices": list(choices)} if choices else {})}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class TrainingArguments:
    """What every training script can be told; a script adds its own fields in a subclass.

    Raises:
        InputError: a field with choices is none of them, or the package of the tracker is not installed.
    """

    dataset: str = field(metadata={"help": "Saved slices, Parquet folder, raw BraTS 2021 folder, or Hub name."})
    output_dir: str = field(metadata={"help": "Folder for checkpoints, logs and the trained model."})
    preset: Literal["thesis", "demo"] = option("thesis", "Named set of defaults; flags given explicitly win.")
    image_size: int | None = option(None, "Height and width of slices read from a raw folder.")
    pixel_spacing_mm: float | None = option(None, "Pixel size of slices read from a raw folder.")
    flip: bool = option(True, "Random left-right flips; classes that name a side change with them.")
    intensity_augmentation: float = option(0.0, "Random gamma and scale per channel, on a log scale.")
    modality_dropout: float = option(
        0.0, "Share of the slices that lack modalities (0 there): half of them keep the first, half a random set."
    )
    initial_weights: str | None = option(None, "Folder of a trained network of the same shape to start from.")
    seed: int = option(0, "Seed of the weights, the order of the slices and all noise.")
    max_steps: int = option(60_000, "Optimiser steps.")
    batch_size: int = option(10, "Slices in a forward pass, on each process.")
    gradient_accumulation_steps: int = option(1, "Forward passes in an optimiser step.")
    optimizer: Optimizer = option(
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
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] | None = option(
        None, "auto: bf16 where the device computes in it. Left out, what `accelerate launch` says."
    )
    cpu: bool = option(False, "Train on the CPU even where there is a GPU; needed for several CPU processes.")
    num_workers: int = option(0, "Processes that read slices, as of torch's DataLoader.")
    checkpointing_steps: int = option(1000, "Steps between checkpoints; 0 = none but on Ctrl-C.")
    checkpoints_total_limit: int = option(2, "Checkpoints kept; the oldest go first.")
    resume_from_checkpoint: str | None = option(None, "`latest`, or the folder of a checkpoint.")
    validation_steps: int = option(1000, "Steps between validations; 0 = none.")
    validation_samples: int = option(1024, "Validation slices used, evenly spaced over the split.")
    patience: int = option(0, "Validations without a lower loss before stopping; the best weights are kept. 0 = off.")
    report_to: str = option("tensorboard", "A tracker of accelerate, or `none`.", choices=TRACKERS)
    log_every: int = option(10, "Steps between lines of the log.")
    push_to_hub: str | None = option(None, "Push the trained model to this Hub repository, a private one; alone, to "
                                     "--hub_model_id.")  # fmt: skip
    hub_model_id: str | None = option(None, "Of --push_to_hub, as diffusers' scripts have it; else the output "
                                      "folder's name, with your account.")  # fmt: skip
    public: bool = option(False, "Let --push_to_hub make or use a public repository.")

    def __post_init__(self):
        hints = get_type_hints(type(self))
        for name, one in type(self).__dataclass_fields__.items():
            value, allowed = getattr(self, name), one.metadata.get("choices") or _literals(hints[name])
            if allowed and not (value is None and NoneType in get_args(hints[name])):
                require_choice(name, value, allowed)
        _require_tracker(self.report_to)
        if self.hub_model_id and self.push_to_hub not in ("", self.hub_model_id):
            raise InputError("--hub_model_id goes with --push_to_hub alone, which then pushes there.")
        if self.push_to_hub == "":
            self.push_to_hub = self.hub_model_id or Path(self.output_dir).resolve().name


@dataclass(kw_only=True)
class NoiseLevelNetworkArguments(TrainingArguments):
    """Of a network that sees slices at a noise level: the U-Net's first half at least."""

    block_out_channels: list[int] = option([128, 128, 256, 256, 512, 512], "Widths of the levels.")
    layers_per_block: int = option(2, "ResNet blocks on a level.")
    attention_levels: int = option(3, "Levels with self-attention, counted from the deepest.")
    norm_num_groups: int = option(32, "Groups of every group norm.")
    max_timestep: int | None = option(None, "Draw timesteps below this one only; all of them by default.")

    def network_options(self) -> dict[str, Any]:
        """What the network's constructor is told of these."""
        return {
            "block_out_channels": tuple(self.block_out_channels),
            "layers_per_block": self.layers_per_block,
            "attention_levels": self.attention_levels,
            "norm_num_groups": self.norm_num_groups,
        }


Arguments = TypeVar("Arguments", bound=TrainingArguments)


def _require_tracker(report_to: str) -> None:
    """`InputError` where accelerate would leave the tracker out without a word, because its package is missing."""
    installed = [tracker.value for tracker in get_available_trackers()]
    if report_to not in ("none", *installed) and not (report_to == "all" and installed):
        package = "tensorboard" if report_to == "all" else report_to
        raise InputError(
            f"`report_to` is {report_to}, but the package {package} is not installed: pip install {package}, "
            f"or choose one of {', '.join(['none', *installed])}."
        )


def _literals(hint: Any) -> tuple:
    """The values of `Literal[...]`, alone or in a union with other types."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(value for member in get_args(hint) for value in _literals(member))


def parse_arguments(
    arguments_class: type[Arguments],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    argv: list[str] | None = None,
) -> Arguments:
    """Command line to an instance of `arguments_class`: flags, over the preset's values, over the defaults.

    Bad usage ends the program with exit code 2 and one sentence, as with every `argparse` parser.

    Args:
        presets: values of fields by the name of a preset. Those of "thesis" hold in the others too, unless they say
            otherwise.
    """
    presets = {"thesis": {}, **(presets or {})}
    usage = "%(prog)s --dataset DATASET --output_dir OUTPUT_DIR [further flags, see --help]"
    parser = HfArgumentParser(cast(Any, arguments_class), allow_abbrev=False, usage=usage)
    for action in parser._actions:  # a flag with a value or, as those of diffusers' scripts, without one
        if action.dest == "push_to_hub":
            action.nargs, action.const = "?", ""
    first = ArgumentParser(allow_abbrev=False, add_help=False, usage=usage)
    first.add_argument("--preset", default="thesis")
    preset = first.parse_known_args(argv)[0].preset
    parser.set_defaults(**{**presets["thesis"], **presets.get(preset, {})})
    try:
        args, *_, unknown = parser.parse_args_into_dataclasses(
            argv, return_remaining_strings=True, look_for_args_file=False
        )
    except InputError as error:
        parser.error(str(error))
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.preset not in presets:
        parser.error(f"argument --preset: of this script must be one of {', '.join(presets)}, got {args.preset!r}")
    return args


def json_options(flag: str, text: str) -> dict[str, Any]:
    """What a flag says as JSON; `flag` names it in the error."""
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{flag} {text} is no JSON ({error}).") from None
    if not isinstance(options, dict):
        raise InputError(f"{flag} {text} names no options; write them as '{{\"name\": value}}'.")
    return options


def mixed_precision_of(args: TrainingArguments) -> str | None:
    """What accelerate is told; "auto" is bf16 where the device computes in it, and no lower precision elsewhere."""
    if args.mixed_precision != "auto":
        return args.mixed_precision
    device = "cpu" if args.cpu or not torch.cuda.is_available() else "cuda"
    return "bf16" if fastest_dtype(device) == torch.bfloat16 else "no"


def make_optimizer(parameters: Iterable[torch.nn.Parameter], args: TrainingArguments) -> torch.optim.Optimizer:
    """The optimiser that `args.optimizer` names."""
    rate, decay, betas = args.learning_rate, args.weight_decay, (args.adam_betas[0], args.adam_betas[1])
    if args.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, weight_decay=decay)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=rate, betas=betas, weight_decay=decay, amsgrad=args.optimizer == "amsgrad")


def learning_rate_factor(step: int, args: TrainingArguments) -> float:
    """Factor on the learning rate in step `step`, counted from 0: linear warm-up, then constant or a cosine.

    The cosine falls to 0 at the last step, or over and over again with `cosine_steps`, as PyTorch's with T_max does.
    """
    warmup = min(1.0, (step + 1) / (args.warmup_steps + 1))
    if args.lr_scheduler == "constant":
        return warmup
    progress = max(0, step - args.warmup_steps) / (args.cosine_steps or max(1, args.max_steps - args.warmup_steps))
    return warmup * 0.5 * (1 + math.cos(math.pi * progress))
