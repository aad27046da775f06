"""Slices for training: where they are read from, and the random changes made to a batch of them.

A set of slices has the columns `image` (C, H, W) float32 in [0, 1] and `label` (0 healthy, 1 lesion), and stays on
disk as memory-mapped Arrow whatever its size.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import InputError

if TYPE_CHECKING:
    import datasets


def load_slices(dataset: str, split: str, healthy_only: bool = False, **builder_options: Any) -> "datasets.Dataset":
    """A split of a set of slices as a `datasets.Dataset`, from wherever it lies.

    Args:
        dataset (`str`): a folder written by `save_to_disk`, a folder of Parquet shards, a folder of raw BraTS 2021
            cases, or the name of a data set on the Hub.
        split (`str`): `train`, `validation` or `test`.
        healthy_only (`bool`): keep the slices with label 0; the denoiser learns from these alone (Sec. 6.2).
        builder_options: `image_size` (one side) and `pixel_spacing_mm` for a folder of raw cases; `None` means the
            builder's default.

    Raises:
        InputError: there is no such data set or split, or it holds no labelled images.
    """
    try:
        slices = cast("datasets.Dataset", _find_splits(dataset, split, builder_options)[split])
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


def _find_splits(dataset: str, split: str, builder_options: dict[str, Any]) -> Mapping:
    """The splits of a data set, `split` among them if it has it, by what is found under its name."""
    import datasets

    folder = Path(dataset)
    if (folder / "dataset_dict.json").exists():
        return datasets.DatasetDict.load_from_disk(str(folder))
    if (folder / "state.json").exists():
        raise InputError(f"{folder} holds one unnamed set of slices; save a DatasetDict with the split '{split}'.")
    if any(folder.rglob("*.parquet")):
        shards = sorted(str(file) for file in folder.rglob(f"{split}-*.parquet"))
        # by their names: with the folder's alone, a cache would be taken for one that has the same last name
        return datasets.load_dataset("parquet", data_files={split: shards}) if shards else {}
    if any(folder.glob("*/*_flair.nii*")):
        from .prepare import make_builder

        side = builder_options.get("image_size")
        size = None if side is None else (side, side)
        builder = make_builder("brats2021", folder.resolve(), "slices", **{**builder_options, "image_size": size})
        builder.download_and_prepare()
        return cast(Mapping, builder.as_dataset())
    if folder.exists():
        raise InputError(f"{folder} is neither a saved set of slices, nor Parquet shards, nor BraTS 2021 cases.")
    return cast(Mapping, datasets.load_dataset(dataset))


def augment(
    image: torch.Tensor,
    generator: torch.Generator | None = None,
    flip: bool = True,
    intensity: float = 0.0,
    noise: float = 0.0,
    shift: int = 0,
    rotation: float = 0.0,
    zoom: float = 0.0,
    uniforms: torch.Tensor | None = None,
    saliency: torch.Tensor | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Random changes to a batch of slices (B, C, H, W) or scans (B, S, C, H, W) in [0, 1]; black stays black.

    Every slice, or every scan as a whole, is changed in its own way.

    Args:
        generator (`torch.Generator`, *optional*): source of all randomness, on the image's device.
        flip (`bool`): mirror left and right with probability one half.
        intensity (`float`): x → s·x^γ for each channel, with log γ and log s uniform in [-intensity, intensity].
        noise (`float`): adds Gaussian noise with a standard deviation uniform in [0, noise], over the background too.
        shift (`int`): moves a slice by up to this many pixels in both directions.
        rotation (`float`): turns a slice about its centre by up to so many degrees, bilinearly.
        zoom (`float`): magnifies a slice about its centre, log factor uniform in [-zoom, zoom].
        uniforms (`torch.Tensor` of shape `(B, augment_uniforms(C))`, *optional*): numbers in [0, 1) that decide
            everything in place of the generator, row i for sample i: `sample_uniform(seed, batch["position"], ...)`
            makes the changes the same on any number of processes. Which change is on moves no other one's numbers.
        saliency (`torch.Tensor` of shape `(B, 1, H, W)` or `(B, S, 1, H, W)`, *optional*): map to move with the
            image.

    Returns:
        `torch.Tensor` of the image's shape, or with `saliency` the pair of both.
    """
    batch, channels, (height, width) = len(image), image.shape[-3], image.shape[-2:]
    single = (1,) * (image.ndim - 1)
    needed = augment_uniforms(channels)
    if uniforms is not None and (uniforms.ndim != 2 or len(uniforms) != batch or uniforms.shape[1] < needed):
        raise ValueError(
            f"`uniforms` has the shape {tuple(uniforms.shape)}, but {batch} samples with {channels} channels take "
            f"({batch}, {needed}): `sample_uniform(seed, batch['position'], augment_uniforms({channels}))`."
        )

    def uniform(first, *shape):
        if uniforms is None:
            return torch.rand((batch, *shape), generator=generator, device=image.device)
        return uniforms[:, first : first + math.prod(shape)].reshape(batch, *shape)

    if flip:
        mirror = (uniform(0) < 0.5).view(batch, *single)
        image = torch.where(mirror, image.flip(-1), image)
        if saliency is not None:
            saliency = torch.where(mirror, saliency.flip(-1), saliency)
    if shift:
        offsets = (uniform(1, 2) * (2 * shift + 1)).long().tolist()

        def moved(stack):
            padded = F.pad(stack, [shift] * 4)
            return torch.stack([padded[i, ..., y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)])

        image = moved(image)
        saliency = None if saliency is None else moved(saliency)
    if rotation or zoom:
        turn, growth = (2 * uniform(5 + 2 * channels, 2) - 1).unbind(1)
        angle, scale = torch.deg2rad(rotation * turn), (zoom * growth).exp()
        image = turned(image, angle, scale)
        saliency = None if saliency is None else turned(saliency, angle, scale)
    if intensity:
        gamma, scale = ((2 * uniform(5, 2, channels) - 1) * intensity).exp().unbind(1)  # [B,C] each
        each = (batch, *single[:-3], channels, 1, 1)
        image = scale.view(each) * image ** gamma.view(each)
    if noise:
        strength = noise * uniform(3).view(batch, *single)
        if uniforms is None:
            normal = torch.randn(image.shape, generator=generator, device=image.device)
        else:
            seeds = (uniforms[:, 4].double() * 2**24).long().tolist()
            normal = torch.stack(
                [
                    torch.randn(
                        image.shape[1:],
                        generator=torch.Generator(image.device).manual_seed(seed),
                        device=image.device,
                    )
                    for seed in seeds
                ]
            )
        image = image + strength * normal
    image = image.clamp(0, 1)
    return image if saliency is None else (image, saliency)


