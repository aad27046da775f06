"""How far methods were taken: how long networks were trained and whether they still improve, and whether the best
setting of a search lies inside of what was tried.

A network that still improves, and a best value that is the last one tried, are marked in the tables: a method that is
ahead of such a row may only be ahead of its training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..training.run_log import DURATION, HISTORY

LEAST_GAIN = 0.01  # share of the validation loss by which a network has to improve, to be called improving
SEARCHED = {  # settings of the methods' own, each with the value that ends its range, if there is one
    "noise_level": None,
    "percentile": None,
    "guidance_scale": None,
    "healthy_share": None,
    "region_size": None,
    "erosion_size": 1,
    "median_size": 1,
}


@dataclass(frozen=True)
class Training:
    """One trained network: steps, hours (None where they were not recorded), and whether it still improves (None with
    fewer than three validations)."""

    name: str
    steps: int
    hours: float | None
    still_improving: bool | None


def training_of(folder: str | Path) -> Training:
    """What the folder of a trained network says; of f-AnoGAN, of its GAN and its encoder together.

    It still improves where the lowest loss of the last third of its validations is lower than all before by 1 %.

    Raises:
        InputError: no network was trained in the folder.
    """
    path = Path(folder)
    if not (path / HISTORY).exists():
        raise InputError(f"{folder} holds no {HISTORY}, so no network was trained there.")
    lines = [json.loads(line) for line in (path / HISTORY).read_text().splitlines()]
    losses = [line["validation"]["loss"] for line in lines if "validation" in line]
    took = [json.loads(one.read_text()) for one in (path / DURATION, path / "gan" / DURATION) if one.exists()]
    steps = sum(one["steps"] for one in took) if took else max((line["step"] for line in lines), default=0)
    hours = sum(one["seconds"] for one in took) / 3600 if took else None
    return Training(path.name, steps, hours, improves(losses))


def improves(losses: Sequence[float]) -> bool | None:
    """Whether the last third of the validations holds a loss that is lower than all before it, by 1 % of its size."""
    before = len(losses) - len(losses) // 3
    if before == len(losses):
        return None
    return min(losses[before:]) < min(losses[:before]) - LEAST_GAIN * abs(min(losses[:before]))


def chosen_of(tuning: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The setting that a search chose; `tuning` as `assemble_competitors.py` writes it."""
    marked = [one for one in tuning if one.get("chosen")]
    return dict((marked or [max(tuning, key=lambda one: one["dice"])])[0]["setting"])


def at_an_edge(tuning: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings of which the chosen value is the lowest or the highest of several that were tried.

    A value that ends its range, such as a square of one pixel, is no edge: there is nothing beyond it.
    """
    chosen, found = chosen_of(tuning), []
    for name, end in SEARCHED.items():
        values = {one["setting"][name] for one in tuning if name in one["setting"]}
        if len(values) > 1 and chosen[name] in (min(values), max(values)) and chosen[name] != end:
            found.append(name)
    return found
