"""Accelerate's device and processes, as the arguments of a training have them."""

import os

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

from ..errors import InputError
from .arguments import TrainingArguments, mixed_precision_of


def make_accelerator(args: TrainingArguments, find_unused_parameters: bool) -> Accelerator:
    """Its trackers are not started yet.

    Raises:
        InputError: several processes were asked for, and each would train a model of its own.
    """
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=mixed_precision_of(args),
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(args.output_dir, os.path.join(args.output_dir, "logs")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)],
    )
    alone = accelerator.num_processes == 1
    if alone and "WORLD_SIZE" not in os.environ and {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= set(os.environ):
        raise InputError(  # the launcher sets the port for several processes only, and then starts one
            "`accelerate launch` was told of several processes but has started one, as it does without several GPUs; "
            "leave out its --num_processes, or start them on the CPU with `torchrun --nproc_per_node 2 SCRIPT ... "
            "--cpu`."
        )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and alone:  # accelerate looks for GPUs only, unless told
        raise InputError(
            f"{started} processes were started, but without a GPU each of them would train a model of its own; "
            "add --cpu to let them train one on the CPU."
        )
    return accelerator
