"""Slices for training: where they are read from, and the random changes made to a batch of them.

A set of slices has the columns `image` (C, H, W) float32 in [0, 1] and `label` (0 healthy, 1 lesion), and stays on
disk as memory-mapped Arrow whatever its size.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import InputError


def load_slices(dataset: str, split: str, healthy_only: bool = False, **builder_options):
    """A split of a set of slices as a `datasets.Dataset`, from wherever it lies.

    Args:
        dataset (`str`): a folder written by `save_to_disk`, a folder of Parquet shards, a folder of raw BraTS 2021
            cases, or the name of a data set on the Hub.
        split (`str`): `train`, `validation` or `test`.
        healthy_only (`bool`): keep the slices with label 0; the denoiser learns from these alone (Sec. 6.2).
        builder_options: `image_size` (one side) and `pixel_spacing_mm` for a folder of raw cases; `None` means the
            builder's default.
    """
    import datasets

    folder = Path(dataset)
    try:
        if (folder / "dataset_dict.json").exists():
            slices = datasets.load_from_disk(str(folder))[split]
        elif (folder / "state.json").exists():
            raise InputError(f"{folder} holds one unnamed set of slices; save a DatasetDict with the split '{split}'.")
        elif any(folder.rglob("*.parquet")):
            slices = datasets.load_dataset(str(folder))[split]
        elif any(folder.glob("*/*_flair.nii*")):
            from .brats2021 import BraTS2021

            options = {name: value for name, value in builder_options.items() if value is not None}
            if "image_size" in options:
                options["image_size"] = (options["image_size"],) * 2
            builder = BraTS2021(config_name="slices", data_dir=str(folder.resolve()), **options)
            builder.download_and_prepare()
            slices = builder.as_dataset()[split]
        elif folder.exists():
            raise InputError(f"{folder} is neither a saved set of slices, nor Parquet shards, nor BraTS 2021 cases.")
        else:
            slices = datasets.load_dataset(dataset)[split]
    except KeyError:
        raise InputError(f"{dataset} has no split named '{split}'.") from None
    except (FileNotFoundError, ConnectionError):  # the first is also the Hub's answer to an unknown name
        raise InputError(f"No folder and no data set on the Hub is called '{dataset}'.") from None
    missing = {"image", "label"} - set(slices.column_names)
    if missing:
        raise InputError(
            f"{dataset} has no column {' and no column '.join(sorted(missing))}, so it is no set of slices."
        )
    if healthy_only:
        slices = slices.select(np.flatnonzero(np.asarray(slices["label"]) == 0))
    return slices


def augment(
    image: torch.Tensor,
    generator: torch.Generator | None = None,
    flip: bool = True,
    intensity: float = 0.0,
    noise: float = 0.0,
    shift: int = 0,
) -> torch.Tensor:
    """Random changes to a batch of slices (B, C, H, W) in [0, 1], different for every slice; black stays black.

    Args:
        generator (`torch.Generator`, *optional*): source of all randomness, on the image's device.
        flip (`bool`): mirror left and right with probability one half.
        intensity (`float`): x → s·x^γ for each channel, with log γ and log s uniform in [-intensity, intensity].
        noise (`float`): adds Gaussian noise with a standard deviation uniform in [0, noise], over the background too.
        shift (`int`): moves a slice by up to this many pixels in both directions.
    """
    batch, channels, height, width = image.shape

    def uniform(*shape):
        return torch.rand(shape, generator=generator, device=image.device)

    if flip:
        image = torch.where(uniform(batch, 1, 1, 1) < 0.5, image.flip(-1), image)
    if shift:
        offsets = (uniform(batch, 2) * (2 * shift + 1)).long().tolist()
        padded = F.pad(image, [shift] * 4)
        image = torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)])
    if intensity:
        gamma, scale = ((2 * uniform(2, batch, channels, 1, 1) - 1) * intensity).exp()
        image = scale * image**gamma
    if noise:
        strength = noise * uniform(batch, 1, 1, 1)
        image = image + strength * torch.randn(image.shape, generator=generator, device=image.device)
    return image.clamp(0, 1)
