"""What a saved pipeline is, in numbers and words: from its JSON files, the heads of its weights and its model card.

No network is built and no weight is read, so that this takes no longer than to look into the folder.
"""

from collections import Counter
from dataclasses import asdict, fields
from math import prod
from pathlib import Path
from typing import Any

from ..data.slice_settings import LESION_PROBABILITY, SliceSettings
from ..errors import InputError, first_line
from ..io.hub import EMBEDDED, embedded_folder, model_folder
from ..io.model_card import card_line, card_section
from ..io.model_folder import components_of, read_json, stored_tensors

DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}  # safetensors, torch
BATCH_NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # stored, and not parameters
# Of a `Calibration`.
_OF_PRESET = ("threshold", "noise_level", "percentile", "false_positive_thresholds", "chosen_by", "scan")


def describe_model(name: str | Path) -> dict[str, Any]:
    """What `difffuse info --json` prints.

    Args:
        name: a folder, a name on the Hub (`user/name`, downloaded into its cache), or embedded (`EMBEDDED`).

    Returns:
        `model`, `folder`, `pipeline`: the name that was given, where it lies, the class of the pipeline.
        `bytes`: of all files in the folder.
        `card`: the first sentence of its model card; `training_data`, `scores`: these sections of it, in Markdown.
        `takes`: `kind` of scan, and the settings of `SliceSettings` by their names; None for a model of slices only.
        `networks`: {component: `class`, `parameters`, `dtype`}, the last as most of the weights are stored.
        `preset`, `noise_level`, `percentile`: the pipeline's own, where a call does not say otherwise.
        `anomaly_threshold`, `false_positive_thresholds`: of the presets that were not calibrated by themselves.
        `lesion_probability_threshold`: of the classifier, below which a slice is left as it is.
        `presets`: {preset that was calibrated: `threshold`, `noise_level`, `percentile`, `false_positive_thresholds`,
            `chosen_by`, `scan`}.

    Raises:
        InputError: there is no such model, or its folder is incomplete or damaged.
    """
    folder = model_folder(name)
    index = read_json(folder / "model_index.json")
    components = components_of(index, folder)
    networks = {name: kind for name, (_, kind) in components.items() if (folder / name / "config.json").is_file()}
    file = folder / "processor" / "preprocessor_config.json"
    processor = read_json(file) if "processor" in components else {}
    return {
        "model": str(name),
        "folder": str(folder),
        "pipeline": index["_class_name"],
        "bytes": sum(one.stat().st_size for one in folder.rglob("*") if one.is_file()),
        "card": card_line(folder),
        "takes": _takes(processor, file) if processor else None,
        "networks": {name: {"class": kind, **_weights(folder / name)} for name, kind in networks.items()},
        **{setting: index.get(setting) for setting in ("preset", "noise_level", "percentile")},
        "anomaly_threshold": processor.get("anomaly_threshold"),
        "false_positive_thresholds": processor.get("false_positive_thresholds", {}),
        "lesion_probability_threshold": processor.get("lesion_probability_threshold", LESION_PROBABILITY),
        "presets": _calibrated(processor, file),
        "training_data": card_section(folder, "Training data"),
        "scores": card_section(folder, "Scores"),
    }


def embedded_models() -> list[dict[str, Any]]:
    """The models that come with the package: `model`, `kind` of scan, `bytes`, and `card`, its first sentence."""
    found = [describe_model(name) for name in EMBEDDED if (embedded_folder(name) or Path()).is_dir()]
    kinds = [one["takes"] and one["takes"]["kind"] for one in found]
    return [
        {"model": one["model"], "kind": kind, "bytes": one["bytes"], "card": one["card"]}
        for one, kind in zip(found, kinds)
    ]


def _takes(processor: dict[str, Any], file: Path) -> dict[str, Any]:
    """The kind of scan and the settings of its slices."""
    known = {one.name for one in fields(SliceSettings)} & processor.keys()
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value := processor[name], list) else value for name in known
    }
    try:
        settings = SliceSettings(**given)
        ", ".join(settings.modalities)  # words, in a list
    except (TypeError, ValueError) as error:
        reason = first_line(error).rstrip(".")
        raise InputError(f"{file} does not say how slices are cut ({reason}); copy or download it again.") from error
    return {"kind": settings.kind, **asdict(settings)}


def _calibrated(processor: dict[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """What was chosen for each preset that was calibrated."""
    presets = processor.get("calibrations") or {}
    if not isinstance(presets, dict) or not all(isinstance(values, dict) for values in presets.values()):
        raise InputError(f"`calibrations` in {file} is no JSON object of presets; copy or download the model again.")
    return {name: {key: values.get(key) for key in _OF_PRESET} for name, values in presets.items()}


def _weights(folder: Path) -> dict[str, Any]:
    """The number of parameters in a network's folder, and the dtype in which most of them are stored."""
    counts: Counter[str] = Counter()
    for name, (shape, dtype) in stored_tensors(folder).items():
        if not name.endswith(BATCH_NORM_STATISTICS):
            counts[DTYPES.get(dtype, dtype)] += prod(shape)
    most = counts.most_common(1)
    return {"parameters": counts.total(), "dtype": most[0][0] if most else None}
