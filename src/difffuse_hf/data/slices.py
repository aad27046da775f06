"""Slices for training, from wherever they lie.

A set of slices has the columns `image` (C, H, W) float32 in [0, 1] and `label` (0 healthy, 1 lesion), and stays on
disk as memory-mapped Arrow whatever its size.
"""

from pathlib import Path

import numpy as np

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
            shards = sorted(str(file) for file in folder.rglob(f"{split}-*.parquet"))
            if not shards:
                raise KeyError(split)
            # by their names: with the folder's alone, a cache would be taken for one that has the same last name
            slices = datasets.load_dataset("parquet", data_files={split: shards})[split]
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
