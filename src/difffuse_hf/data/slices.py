"""Slices for training: where they are read from, whatever form they lie in.

A set of slices has the columns `image` (C, H, W) float32 in [0, 1] and `label` (0 healthy, 1 lesion), and stays on
disk as memory-mapped Arrow whatever its size. `preview`, if there is one, is a picture of `image` for the eye.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import InputError
from .slice_settings import PREVIEW

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
    slices = slices.remove_columns([name for name in slices.column_names if name == PREVIEW])  # no picture to decode
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
