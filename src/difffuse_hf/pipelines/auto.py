"""A saved pipeline of this package, whichever it is."""

import json
from pathlib import Path

import torch

from ..errors import InputError
from ..io.hub import model_folder


def load_pipeline(folder: str | Path, device: str | torch.device = "cpu"):
    """The pipeline saved in `folder`, of the class that its model_index.json names, in eval mode on `device`.

    The name `demo` stands for the folder of the embedded checkpoint.

    Raises:
        InputError: there is no pipeline, or it is none of this package.
    """
    import difffuse_hf

    folder = model_folder(folder)
    index = folder / "model_index.json"
    if not index.exists():
        raise InputError(f"{folder} holds no pipeline (no model_index.json); save one there with `save_pretrained`.")
    name = json.loads(index.read_text()).get("_class_name", "")
    if not name.endswith("Pipeline") or name not in difffuse_hf.__all__:
        raise InputError(f"{index} names the class {name!r}, which is no pipeline of this package.")
    return getattr(difffuse_hf, name).from_pretrained(folder).to(device)
