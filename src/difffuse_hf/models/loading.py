"""Networks from folders that strangers may have made: safetensors only, whole, finite, no larger than their weights.

What the folder describes is built without memory (torch's device `meta`) and compared with the tensors that its
weights hold, before anything is loaded.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.configuration_utils import ConfigMixin
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import InputError, one_sentence
from ..io.hub import local_folder
from ..io.model_folder import check_inside, read_json, stored_shapes
from .configuration_guided import BASES

Shapes: TypeAlias = dict[str, tuple[int, ...]]

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
OF_THE_LIBRARIES = {  # fields of a configuration beside those of its class
    *("_name_or_path", "model_type", "num_labels", "output_attentions", "torch_dtype", "problem_type"),
    *("_class_name", "_diffusers_version"),
}
COUNTERS = "num_batches_tracked"  # of batch norm; old files lack them, and nothing in here depends on them


class CheckedNetwork:
    """What comes first in the bases of each network of the package: `from_pretrained` looks before it loads."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **options: Any) -> Any:
        """Load from a folder or the Hub, as the library does; weights from safetensors only.

        Raises:
            InputError: the folder is incomplete, damaged or not what its weights hold, or the Hub does not give it.
        """
        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        folder = local_folder(pretrained_model_name_or_path, **hub)
        place = folder / (options.get("subfolder") or "")
        check_network(cls, place, options)
        loaded: Any = super().from_pretrained(folder, *args, **{**options, "use_safetensors": True})  # pyright: ignore[reportAttributeAccessIssue]
        check_finite(loaded[0] if isinstance(loaded, tuple) else loaded, place)
        return loaded


def check_network(kind: type, folder: Path, options: Mapping[str, Any] | None = None) -> None:
    """Raise an `InputError` unless a folder's weights are those of the network that its configuration describes.

    Args:
        kind (`type`): class of the network.
        folder (`Path`): with `config.json` and weights.
        options: of `from_pretrained`. With one that is a setting of the network, it is not the one in the folder that
            is wanted, and some tensors may be missing.
    """
    check_inside(folder / "config.json", folder)
    content = read_json(folder / "config.json")
    check_settings(kind, content, folder)
    stored = stored_shapes(folder)
    if (settings_of(kind) - known_fields(PreTrainedConfig)) & (options or {}).keys():
        return
    described = described_shapes(kind, content, folder, stored)
    missing = [name for name in described if name not in stored and not name.endswith(COUNTERS)]
    if missing:
        raise InputError(
            f"{folder} is incomplete: its weights lack {len(missing)} of {len(described)} tensors, {missing[0]} among "
            "them; copy or download it again."
        )
    for name, shape in described.items():
        if stored.get(name, shape) != shape:
            raise InputError(
                f"{folder} contradicts itself: {name} has the shape {stored[name]} and config.json describes {shape}."
            )


def check_settings(kind: type, content: Mapping[str, Any], folder: Path) -> None:
    """`InputError` for a field that the class does not know: the libraries would act on some of them."""
    known = settings_of(kind) | OF_THE_LIBRARIES
    inner = content.get("base")
    base = inner if isinstance(inner, dict) else {}
    known_in_base = known_fields(*BASES.values())
    for name in [*(set(content) - known), *(set(base) - known_in_base - OF_THE_LIBRARIES)]:
        raise InputError(
            f"`{name}` in {folder / 'config.json'} is no setting of a {kind.__name__}; models with code or formats of "
            "their own are not loaded."
        )


def settings_of(kind: type) -> set[str]:
    """Names of the settings that a network's configuration has."""
    if issubclass(kind, PreTrainedModel):
        return known_fields(kind.config_class)
    own = [one for one in kind.__mro__ if issubclass(one, ConfigMixin) and "__init__" in vars(one)]  # and inherited
    return {name for one in own for name in inspect.signature(one.__init__).parameters} - {"self"}


def known_fields(*configurations: Any) -> set[str]:
    return {field.name for configuration in configurations for field in dataclasses.fields(configuration)}


def described_shapes(kind: Any, content: Mapping[str, Any], folder: Path, stored: Shapes) -> Shapes:
    """{name: shape} of the tensors of the network that a configuration describes, which takes no memory.

    Raises:
        InputError: no network has this configuration, or a much larger one than these stored tensors.
    """
    try:
        with _as_large_as(stored), torch.device("meta"):
            if issubclass(kind, PreTrainedModel):
                configuration: Any = kind.config_class
                network: torch.nn.Module = kind(configuration.from_dict(dict(content)))
            else:
                network = kind.from_config(dict(content))
    except _TooLarge:
        raise InputError(
            f"{folder} contradicts itself: config.json describes a larger network than its weights hold."
        ) from None
    except Exception as error:  # whatever four libraries raise at a setting that makes no sense
        raise InputError(
            f"{folder / 'config.json'} describes no {kind.__name__} ({one_sentence(error).rstrip('.')})."
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def check_finite(network: torch.nn.Module, folder: Path) -> None:
    """`InputError` if a weight is NaN or infinite: such a network would find nothing, and look as if there were
    nothing to find."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{folder} is damaged: its weights in {name} are NaN or infinite; copy it again.")


class _TooLarge(Exception):
    pass


@contextmanager
def _as_large_as(stored: Shapes) -> Iterator[None]:
    """Networks made in here may have as many tensors and numbers, twice over where modules are made and replaced."""
    tensors, numbers = 2 * len(stored) + 100, 2 * sum(map(prod, stored.values())) + 1_000_000

    def count(_module, _name, parameter):
        nonlocal tensors, numbers
        tensors -= 1
        numbers -= 0 if parameter is None else parameter.numel()
        if min(tensors, numbers) < 0:
            raise _TooLarge

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
