"""One training loop for every network of the package, on accelerate: one process or many, any device.

The order of the slices in an epoch is a function of (seed, epoch), and what happens to a slice may be one of (seed,
position of the slice in the stream of all epochs), see `sample_uniform`; P processes with batches of B then do what
one process with batches of P·B does. All else that is random in step n, on process p, is drawn from generators seeded
with (seed, n, p). A run that was stopped anywhere therefore continues bit by bit as if it had not been.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from ..errors import InputError
from ..io.files import own_folder, write_whole
from .arguments import TrainingArguments, learning_rate_factor, make_optimizer
from .batch_norm import restore_batch_norm, synchronise_batch_norm
from .batches import Batch, read_passes, require_rows, step_batches, to_device, validation_batches
from .checkpoints import load_checkpoint, load_initial_weights, save_checkpoint
from .outputs import prepare_output, push_trained, refuse_public_early, saver_of, show_pictures
from .processes import make_accelerator
from .run_log import DURATION, RunLog
from .sampler import step_generator
from .signals import signals_noted

if TYPE_CHECKING:
    from datasets import Dataset

MANY_ROWS = 16  # that a sentence lists at most

Loss: TypeAlias = Callable[[Any, Batch, torch.Generator], torch.Tensor]
Validation: TypeAlias = Callable[[Any, Iterator[Batch]], Mapping[str, "float | torch.Tensor"]]


class Trainer:
    """A training of `args.max_steps` steps, set up to go on from where the output folder has it.

    `fit` is the whole of it: a loop over `step`, `log`, `validate` and `checkpoint`, then `finish`.

    Several processes (`torchrun --nproc_per_node 2 script.py ...`, with `--cpu` where there is no GPU) follow the loss
    curve of one process with their batches put together: the batches are parts of that one, batch norm sees all of
    them, and the gradient and the logged loss are means over the processes. `compute_loss` has to do its part: be a
    mean over the batch, and decide what happens to a sample with `sample_uniform(seed, batch["position"], ...)`;
    dropout, and what is drawn from the generator, differ.

    `history.jsonl` in the output folder has a line {"step", "loss", "learning_rate"} for every line of the log, the
    loss being the mean since the line before, and a line {"step", "validation": metrics} for every validation;
    `duration.json` is written at the end and says how many steps it took and how many seconds.

    Ctrl-C (SIGTERM) finishes the step, writes a checkpoint and exits with code 130 (143); a second one ends at once.

    Args:
        model (`torch.nn.Module`): parameters with `requires_grad=False` stay as they are.
        dataset (`datasets.Dataset`): slices or scans with the columns named in `columns`.
        compute_loss: `(model, batch, generator) -> loss`, a mean over the batch; `batch` holds the columns and
            `position` (B,) int64, the samples' places in the stream. Takes all its randomness from the positions or
            from the generator, which differs between processes, and calls the model as a function only: on several
            processes it is wrapped and has no other methods.
        args (`TrainingArguments`): see there.
        validation_dataset (`datasets.Dataset`, *optional*): slices for `validate`.
        validate: `(model, batches) -> metrics`, in eval mode, with the averaged weights if there are any; lower
            `metrics["loss"]` is better. Takes no randomness but from generators of its own. A metric that is a tensor
            (H, W) in [0, 1] is a picture: it goes to `pictures/<name>-<step>.png` and to the tracker.
        save: `(model) -> None`, called on the main process with the weights to keep: the last ones, or each best ones
            when `args.patience` is on. By default a model with `save_pretrained` is saved into `args.output_dir`.
        columns (sequence of `str`): the columns a batch holds, each numbers of one shape.
        find_unused_parameters (`bool`): needed on several processes, and slower, where a trainable parameter may get
            no gradient in a step.
        push (`bool`): whether the end of this training is the time for `args.push_to_hub`; not so where a stage
            follows. A public repository is refused at the start (where the Hub can be reached) all the same.

    Raises:
        InputError: data, folder, checkpoint or repository cannot be used, a checkpoint is of steps with another number
            of samples, or the loss is not finite.
        SystemExit: after Ctrl-C or SIGTERM.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        dataset: "Dataset",
        compute_loss: Loss,
        args: TrainingArguments,
        validation_dataset: "Dataset | None" = None,
        validate: Validation | None = None,
        save: Callable[[Any], object] | None = None,
        columns: Sequence[str] = ("image", "label"),
        find_unused_parameters: bool = False,
        push: bool = True,
    ):
        self.push = push
        self.args, self.compute_loss, self.columns = args, compute_loss, list(columns)
        self.save = saver_of(model, args.output_dir) if save is None else save
        self.validation = None
        if validate is not None and validation_dataset is not None and len(validation_dataset):
            self.validation = validate, validation_dataset
        require_rows(dataset, self.validation and self.validation[1], columns, args.dataset)
        if args.patience and not (self.validation and args.validation_steps):
            raise InputError(
                "`--patience` needs a validation split with slices in it and `--validation_steps` above 0."
            )
        prepare_output(args.output_dir)
        refuse_public_early(args)

        self.accelerator = make_accelerator(args, find_unused_parameters)
        if args.initial_weights:
            load_initial_weights(model, args.initial_weights)
        model.to(self.accelerator.device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("`model` has no parameter with requires_grad=True, so there is nothing to train.")
        self.several = self.accelerator.num_processes > 1
        if self.several:
            synchronise_batch_norm(model)
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(trained, args))
        self.bare_model: torch.nn.Module = self.accelerator.unwrap_model(self.model)
        self.ema = None
        if args.ema_decay:
            self.ema = EMAModel(self.bare_model.parameters(), decay=args.ema_decay, foreach=True)

        self.progress = load_checkpoint(self.accelerator, args.output_dir, args.resume_from_checkpoint, self.ema)
        self._check_samples_in_a_step()
        self.losses = [torch.tensor(loss, device=self.accelerator.device) for loss in self.progress.pending_losses]
        self.run_log: RunLog | None = None  # of the main process, in `fit`
        if args.report_to != "none" and self.accelerator.is_main_process:
            settings = {n: v if isinstance(v, (int, float)) else str(v) for n, v in asdict(args).items()}
            self.accelerator.init_trackers("difffuse_hf", config=settings)
        self.batches = step_batches(args, len(dataset), self.progress.step, self.accelerator)
        self.passes = read_passes(dataset, columns, self.batches, args.num_workers, self.accelerator.device)
        self.since = time.perf_counter()  # up to which `progress.seconds` has counted

    def fit(self) -> dict[str, float]:
        """Train to the end and leave the model; the last validation's metrics."""
        args = self.args
        with self._own_folder(), signals_noted() as received, self._progress_bar():
            self.since = time.perf_counter()
            self.model.train()
            while self.progress.step < args.max_steps and not self._out_of_patience():
                self.step()
                if self._due(args.log_every) or self.progress.step == args.max_steps:
                    self.log()
                if self._due(args.validation_steps):
                    self.validate()
                if self._asked_to_stop(received):
                    self.stop(received)
                if self._due(args.checkpointing_steps):
                    self.checkpoint()
            self.finish()
        return self.progress.metrics

    def step(self) -> None:
        """One step of the optimiser, over all passes through the network that belong to it."""
        args, accelerator, step = self.args, self.accelerator, self.progress.step
        generator = step_generator(accelerator.device, args.seed, step, accelerator.process_index)
        for group in self.optimizer.param_groups:
            group["lr"] = args.learning_rate * learning_rate_factor(step, args)
        for _ in range(args.gradient_accumulation_steps):
            positions, columns = self._next_pass()
            batch = to_device(columns | {"position": torch.tensor(positions)}, accelerator.device)
            with accelerator.accumulate(self.model):
                loss = self.compute_loss(self.model, batch, generator)
                self._check_loss(loss, positions)
                accelerator.backward(loss)
                if accelerator.sync_gradients and args.max_grad_norm:
                    accelerator.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.losses.append(loss.detach().float())
        if self.ema is not None:
            self.ema.step(self.bare_model.parameters())
        self.progress.step += 1
        self.bar.update()

    def log(self) -> None:
        """Record the mean loss since the last time."""
        step, learning_rate = self.progress.step, self.optimizer.param_groups[0]["lr"]
        loss = self._over_processes(self.losses).mean().item()
        self.losses.clear()
        validated = {
            f"validation {name}": f"{value:.4f}" for name, value in self.progress.metrics.items() if "/" not in name
        }
        self.bar.set_postfix({"loss": f"{loss:.4f}", **validated})
        self.accelerator.log({"train/loss": loss, "train/learning_rate": learning_rate}, step=step)
        if self.run_log is not None:
            self.run_log.append(step, loss=loss, learning_rate=learning_rate)

    def validate(self) -> None:
        """Measure the weights to keep, and keep them with `patience` if they are the best so far.

        Every process validates the same slices, so that all come to the same decision.
        """
        if self.validation is None:
            return
        step, progress, (validate, dataset) = self.progress.step, self.progress, self.validation
        with self.kept_weights() as model:
            measured = validate(model, validation_batches(dataset, self.columns, self.args, self.accelerator.device))
        pictures = {name: value for name, value in measured.items() if isinstance(value, torch.Tensor)}
        metrics = progress.metrics = {
            name: float(value) for name, value in measured.items() if not isinstance(value, torch.Tensor)
        }
        self.accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, step=step)
        if self.run_log is not None:
            show_pictures(pictures, step, self.args.output_dir, self.accelerator.trackers)
            self.run_log.append(step, validation=metrics)
        if metrics["loss"] < progress.best_loss:
            progress.best_loss, progress.validations_without_improvement = metrics["loss"], 0
            if self.args.patience:
                self._save()
        else:
            progress.validations_without_improvement += 1

    def checkpoint(self) -> None:
        """Write a checkpoint of this step."""
        self._check_weights()
        self._take_time()
        self.progress.pending_losses = self._over_processes(self.losses).tolist() if self.losses else []
        limit = self.args.checkpoints_total_limit
        save_checkpoint(self.accelerator, self.args.output_dir, limit, self.progress, self.ema)

    def stop(self, received: Sequence[int]) -> None:
        """End the program as a signal asked, with a checkpoint; some of the processes may have received none."""
        self.checkpoint()
        self.accelerator.end_training()
        self.bar.close()
        self.accelerator.print(
            f"Stopped after step {self.progress.step}; repeat the command with "
            "`--resume_from_checkpoint latest` to go on."
        )
        raise SystemExit(128 + (received[0] if received else signal.SIGTERM))

    def finish(self) -> None:
        """Save the weights to keep, unless `patience` has, and push them; the processes stay for another stage."""
        if not self.args.patience or self.progress.best_loss == math.inf:
            self._save()
        self._take_time()
        if self.accelerator.is_main_process:
            took = {"steps": self.progress.step, "seconds": self.progress.seconds}
            write_whole(Path(self.args.output_dir, DURATION), lambda path: path.write_text(json.dumps(took)))
        restore_batch_norm(self.bare_model)
        if self.push and self.accelerator.is_main_process:
            push_trained(self.args)
        self.accelerator.wait_for_everyone()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    @contextmanager
    def kept_weights(self) -> Iterator[torch.nn.Module]:
        """The model in eval mode and without gradients, with the averaged weights in place of the trained ones."""
        model, ema = self.bare_model, self.ema
        if self.several:
            restore_batch_norm(model)
        model.eval()
        if ema is not None:
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
        try:
            with torch.no_grad():
                yield model
        finally:
            if ema is not None:
                ema.restore(model.parameters())
            model.train()
            if self.several:
                synchronise_batch_norm(model)

    @contextmanager
    def _own_folder(self) -> Iterator[None]:
        """No other training writes to the output folder in here."""
        if not self.accelerator.is_main_process:
            yield
            return
        with own_folder(self.args.output_dir):
            self.run_log = RunLog(self.args.output_dir, self.progress.step)
            yield

    def _next_pass(self) -> tuple[range, Batch]:
        try:
            return next(self.passes)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise InputError(
                f"A process that reads slices died after step {self.progress.step}, perhaps of too little memory; "
                "lower --num_workers and go on with --resume_from_checkpoint latest."
            ) from error

    def _check_samples_in_a_step(self) -> None:
        """`InputError` if the steps of a checkpoint saw another number of samples: its place in the stream is lost."""
        args, processes, before = self.args, self.accelerator.num_processes, self.progress.samples_in_a_step
        samples = args.batch_size * args.gradient_accumulation_steps * processes
        if before not in (0, samples):
            raise InputError(
                f"A step of the checkpoint saw {before} samples, a step of this run would see {samples} ({processes} "
                f"process(es), --batch_size {args.batch_size}, --gradient_accumulation_steps "
                f"{args.gradient_accumulation_steps}); choose them so that their product stays {before}."
            )
        self.progress.samples_in_a_step = samples

    def _check_loss(self, loss: torch.Tensor, positions: range) -> None:
        """Stop before a loss that is not finite reaches the weights, on all processes at once.

        Raises:
            InputError: names the step and the rows of its batch.
        """
        broken = ~loss.detach().float().isfinite()
        if self.several:
            broken = self._over_processes([broken.float()]).any()
        if broken:
            rows = ", ".join(str(row) for row in self.batches.rows(positions)[:MANY_ROWS])
            raise InputError(
                f"The loss is {loss.item()} at step {self.progress.step + 1}, on the rows {rows} of the training "
                "split; look at these, lower --learning_rate or clip the gradient. Earlier checkpoints are kept."
            )

    def _check_weights(self) -> None:
        """`InputError` before weights that are not finite are kept in place of good ones."""
        for name, parameter in self.bare_model.named_parameters():
            if not parameter.isfinite().all():
                raise InputError(
                    f"The weights are not finite at step {self.progress.step} ({name}); lower --learning_rate or clip "
                    "the gradient. Earlier checkpoints are kept."
                )

    def _save(self) -> None:
        self._check_weights()
        if self.save is not None and self.accelerator.is_main_process:
            with self.kept_weights() as model:
                self.save(model)

    def _take_time(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self.since
        self.since = now

    def _due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _out_of_patience(self) -> bool:
        return 0 < self.args.patience <= self.progress.validations_without_improvement

    def _asked_to_stop(self, received: Sequence[int]) -> bool:
        if not self.several:
            return bool(received)
        return self._over_processes([torch.tensor(float(len(received)), device=self.accelerator.device)]).item() > 0

    def _over_processes(self, values: list[torch.Tensor]) -> torch.Tensor:
        """Each value's mean over the processes."""
        return cast(torch.Tensor, self.accelerator.reduce(torch.stack(values), "mean"))

    @contextmanager
    def _progress_bar(self) -> Iterator[None]:
        first, hidden = self.progress.step, not self.accelerator.is_main_process
        with tqdm(initial=first, total=self.args.max_steps, unit="step", disable=hidden, desc="train") as self.bar:
            yield
