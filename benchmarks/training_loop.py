"""What `Trainer` costs beside a bare loop: the same networks, batches, noise and optimiser steps, and no log.

python benchmarks/training_loop.py --steps 50 --output_dir out/training_loop

The bare loop has its batches in memory before the clock starts; `Trainer` reads them from a data set, writes a line of
its log every ten steps and saves the weights at the end. Both end with the same weights, bit by bit, which is checked.
The networks are tiny on purpose: what the loop costs is a share of a short step.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import torch
from side_by_side import take_turns, write_results

from difffuse_hf import DifFuseScheduler, SliceClassifier, SliceClassifierConfig, make_healthy_unet
from difffuse_hf.errors import run_script
from difffuse_hf.training.arguments import TrainingArguments, make_optimizer
from difffuse_hf.training.loop import Trainer
from difffuse_hf.training.losses import classification_loss, diffusion_losses
from difffuse_hf.training.sampler import StepBatches, step_generator

CHANNELS, SLICES = 4, 64
ALPHAS = DifFuseScheduler().alphas_cumprod


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    unet = make_healthy_unet(
        CHANNELS, sample_size=args.size, block_out_channels=(16, 32), attention_levels=1, norm_num_groups=4
    )
    backbone = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 64]}
    classifier = SliceClassifier(
        SliceClassifierConfig(backbone="resnet18", backbone_kwargs=backbone, num_channels=CHANNELS, num_labels=2)
    )
    data, rows = make_slices(args.size), []
    for name, network, loss in (("diffusion", unet, diffusion_loss), ("classifier", classifier, classifier_loss)):
        rows += compare(name, network, loss, data, args)
    print(write_results(args.output_dir, "training_loop", rows, vars(args)))


def compare(name: str, network: torch.nn.Module, loss: Callable, data: datasets.Dataset, args) -> list[dict]:
    """A row for each of the two loops; the ratio is how much of `Trainer`'s time the bare loop needs."""
    with TemporaryDirectory() as folder:
        settings = TrainingArguments(
            dataset="random slices", output_dir=str(Path(folder, "out")), max_steps=args.steps, cpu=True,
            batch_size=args.batch_size, checkpointing_steps=0, validation_steps=0, report_to="none",
        )  # fmt: skip
        batches = read_batches(data, settings)
        sides = {
            "bare loop": lambda: bare(copy.deepcopy(network).train(), loss, batches, settings),
            "Trainer": lambda: trained(copy.deepcopy(network), loss, data, settings),
        }
        timings, weights = take_turns(sides, rounds=args.rounds)
    if not all(torch.equal(value, weights["Trainer"][key]) for key, value in weights["bare loop"].items()):
        raise SystemExit(f"The two loops end with different weights of the {name}.")
    bare_time = timings["bare loop"]
    return [{"training": name, "loop": side, **timing.row(bare_time)} for side, timing in timings.items()]


def make_slices(size: int) -> datasets.Dataset:
    """Random slices with a label each, as a data set in memory."""
    features = {"image": datasets.Array3D((CHANNELS, size, size), "float32"), "label": datasets.Value("int64")}
    images = np.random.default_rng(0).random((SLICES, CHANNELS, size, size), dtype=np.float32)
    rows = {"image": list(images), "label": np.arange(SLICES) % 2}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def read_batches(data: datasets.Dataset, args: TrainingArguments) -> list[dict[str, torch.Tensor]]:
    """The batches that `Trainer` takes, laid out as it lays them out."""
    order = StepBatches(len(data), args.batch_size, args.seed, first=0, last=args.max_steps)
    batches = [data.with_format("torch")[indices] for indices in order]
    return [batch | {"image": batch["image"].contiguous(memory_format=torch.channels_last)} for batch in batches]


def bare(network, loss, batches, args: TrainingArguments) -> dict[str, torch.Tensor]:
    """The weights after a step with each batch."""
    optimizer = make_optimizer(list(network.parameters()), args)
    for step, batch in enumerate(batches):
        loss(network, batch, step_generator(torch.device("cpu"), args.seed, step, 0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.state_dict()


def trained(network, loss, data, args: TrainingArguments) -> dict[str, torch.Tensor]:
    """The weights after the same steps of `Trainer`."""
    Trainer(network, data, loss, args, save=partial(save_weights, args.output_dir)).fit()
    return network.state_dict()


def save_weights(folder: str, network: torch.nn.Module) -> None:
    torch.save(network.state_dict(), Path(folder, "weights.pt"))


def diffusion_loss(unet, batch, generator) -> torch.Tensor:
    """Eq. 6.5 of a batch."""
    image = batch["image"]
    noise = torch.randn(image.shape, generator=generator)
    timestep = torch.randint(len(ALPHAS), (len(image),), generator=generator)
    return diffusion_losses(unet, image, noise, timestep, ALPHAS).mean()


def classifier_loss(classifier, batch, generator) -> torch.Tensor:
    """Cross-entropy of a batch."""
    return classification_loss(classifier(batch["image"]).logits, batch["label"])


if __name__ == "__main__":
    run_script(main)
