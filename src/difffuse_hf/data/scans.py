"""Scans and slices for classifiers: images, labels, what else is known of them, and saliency maps kept beside them.

Saliency maps of a data set are a folder of their own, `<split>-00000.safetensors` ... beside `saliency.json`: made
once, in any number of processes, and joined to the scans by key. See examples/compute_saliency.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..errors import InputError
from ..io.files import write_whole
from .slices import load_slices

_KEYS = ("scan_id", "subject", "case")  # the first column that is there names a scan
_SUMMARY = "saliency.json"


def load_scans(dataset: str, split: str, saliency: str | None = None, **builder_options: Any) -> datasets.Dataset:
    """A split with the columns `pixel_values`, `label`, `key`, all that the builder knows, and maybe `saliency`.

    Args:
        dataset (`str`): a folder or Hub name, as for `load_slices`; `pixel_values` of a row are (C, H, W) for slices
            and (S, C, H, W) for scans.
        split (`str`): `train`, `validation` or `test`.
        saliency (`str`, *optional*): folder written by examples/compute_saliency.py for this data set.
        builder_options: as for `load_slices`.

    Returns:
        `datasets.Dataset` in torch format; metadata columns stay Python objects.
    """
    rows = load_slices(dataset, split, **builder_options)
    keys = scan_keys(rows)
    rows = rows.rename_column("image", "pixel_values").add_column("key", keys)
    if saliency is not None:
        rows = join_saliency(rows, Path(saliency), split, keys)
    columns = [name for name in ("pixel_values", "saliency", "label") if name in rows.column_names]
    return rows.with_format("torch", columns=columns, output_all_columns=True)


def scan_keys(rows: datasets.Dataset) -> list[str]:
    """A name for every row that does not depend on its split or order."""
    name = next((name for name in _KEYS if name in rows.column_names), None)
    keys = [str(i) for i in range(len(rows))] if name is None else [str(key) for key in rows[name]]
    if "slice" in rows.column_names:
        keys = [f"{key}_{index:03d}" for key, index in zip(keys, rows["slice"])]
    if len(set(keys)) != len(keys):
        raise InputError(f"Several rows have the same `{name}`; a scan must be named once to be joined to its map.")
    return keys


class SaliencyStore:
    """Maps of one split, in files of `chunk` rows each; a file that has its name is complete.

    Args:
        folder (`Path`), split (`str`): where.
        settings (`dict`): how the maps are made; a folder made otherwise is refused.
    """

    def __init__(self, folder: Path | str, split: str, settings: dict, chunk: int = 32):
        self.folder, self.split, self.chunk = Path(folder), split, chunk
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = {**settings, "chunk": chunk}
        path = self.folder / _SUMMARY
        if path.exists():
            known = json.loads(path.read_text())
            different = [name for name, value in self.settings.items() if known.get(name) != value]
            if different:
                raise InputError(
                    f"{folder} holds maps made with another {different[0]} ({known.get(different[0])}, now "
                    f"{self.settings[different[0]]}); choose another folder."
                )
        else:
            write_whole(path, lambda temporary: temporary.write_text(json.dumps(self.settings, indent=2)))

    def missing(self, num_rows: int) -> list[range]:
        """Rows of the files that are not there yet."""
        parts = [range(start, min(start + self.chunk, num_rows)) for start in range(0, num_rows, self.chunk)]
        return [part for part in parts if not self._file(part.start).exists()]

    def write(self, rows: range, keys: list[str], maps: torch.Tensor) -> None:
        """Maps (n, ..., 1, H, W) in [0, 1] of `rows`, in steps of 1/65535."""
        stored = (maps.clamp(0, 1) * 65535).round().to(torch.uint16).contiguous().cpu()
        named = {"keys": json.dumps(keys)}
        write_whole(self._file(rows.start), lambda path: save_file({"saliency": stored}, path, metadata=named))

    def _file(self, start: int) -> Path:
        return self.folder / f"{self.split}-{start // self.chunk:05d}.safetensors"


def join_saliency(rows: datasets.Dataset, folder: Path, split: str, keys: list[str]) -> datasets.Dataset:
    """`rows` with the column `saliency` ((S,) 1, H, W) read from a folder of maps; every row must have one."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder} of saliency maps; make it with examples/compute_saliency.py.")
    maps = {}
    for path in sorted(folder.glob(f"{split}-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stored, named = file.get_tensor("saliency"), json.loads(file.metadata()["keys"])
        maps.update(zip(named, stored))
    missing = [key for key in keys if key not in maps]
    if missing:
        raise InputError(
            f"{folder} has no saliency map for {len(missing)} of {len(keys)} scans of the split '{split}', the first "
            f"being {missing[0]}; run examples/compute_saliency.py on this data set."
        )
    shape = tuple(maps[keys[0]].shape)
    size = tuple(rows.features["pixel_values"].shape[-2:])
    if shape[-2:] != size:
        raise InputError(f"The maps in {folder} are {shape[-2:]} pixels and the images {size}; make them again.")
    feature = (datasets.Array3D if len(shape) == 3 else datasets.Array4D)(shape, "float32")

    def generate() -> Iterator[dict]:
        for key in keys:
            yield {"saliency": maps[key].numpy().astype(np.float32) / 65535}

    column = datasets.Dataset.from_generator(
        generate, features=datasets.Features({"saliency": feature}), fingerprint=_fingerprint(folder, split, keys)
    )
    return datasets.concatenate_datasets([rows, column], axis=1)


def _fingerprint(folder: Path, split: str, keys: list[str]) -> str:
    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.glob(f"{split}-*"))]
    return datasets.fingerprint.Hasher.hash([str(folder.resolve()), split, keys, files])