def augment_uniforms(channels: int) -> int:
    """How many numbers `augment` takes for a sample: flip, 2 shift, 2 noise (strength, seed), 2 for each channel,
    rotation and zoom."""
    return 7 + 2 * channels


def turned(image: torch.Tensor, angle: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Slices (B, C, H, W) or scans (B, S, C, H, W) turned and magnified about their centre, bilinearly, 0 outside.

    Args:
        angle (`torch.Tensor` of shape `(B,)`): radians, clockwise as images are shown (rows downwards).
        scale (`torch.Tensor` of shape `(B,)`): factor of size.
    """
    stack = image.flatten(1, -3)  # slices and channels of a sample move alike
    height, width = stack.shape[-2:]
    cosine, sine, zero = angle.cos() / scale, angle.sin() / scale, torch.zeros_like(angle)
    to_source = torch.stack(  # of coordinates that run from -1 to 1 along each side, whatever its length
        [cosine, sine * height / width, zero, -sine * width / height, cosine, zero], dim=1
    )
    grid = F.affine_grid(to_source.view(-1, 2, 3), list(stack.shape), align_corners=False)
    return F.grid_sample(stack, grid.to(stack.dtype), align_corners=False).view(image.shape)


def mirrored(uniforms: torch.Tensor) -> torch.Tensor:
    """Which samples (B,) `augment(..., flip=True, uniforms=uniforms)` mirrors."""
    return uniforms[:, 0] < 0.5


def flip_labels(labels: torch.Tensor, flipped: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Labels (B,) after a flip: where `flipped` (B,) is true, the classes named "left" and "right" change places.

    Args:
        labels (`torch.Tensor` of shape `(B,)`): class indices.
        flipped (`torch.Tensor` of shape `(B,)`): which samples were mirrored, see `mirrored`.
        names (sequence of `str`): the classes by index; without "left" and "right" nothing changes.
    """
    names = list(names)
    if ("left" in names) != ("right" in names):
        raise ValueError(f"`names` has only one of the classes 'left' and 'right', got {names}; a flip needs both.")
    if "left" not in names:
        return labels
    other = torch.arange(len(names), device=labels.device)
    other[names.index("left")], other[names.index("right")] = names.index("right"), names.index("left")
    return torch.where(flipped, other[labels], labels)
