"""Tiny sets of slices and scans, the flags that make every training script quick, and what a training leaves."""

import importlib.util
import json
from pathlib import Path

import datasets
import numpy as np
import torch
from safetensors.torch import load_file

from difffuse_hf import ACATProcessor

EXAMPLES = Path(__file__).parents[1] / "examples"
SCAN_SHAPE = (2, 1, 20, 18)
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


def write_drawn_slices(folder):
    """Four slices in the validation and in the test split, every second with a lesion that is drawn."""
    masks = np.zeros((4, 16, 16), np.uint8)
    masks[1::2, 5:9, 5:9] = 1
    features = datasets.Features(
        {
            "image": datasets.Array3D((2, 16, 16), "float32"),
            "mask": datasets.Array2D((16, 16), "uint8"),
            "label": datasets.ClassLabel(names=["healthy", "lesion"]),
            "subject": datasets.Value("string"),
        }
    )
    splits = {}
    for seed, split in enumerate(("validation", "test")):
        images = np.random.default_rng(seed).random((4, 2, 16, 16), np.float32) / 2 + masks[:, None] / 2
        columns = {"image": images, "mask": masks, "label": [0, 1, 0, 1], "subject": list("aabb")}
        splits[split] = datasets.Dataset.from_dict(columns, features)
    datasets.DatasetDict(splits).save_to_disk(str(folder))


def write_scans(folder):
    """Half-brain scans with the four labels of a side, as `save_to_disk` writes them."""

    def split(count, first):
        random = np.random.default_rng(first)
        image = random.uniform(0.3, 0.6, (count, *SCAN_SHAPE)).astype(np.float32)
        label = np.arange(count) % 4
        image[(label == 1) | (label == 3), 0, 0, 6:10, 11:15] -= 0.25
        image[(label == 2) | (label == 3), 0, 0, 6:10, 3:7] -= 0.25
        features = {
            "image": datasets.Array4D(SCAN_SHAPE, "float32"),
            "label": datasets.ClassLabel(names=["none", "left", "right", "both"]),
            "scan_id": datasets.Value("string"),
            "patient": datasets.Value("string"),
        }
        names = [f"scan{first + i}" for i in range(count)]
        columns = {"image": list(image), "label": label, "scan_id": names, "patient": names}
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    splits = {"train": split(12, 0), "validation": split(8, 100), "test": split(4, 200)}
    datasets.DatasetDict(splits).save_to_disk(folder)
    ACATProcessor(image_size=SCAN_SHAPE[-2:], num_slices=2).save_pretrained(folder)


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
