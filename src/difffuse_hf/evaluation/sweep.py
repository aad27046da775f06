"""How well Dif-fuse finds lesions as its settings vary: one by one, and noise level against percentile (Fig. 6.6)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..io.files import write_whole
from .anomaly import Slices, choose_threshold, run_method
from .segmentation import best_dice

Measures = list[dict[str, float]]  # of each seed
Curves = dict[str, dict[float, Measures]]  # setting: {value: measures}
Grid = dict[float, dict[float, Measures]]  # noise level: {percentile: measures}


class Sweep:
    """Dice at the best threshold of each point, and its ceiling; points in a file are not drawn again.

    Args:
        pipeline: called as `pipeline(image, generator=[...], **options)`.
        slices: with a lesion, of any split but `test`.
        path: JSON file of the points; begun anew where its `origin` is another one.
        origin: what the points depend on beside the settings and the seed.
        options: further arguments of the pipeline's call.
    """

    def __init__(
        self,
        pipeline,
        slices: Slices,
        path: Path,
        origin: Mapping,
        num_seeds: int = 3,
        batch_size: int = 16,
        options: Mapping | None = None,
    ):
        self.pipeline, self.slices, self.path, self.origin = pipeline, slices, path, origin
        self.num_seeds, self.call = num_seeds, {**(options or {}), "batch_size": batch_size}
        self.done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"origin": origin}
        if self.done.pop("origin") != origin:
            self.done = {}

    def curves(self, settings: Mapping[str, Sequence[float]]) -> Curves:
        """Each setting varied while the others stay: {argument of the call: its values}."""
        return {name: {value: self.at({name: value}) for value in some} for name, some in settings.items() if some}

    def grid(self, noise_levels: Sequence[int], percentiles: Sequence[float]) -> Grid:
        """Every noise level K with every percentile τ."""
        return {
            level: {share: self.at({"noise_level": level, "percentile": share}) for share in percentiles}
            for level in noise_levels
        }

    def at(self, setting: Mapping[str, float]) -> Measures:
        """The measures of one point."""
        name = " ".join(f"{name} {value:g}" for name, value in setting.items())
        for seed in range(self.num_seeds):
            key = f"{name} {seed}"
            if key not in self.done:
                maps, _ = run_method(self.pipeline, self.slices.images, seed, label=name, **{**self.call, **setting})
                ceiling = best_dice(maps, self.slices.masks)
                self.done[key] = {"dice": choose_threshold(maps, self.slices).dice, "best_dice": ceiling}
                text = json.dumps({"origin": self.origin, **self.done}, indent=2)
                write_whole(self.path, lambda file, text=text: file.write_text(text))
        return [self.done[f"{name} {seed}"] for seed in range(self.num_seeds)]

    def pictures(self, noise_levels: Sequence[int], count: int = 4) -> dict[str, dict[str, np.ndarray]]:
        """A few slices with what each noise level makes of them (Fig. 6.7), for a figure of methods."""
        shown = torch.linspace(0, len(self.slices.images) - 1, min(count, len(self.slices.images))).long()
        made = {}
        for level in noise_levels:
            name = f"K = {level}"
            maps, counterfactuals = run_method(
                self.pipeline, self.slices.images, 0, label=name, **{**self.call, "noise_level": level}
            )
            made[name] = {
                "image": self.slices.images[shown, :1].numpy(),
                "lesion": self.slices.masks[shown].numpy(),
                "counterfactual": counterfactuals[shown, :1].numpy(),
                "map": maps[shown].numpy(),
                "threshold": np.array(choose_threshold(maps, self.slices).value),
            }
        return made
