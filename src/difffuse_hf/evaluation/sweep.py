"""How well Dif-fuse finds lesions as one of its settings varies and the others stay (thesis Figs. 6.6 and 6.7)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..io.files import write_whole
from .anomaly import Slices, choose_threshold, run_method
from .segmentation import best_dice

Curves = dict[str, dict[float, list[dict[str, float]]]]  # setting: {value: measures of each seed}


def sweep(
    pipeline,
    slices: Slices,
    settings: Mapping[str, Sequence[float]],
    path: Path,
    origin: Mapping,
    num_seeds: int = 3,
    batch_size: int = 16,
    options: Mapping | None = None,
) -> Curves:
    """Dice at the best threshold of each point, and its ceiling; points in the file at `path` are not drawn again.

    Args:
        pipeline: called as `pipeline(image, generator=[...], **options)`.
        slices: with a lesion, of any split but `test`.
        settings: {argument of the pipeline's call: its values}; a setting without a value is left out.
        path: JSON file of the points; begun anew where its `origin` is another one.
        origin: what the points depend on beside the setting and the seed.
        options: further arguments of the pipeline's call.
    """
    done: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"origin": origin}
    if done.pop("origin") != origin:
        done = {}
    curves: Curves = {}
    for name, value in [(name, value) for name, values in settings.items() for value in values]:
        measures = curves.setdefault(name, {}).setdefault(value, [])
        for seed in range(num_seeds):
            key = f"{name} {value:g} {seed}"
            if key not in done:
                call = {**(options or {}), name: value, "batch_size": batch_size}
                maps, _ = run_method(pipeline, slices.images, seed, label=f"{name} = {value:g}", **call)
                done[key] = {"dice": choose_threshold(maps, slices).dice, "best_dice": best_dice(maps, slices.masks)}
                text = json.dumps({"origin": origin, **done}, indent=2)
                write_whole(path, lambda file, text=text: file.write_text(text))
            measures.append(done[key])
    return curves
