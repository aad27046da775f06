"""A tiny set of slices, the flags that make every training script quick, and what a training leaves."""

import importlib.util
import json
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[1] / "examples"
UNET = ["--block_out_channels", "8", "8", "--attention_levels", "1", "--norm_num_groups", "4"]
TINY = {
    "train_classifier": [
        *("--backbone", "resnet10t", "--channels", "8", "8", "8", "8", "--dropout", "0.5", "--balance_classes"),
        *("--noise_augmentation", "0.1", "--shift_augmentation", "2", "--intensity_augmentation", "0.1"),
        *("--lr_scheduler", "constant"),
    ],
    "train_autoencoder": [
        *("--channels", "4", "4", "4", "--gradient_accumulation_steps", "2", "--intensity_augmentation", "0.1"),
        *("--lr_scheduler", "constant", "--max_grad_norm", "1"),
    ],
    "train_denoising_ae": ["--channels", "4", "4", "--noise_resolution", "4", "--flip"],
    "train_itermask": [*UNET, "--layers_per_block", "1"],
    "train_noisy_classifier": [*UNET, "--layers_per_block", "1", "--balance_classes", "--max_timestep", "500"],
    "train_diffusion": [
        *(*UNET, "--layers_per_block", "1", "--warmup_steps", "3", "--intensity_augmentation", "0.1"),
        *("--display_steps", "2"),
    ],
    "train_fanogan": ["--sample_size", "16", "--width", "2", "--latent_size", "3", "--critic_steps", "2"],
    "train_acat": [],
}


def write_slices(folder):
    """Twenty-two training slices, half of them with a bright square, as `save_to_disk` writes them."""
    random = np.random.default_rng(0)

    def split(count):
        image = random.uniform(0, 0.5, (count, 2, 16, 16)).astype(np.float32)
        label = np.arange(count) % 2
        image[label == 1, :, 4:8, 4:8] += 0.5
        features = {
            "image": datasets.Array3D((2, 16, 16), "float32"),
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
        }
        return datasets.Dataset.from_dict({"image": list(image), "label": label}, features=datasets.Features(features))

    datasets.DatasetDict(train=split(22), validation=split(8)).save_to_disk(folder)


def load_script(name):
    """A script of `examples/` as a module."""
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def train(script, slices, output, *flags):
    """Run a training script in this process; its weights by name."""
    common = ["--dataset", slices, "--output_dir", output, "--batch_size", 4, "--cpu", "--report_to", "none"]
    load_script(script).main([str(flag) for flag in (*common, *TINY[script], *flags)])
    return weights(output)


def history(output):
    return [json.loads(line) for line in (Path(output) / "history.jsonl").read_text().splitlines()]


def losses(output):
    return [line["loss"] for line in history(output) if "loss" in line]


def weights(output):
    """Of the one model in a folder, or in a folder of it; stages and checkpoints have others."""
    files = [*Path(output).glob("*model.safetensors"), *Path(output).glob("unet/*model.safetensors")]
    (file,) = files
    return load_file(file)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
