"""The batches of a training: which slices, in which order, on which process, on which device."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ..errors import InputError
from .arguments import TrainingArguments
from .sampler import StepBatches
from .signals import ignore_interrupts

if TYPE_CHECKING:
    from datasets import Dataset

Batch: TypeAlias = dict[str, torch.Tensor]


def step_batches(args: TrainingArguments, rows: int, done: int, accelerator: Accelerator) -> StepBatches:
    """The rows of the forward passes that are left on this process after `done` steps."""
    passes = args.gradient_accumulation_steps
    return StepBatches(
        rows,
        args.batch_size,
        args.seed,
        first=done * passes,
        last=args.max_steps * passes,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def read_passes(
    dataset: "Dataset", columns: Sequence[str], batches: StepBatches, num_workers: int, device: torch.device
) -> Iterator[tuple[range, Batch]]:
    """Positions and columns of each of the batches."""
    loader = DataLoader(
        cast(Any, dataset.with_format("torch", columns=list(columns))),
        sampler=batches,
        batch_size=None,  # the sampler's indices already are batches
        num_workers=num_workers,
        worker_init_fn=ignore_interrupts,
        pin_memory=device.type == "cuda",
    )
    # `iter` here and not in the first step: it draws from torch's global generator, which a step seeds for itself
    return zip(map(batches.positions, range(batches.first, batches.last)), iter(loader))


def validation_batches(
    dataset: "Dataset", columns: Sequence[str], args: TrainingArguments, device: torch.device
) -> Iterator[Batch]:
    """`args.validation_samples` rows, evenly spaced over the split."""
    count = min(args.validation_samples, len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    slices = dataset.select(chosen).with_format("torch", columns=list(columns))
    for start in range(0, count, args.batch_size):
        yield to_device(slices[start : start + args.batch_size], device)


def to_device(batch: Mapping[str, Any], device: torch.device) -> Batch:
    """The columns of a batch, slices in the layout that is the faster one to convolve.

    Raises:
        InputError: the entries of a column have different shapes.
    """
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"The entries of the column '{name}' are no numbers of one shape, so they make no batch; "
                "bring all slices or scans to one size, or train with --batch_size 1."
            )
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    for name in {"image", "pixel_values"} & moved.keys():
        if moved[name].ndim == 4:
            moved[name] = moved[name].contiguous(memory_format=torch.channels_last)
    return moved


def require_rows(dataset: "Dataset", validation: "Dataset | None", columns: Sequence[str], name: str) -> None:
    """`InputError` unless there is something to train on, with the columns that a batch holds.

    Args:
        name: of the data set, for the sentence.
    """
    if len(dataset) == 0:
        raise InputError(f"{name} has no slices to train on in its training split.")
    splits = {name: dataset, **({} if validation is None else {f"The validation split of {name}": validation})}
    for what, split in splits.items():
        missing = [column for column in columns if column not in split.column_names]
        if missing:
            raise InputError(
                f"{what} has no column {' and no column '.join(missing)}, which this training needs; "
                f"it has {', '.join(split.column_names)}."
            )
