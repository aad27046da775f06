"""One training loop for every network of the package, on accelerate: one process or many, any device.

The order of the slices in an epoch is a function of (seed, epoch), and what happens to a slice may be one of (seed,
position of the slice in the stream of all epochs), see `sample_uniform`; P processes with batches of B then do what
one process with batches of P·B does. All else that is random in step n, on process p, is drawn from generators seeded
with (seed, n, p). A run that was stopped anywhere therefore continues bit by bit as if it had not been.
"""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
from diffusers.training_utils import EMAModel
from huggingface_hub import HfApi
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..errors import InputError
from ..io.files import write_whole
from .arguments import LoopArguments, learning_rate_factor, make_optimizer
from .batch_norm import restore_batch_norm, synchronise_batch_norm
from .checkpoints import keep_history, load_checkpoint, save_checkpoint
from .sampler import StepBatches, step_generator


def _require_columns(dataset, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in dataset.column_names]
    if missing:
        raise InputError(
            f"{name} has no column {' and no column '.join(missing)}, which this training needs; "
            f"it has {', '.join(dataset.column_names)}."
        )


def _to_device(batch: dict, device: torch.device) -> dict:
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"The entries of the column '{name}' are no numbers of one shape, so they make no batch; "
                "bring all slices or scans to one size, or train with --batch_size 1."
            )
    batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    for name in {"image", "pixel_values"} & batch.keys():
        if batch[name].ndim == 4:
            batch[name] = batch[name].contiguous(memory_format=torch.channels_last)  # the faster layout to convolve
    return batch


