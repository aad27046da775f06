"""What a model folder holds, checked before a library opens it: a stranger may have made it.

Configurations are JSON files of finite numbers of a sensible size, weights are safetensors files, components are
classes of this package or diffusers' U-Net, and every file lies in the folder. Nothing is run or allocated here.
"""

import json
import math
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import InputError, first_line
from .files import write_whole

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")  # transformers' name, diffusers' name
_CONFIGURATIONS = ("model_index.json", "config.json", "scheduler_config.json")
MOST_JSON_BYTES = 20_000_000
LARGEST_NUMBER = 100_000  # a whole number in a configuration: a width, a count of layers or of noise levels
OTHER_LOADERS = ("adapter_config.json", "shard-*.safetensors")  # would make a library load something else
_OUR_MODULES = rf"{__name__.partition('.')[0]}\.(?:models|schedulers)\.\w+"
_DIFFUSERS = ("diffusers", "UNet2DModel")


def check_model_folder(name: str | Path, passed: Collection[str] = ()) -> None:
    """Raise an `InputError` if a local folder is no saved pipeline that can be loaded; names on the Hub pass.

    Args:
        name (`str` or `Path`): folder or Hub name.
        passed (`Collection[str]`): components that the caller brings, which the folder need not hold.
    """
    folder = Path(name)
    if not folder.is_dir():
        if len(folder.parts) == 2 and not folder.parent.exists():
            return  # user/name
        raise InputError(f"There is no model folder {folder}; train one, or give a name on the Hub such as user/name.")
    if not (folder / "model_index.json").exists():
        raise InputError(f"{folder} is not a saved pipeline: it has no model_index.json.")
    index = read_json(folder / "model_index.json")
    if not isinstance(index.get("_class_name"), str):
        raise InputError(f"{folder / 'model_index.json'} does not name a pipeline of this package in `_class_name`.")
    for component in components_of({name: value for name, value in index.items() if name not in passed}, folder):
        if not any((folder / component).glob("*.json")):
            raise InputError(f"{folder} is incomplete: {component}/ is missing or has no configuration.")
        for file in (folder / component).glob("*.json"):
            check_inside(file, folder)
            if not file.name.endswith(".index.json"):
                read_json(file)
        is_network = (folder / component / "config.json").is_file()
        if is_network and not any((folder / component).glob("*.safetensors")):
            raise InputError(
                f"{folder} has no weights: {component}/ has no .safetensors file; copy or download it again."
            )


def components_of(index: dict[str, Any], folder: Path) -> dict[str, tuple[str, str]]:
    """The components that a model_index.json names, {name: (module, class)}; absent ones are `[null, null]`.

    Raises:
        InputError: one is neither a class of this package nor diffusers' U-Net.
    """
    found = {}
    for name, value in index.items():
        if name.startswith("_") or not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)):
            continue
        module, kind = value
        known = (module, kind) == _DIFFUSERS or re.fullmatch(_OUR_MODULES, module)
        if not (known and isinstance(kind, str) and kind.isidentifier() and name.isidentifier()):
            raise InputError(
                f"{folder / 'model_index.json'} names {module}.{kind} as {name}, which is no component of this "
                "package; models with code of their own are not loaded."
            )
        found[name] = module, kind
    return found


def read_json(path: Path, largest: float = LARGEST_NUMBER) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path (`Path`): the file.
        largest (`float`): of its whole numbers.

    Raises:
        InputError: it cannot be read, or holds numbers that are not finite or larger than any setting.
    """
    again = "copy or download the model again"
    if not path.is_file() or path.stat().st_size > MOST_JSON_BYTES:
        raise InputError(f"{path} is missing, no plain file or too large for a configuration; {again}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        numbers = list(_numbers(content))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file ({first_line(error).rstrip('.')}); {again}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; {again}.")
    for where, number in numbers:
        if not math.isfinite(number):
            raise InputError(f"`{where}` in {path} is {number}, which is no setting; {again}.")
        if isinstance(number, int) and abs(number) > largest:
            raise InputError(f"`{where}` in {path} is {number:.3g}, more than any model has ({largest:g}).")
    return content


def _numbers(value: Any, where: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers in a JSON value, each with the name that it stands under."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _numbers(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield where, value


def check_inside(file: Path, folder: Path) -> None:
    """`InputError` if a file is a link that leads out of the folder or, in the Hub's cache, out of its repository."""
    home, real = folder.resolve(), file.resolve()
    snapshot = next((one for one in (home, *home.parents) if one.parent.name == "snapshots"), None)
    homes = [home] if snapshot is None else [home, snapshot.parents[1] / "blobs"]
    if not any(real.is_relative_to(one) for one in homes):
        raise InputError(f"{file} is a link to {real}, outside of {folder}; put the file itself there.")


def stored_tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """{name: (shape, dtype)} of the tensors in the weights of a network's folder, from the heads of their files.

    The dtype is spelled as in safetensors: "F16", "BF16", "F32".

    Raises:
        InputError: there are no weights in safetensors, they are damaged or lie elsewhere.
    """
    for pattern in OTHER_LOADERS:
        if found := sorted(folder.glob(pattern)):
            raise InputError(f"{found[0]} does not belong into a model folder of this package; remove it.")
    stored = {}
    for file in _weight_files(folder):
        check_inside(file, folder)
        if not file.is_file():
            raise InputError(f"{folder} is incomplete: {file.name} is missing or no plain file.")
        try:
            with safe_open(file, "np") as tensors:
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}
                stored |= {name: (tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file} is damaged or cut off ({first_line(error).rstrip('.')}); copy or download it again."
            ) from None
    return stored


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors in the weights of a network's folder, see `stored_tensors`."""
    return {name: shape for name, (shape, _) in stored_tensors(folder).items()}


def _weight_files(folder: Path) -> list[Path]:
    """The files of the weights: one, or those that an index lists."""
    for name in WEIGHTS:
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            check_inside(index, folder)
            listed = read_json(index, largest=math.inf).get("weight_map")
            files = {str(file) for file in listed.values()} if isinstance(listed, dict) else set()
            strange = sorted(file for file in files if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", file))
            if strange or not files:
                raise InputError(f"{index} lists no safetensors files of its folder: {strange[:1] or 'none at all'}.")
            return [folder / file for file in sorted(files)]
    raise InputError(
        f"{folder} has no weights: no file {' or '.join(WEIGHTS)}; other formats can run code and are not read."
    )


def forget_origin(folder: str | Path) -> None:
    """Take out of a saved model where its parts were loaded from, which diffusers writes into their JSON files.

    A model is passed on, and the names of its maker's folders are nobody's business.
    """
    index = Path(folder, "model_index.json")
    parts = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}  # names of a pipeline's folders
    saved = [Path(folder), *(Path(folder, name) for name, kind in parts.items() if isinstance(kind, list))]
    for file in (Path(place, name) for place in saved for name in _CONFIGURATIONS):
        values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if values.pop("_name_or_path", None) is not None:
            text = json.dumps(values, indent=2, sort_keys=True) + "\n"
            write_whole(file, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))
