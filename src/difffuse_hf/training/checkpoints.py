"""Checkpoints of a training: a folder that has its name is whole, and a run goes on from it bit by bit."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import InputError, one_sentence
from ..io.model_folder import WEIGHTS


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0  # optimiser steps done
    best_loss: float = math.inf
    validations_without_improvement: int = 0
    ema_steps: int = 0
    pending_losses: list[float] = field(default_factory=list)  # of the forward passes since the last line of the log
    metrics: dict[str, float] = field(default_factory=dict)  # of the last validation
    samples_in_a_step: int = 0  # of all processes together; not known of older checkpoints
    seconds: float = 0.0  # of training, validations and checkpoints with it; 0 in older checkpoints


def checkpoints(output_dir: Path) -> list[Path]:
    """The folders `checkpoint-<step>` of a run, in the order of their steps."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def save_checkpoint(
    accelerator: Accelerator, output_dir: str, limit: int, progress: Progress, ema: EMAModel | None
) -> None:
    """Write `checkpoint-<step>` under another name and rename it; of all there are, the newest `limit` stay.

    All processes call it and each writes its own files, which is why the folder is renamed here.
    """
    folder = Path(output_dir) / f"checkpoint-{progress.step}"
    if folder.exists():
        return
    temporary = folder.with_name(f".writing-{folder.name}")
    if accelerator.is_main_process:
        for left_over in folder.parent.glob(".writing-checkpoint-*"):  # from a run that was killed while writing
            shutil.rmtree(left_over)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(temporary))
        if accelerator.is_main_process:
            if ema is not None:
                progress.ema_steps = ema.optimization_step
                averaged = {str(i): p.contiguous() for i, p in enumerate(ema.shadow_params)}
                save_file(averaged, temporary / "ema.safetensors")
            (temporary / "progress.json").write_text(json.dumps(asdict(progress)))
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"{folder} could not be written ({one_sentence(error).rstrip('.')}); earlier checkpoints are kept: make "
            "room on the disk, and go on with --resume_from_checkpoint latest."
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        temporary.rename(folder)
        for old in checkpoints(folder.parent)[:-limit]:
            shutil.rmtree(old)


def load_initial_weights(model: torch.nn.Module, folder: str) -> None:
    """Start from a trained network that was saved in `folder` by `save_pretrained`.

    Raises:
        InputError: there are no weights in the folder, or they are those of another network.
    """
    files = [Path(folder) / name for name in WEIGHTS if (Path(folder) / name).is_file()]
    if not files:
        raise InputError(f"{folder} holds no weights ({' or '.join(WEIGHTS)}) to start from.")
    try:
        weights = load_file(files[0])
    except (SafetensorError, OSError) as error:
        raise InputError(f"{files[0]} cannot be read ({error}); copy it again.") from error
    own = model.state_dict()
    odd = sorted(name for name in own.keys() | weights.keys() if _shape(own, name) != _shape(weights, name))
    if odd:
        raise InputError(
            f"{files[0]} holds another network than the one to be trained: {len(odd)} tensors differ, the first is "
            f"{odd[0]} ({_shape(weights, odd[0])} there, {_shape(own, odd[0])} here)."
        )
    model.load_state_dict(weights)


def _shape(weights: Mapping[str, torch.Tensor], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "missing"


def load_checkpoint(accelerator: Accelerator, output_dir: str, resume: str | None, ema: EMAModel | None) -> Progress:
    """Restore the checkpoint `resume`: a folder or `latest`; a fresh start if that finds none, or without `resume`."""
    existing = checkpoints(Path(output_dir))
    if resume is None:
        if existing:
            raise InputError(
                f"{output_dir} already holds {existing[-1].name}; add `--resume_from_checkpoint latest` to go on "
                "with it, or choose another --output_dir."
            )
        return Progress()
    if resume == "latest":
        if not existing:
            return Progress()
        folder = existing[-1]
    else:
        folder = Path(resume)
    if not (folder / "progress.json").exists():
        raise InputError(f"{folder} is not a checkpoint; give `latest` or a folder named checkpoint-<step>.")
    accelerator.load_state(str(folder))
    progress = Progress(**json.loads((folder / "progress.json").read_text()))
    if ema is not None:
        saved = load_file(folder / "ema.safetensors")
        for i, shadow in enumerate(ema.shadow_params):
            shadow.copy_(saved[str(i)])
        ema.optimization_step = progress.ema_steps
    return progress