def _ignore_interrupts(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the readers too; the training process decides


def _prepare_output(output_dir: str) -> None:
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        probe = Path(output_dir) / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {output_dir}: {error.strerror}; choose another --output_dir.") from None


def _show(pictures: dict[str, torch.Tensor], step: int, output_dir: str, trackers: list) -> None:
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


def _push(args: LoopArguments) -> None:
    """Push what `save` wrote into `output_dir`, without the checkpoints and logs beside it."""
    api = HfApi()
    repository = api.create_repo(args.push_to_hub, private=True, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repository,
        folder_path=args.output_dir,
        allow_patterns=["*.safetensors", "*.json", "*.md"],
        ignore_patterns=["checkpoint-*/*", "logs/*"],
        commit_message="Trained with difffuse_hf",
    )


def fit(
    model: torch.nn.Module,
    dataset,
    compute_loss: Callable[[torch.nn.Module, dict, torch.Generator], torch.Tensor],
    args: LoopArguments,
    validation_dataset=None,
    validate: Callable[[torch.nn.Module, Iterator[dict]], dict[str, float]] | None = None,
    save: Callable[[torch.nn.Module], None] | None = None,
    columns: Sequence[str] = ("image", "label"),
    find_unused_parameters: bool = False,
) -> dict[str, float]:
    """Train `model` for `args.max_steps` steps, and return the last validation's metrics.

    Several processes (`torchrun --nproc_per_node 2 script.py ...`, with `--cpu` where there is no GPU) follow the loss
    curve of one process with their batches put together: the batches are parts of that one, batch norm sees all of
    them, and the gradient and the logged loss are means over the processes. `compute_loss` has to do its part: be a
    mean over the batch, and decide what happens to a sample with `sample_uniform(seed, batch["position"], ...)`;
    dropout, and what is drawn from the generator, differ.

    `history.jsonl` in the output folder has a line {"step", "loss", "learning_rate"} for every line of the log, the
    loss being the mean since the line before, and a line {"step", "validation": metrics} for every validation.

    Ctrl-C (SIGTERM) finishes the step, writes a checkpoint and exits with code 130 (143); a second one ends at once.

    Args:
        model (`torch.nn.Module`): parameters with `requires_grad=False` stay as they are.
        dataset (`datasets.Dataset`): slices or scans with the columns named in `columns`.
        compute_loss: `(model, batch, generator) -> loss`, a mean over the batch; `batch` holds the columns and
            `position` (B,) int64, the samples' places in the stream. Takes all its randomness from the positions or
            from the generator, which differs between processes, and calls the model as a function only: on several
            processes it is wrapped and has no other methods.
        args (`LoopArguments`): see there.
        validation_dataset (`datasets.Dataset`, *optional*): slices for `validate`.
        validate: `(model, batches) -> metrics`, in eval mode, with the averaged weights if there are any; lower
            `metrics["loss"]` is better. Takes no randomness but from generators of its own. A metric that is a tensor
            (H, W) in [0, 1] is a picture: it goes to `pictures/<name>-<step>.png` and to the tracker.
        save: `(model) -> None`, called on the main process with the weights to keep: the last ones, or each best ones
            when `args.patience` is on.
        columns (sequence of `str`): the columns a batch holds, each numbers of one shape.
        find_unused_parameters (`bool`): needed on several processes, and slower, where a trainable parameter may get
            no gradient in a step.
    """
    if len(dataset) == 0:
        raise InputError(f"{args.dataset} has no slices to train on in its training split.")
    if validate is not None and (validation_dataset is None or len(validation_dataset) == 0):
        validate = None
    columns = list(columns)
    _require_columns(dataset, columns, args.dataset)
    if validate is not None:
        _require_columns(validation_dataset, columns, f"The validation split of {args.dataset}")
    if args.patience and (validate is None or not args.validation_steps):
        raise InputError("`--patience` needs a validation split with slices in it and `--validation_steps` above 0.")
    _prepare_output(args.output_dir)

    trackers = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=trackers,
        project_config=ProjectConfiguration(args.output_dir, os.path.join(args.output_dir, "logs")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)],
    )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > 1 and accelerator.num_processes == 1:  # accelerate looks for GPUs only, unless told
        raise InputError(
            f"{started} processes were started, but without a GPU each of them would train a model of its own; "
            "add --cpu to let them train one on the CPU."
        )
    model.to(accelerator.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("`model` has no parameter with requires_grad=True, so there is nothing to train.")
    several = accelerator.num_processes > 1
    if several:
        synchronise_batch_norm(model)
    model, optimizer = accelerator.prepare(model, make_optimizer(trained, args))
    bare_model = accelerator.unwrap_model(model)
    ema = EMAModel(bare_model.parameters(), decay=args.ema_decay, foreach=True) if args.ema_decay else None
    progress = load_checkpoint(accelerator, args.output_dir, args.resume_from_checkpoint, ema)
    if accelerator.is_main_process:
        history = keep_history(args.output_dir, progress.step)
    if trackers and accelerator.is_main_process:
        settings = {
            name: value if isinstance(value, (int, float)) else str(value) for name, value in asdict(args).items()
        }
        accelerator.init_trackers("difffuse_hf", config=settings)

    passes = args.gradient_accumulation_steps
    batches = StepBatches(
        len(dataset),
        args.batch_size,
        args.seed,
        first=progress.step * passes,
        last=args.max_steps * passes,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    loader = iter(
        DataLoader(
            dataset.with_format("torch", columns=columns),
            sampler=batches,
            batch_size=None,  # the sampler's indices already are batches
            num_workers=args.num_workers,
            worker_init_fn=_ignore_interrupts,
            pin_memory=accelerator.device.type == "cuda",
        )
    )

    def with_kept_weights(action):
        """Run `action(model)` in eval mode, with the averaged weights in place of the trained ones."""
        if several:
            restore_batch_norm(bare_model)
        bare_model.eval()
        if ema is not None:
            ema.store(bare_model.parameters())
            ema.copy_to(bare_model.parameters())
        with torch.no_grad():
            result = action(bare_model)
        if ema is not None:
            ema.restore(bare_model.parameters())
        bare_model.train()
        if several:
            synchronise_batch_norm(bare_model)
        return result

    def validation_batches():
        count = min(args.validation_samples, len(validation_dataset))
        chosen = np.linspace(0, len(validation_dataset) - 1, count).astype(int)
        slices = validation_dataset.select(chosen).with_format("torch", columns=columns)
        for start in range(0, count, args.batch_size):
            yield _to_device(slices[start : start + args.batch_size], accelerator.device)

    def over_processes(losses):
        return accelerator.reduce(torch.stack(losses), "mean")

    def record(**line):
        if accelerator.is_main_process:
            with history.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def checkpoint_now():
        progress.pending_losses = over_processes(losses).tolist() if losses else []
        save_checkpoint(accelerator, args.output_dir, args.checkpoints_total_limit, progress, ema)

    received = []

    def stop_after_this_step(signum, _frame):
        received.append(signum)
        for name in previous:
            signal.signal(name, signal.SIG_DFL)  # a second one ends at once

    previous = {name: signal.signal(name, stop_after_this_step) for name in (signal.SIGINT, signal.SIGTERM)}
    bar = tqdm(
        initial=progress.step, total=args.max_steps, unit="step", disable=not accelerator.is_main_process, desc="train"
    )
    metrics, losses = {}, [torch.tensor(loss, device=accelerator.device) for loss in progress.pending_losses]
    model.train()
    try:
        while progress.step < args.max_steps:
            if args.patience and progress.validations_without_improvement >= args.patience:
                break
            generator = step_generator(accelerator.device, args.seed, progress.step, accelerator.process_index)
            learning_rate = args.learning_rate * learning_rate_factor(progress.step, args)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            for pass_number in range(progress.step * passes, (progress.step + 1) * passes):
                batch = next(loader) | {"position": torch.tensor(batches.positions(pass_number))}
                batch = _to_device(batch, accelerator.device)
                with accelerator.accumulate(model):
                    loss = compute_loss(model, batch, generator)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients and args.max_grad_norm:
                        accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.detach().float())
            if ema is not None:
                ema.step(bare_model.parameters())
            progress.step += 1
            bar.update()

            if progress.step % args.log_every == 0 or progress.step == args.max_steps:
                mean_loss = over_processes(losses).mean().item()
                losses.clear()
                if not math.isfinite(mean_loss):
                    raise InputError(
                        f"The loss is {mean_loss} at step {progress.step}; lower --learning_rate or clip the gradient."
                    )
                validated = {f"validation {n}": f"{value:.4f}" for n, value in metrics.items() if "/" not in n}
                bar.set_postfix({"loss": f"{mean_loss:.4f}", **validated})
                accelerator.log({"train/loss": mean_loss, "train/learning_rate": learning_rate}, step=progress.step)
                record(step=progress.step, loss=mean_loss, learning_rate=learning_rate)

            if validate is not None and args.validation_steps and progress.step % args.validation_steps == 0:
                # every process validates the same slices, so that all come to the same decision
                metrics = with_kept_weights(lambda kept: validate(kept, validation_batches()))
                pictures = {name: value for name, value in metrics.items() if isinstance(value, torch.Tensor)}
                metrics = {name: value for name, value in metrics.items() if name not in pictures}
                if accelerator.is_main_process:
                    _show(pictures, progress.step, args.output_dir, accelerator.trackers)
                accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, step=progress.step)
                record(step=progress.step, validation=metrics)
                if metrics["loss"] < progress.best_loss:
                    progress.best_loss, progress.validations_without_improvement = metrics["loss"], 0
                    if args.patience and save is not None and accelerator.is_main_process:
                        with_kept_weights(save)
                else:
                    progress.validations_without_improvement += 1

            stop = bool(received)
            if several:  # a signal may reach only one of the processes
                stop = accelerator.reduce(torch.tensor(float(stop), device=accelerator.device)).item() > 0
            if stop:
                checkpoint_now()
                accelerator.end_training()
                bar.close()
                accelerator.print(
                    f"Stopped after step {progress.step}; repeat the command with "
                    "`--resume_from_checkpoint latest` to go on."
                )
                raise SystemExit(128 + (received[0] if received else signal.SIGTERM))
            if args.checkpointing_steps and progress.step % args.checkpointing_steps == 0:
                checkpoint_now()
    finally:
        bar.close()
        for name, handler in previous.items():
            signal.signal(name, handler)
    nothing_kept_yet = progress.best_loss == math.inf
    if save is not None and (not args.patience or nothing_kept_yet) and accelerator.is_main_process:
        with_kept_weights(save)
    restore_batch_norm(bare_model)
    if args.push_to_hub and accelerator.is_main_process:
        _push(args)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()  # and the processes stay together, for the next stage of a training
    return metrics
