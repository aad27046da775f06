"""What several commands share: their choices, the device, and extras that may not be installed."""

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Any

import typer

from ..errors import InputError


class PresetName(str, Enum):
    fast, exact, thesis, reference_code = "fast", "exact", "thesis", "reference_code"


class DtypeName(str, Enum):
    auto, float32, bfloat16 = "auto", "float32", "bfloat16"


class CounterfactualsOf(str, Enum):
    shown, all = "shown", "all"


class Layout(str, Enum):
    brats2021, wmh, ist3, mosmed = "brats2021", "wmh", "ist3", "mosmed"


class PhantomLayout(str, Enum):
    brats2021, mr, wmh, ist3, mosmed = "brats2021", "mr", "wmh", "ist3", "mosmed"


class RegistrationQuality(str, Enum):
    scan, mixture = "scan", "mixture"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="a GPU if there is one")]


def check_device(name: str | None) -> str:
    """The device to compute on; bad usage if this machine does not have it."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise typer.BadParameter(
            f"{name!r} is not a device of this machine; leave it out or say cpu", param_hint="--device"
        ) from error
    return name


def check_finite(**values: float | None) -> None:
    """Bad usage if an option is nan or inf, which the least and the most of a number let through."""
    for name, value in values.items():
        if value is not None and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is no number to compute with", param_hint=f"--{name.replace('_', '-')}")


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Imports that need an extra: says which one to install where a module is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing; install it: pip install 'difffuse_hf[{name}]'.") from error


def complain(sentence: str) -> None:
    """Print an error as every command does: one sentence on stderr."""
    print(f"difffuse: {sentence}", file=sys.stderr)


def say(text: str) -> None:
    """Print words of strangers, such as a card, without what would steer the terminal."""
    print(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text))


def print_json(value: Any) -> None:
    """Print a value for scripts on stdout; paths as text."""
    print(json.dumps(value, indent=2, default=str))
