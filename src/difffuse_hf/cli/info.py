"""`difffuse info`: what a model takes, what it was trained on, and how it is set; nothing of it is loaded."""

from typing import Annotated, Any

import typer

from .options import AsJson, print_json, say

_OWN = {"K": "noise_level", "percentile": "percentile"}
Model = Annotated[str, typer.Argument(help="Model folder, Hub repository user/name, or embedded: demo (MR) or ct.")]


def info(model: Model, as_json: AsJson = False):
    """Describe a model: scans it takes, networks, thresholds, training data and scores."""
    from ..models.model_info import describe_model

    about = describe_model(model)
    if as_json:
        print_json(about)
    else:
        say("\n".join(_in_words(about)))


def _in_words(about: dict[str, Any]) -> list[str]:
    """The lines that a person reads."""
    return [
        f"{about['model']}: {about['pipeline']}, {size(about['bytes'])}, {about['folder']}",
        about["card"] or "There is no model card.",
        "",
        *_takes(about["takes"]),
        *(
            f"{name}: {one['class']}, {one['parameters']:,} parameters in {one['dtype']}"
            for name, one in about["networks"].items()
        ),
        f"lesion probability from which a slice is repainted: {_number(about['lesion_probability_threshold'])}",
        *(f"preset {name}, calibrated: {_calibration(one)}" for name, one in about["presets"].items()),
        f"{'other presets' if about['presets'] else 'every preset'}: "
        + _calibration({**about, "threshold": about["anomaly_threshold"]}),
        *(
            line
            for heading, section in (("Training data", about["training_data"]), ("Scores", about["scores"]))
            for line in (["", heading, section] if section else [])
        ),
    ]


def _takes(takes: dict[str, Any] | None) -> list[str]:
    """What goes in."""
    if takes is None:
        return ["takes: slices; there is no processor that says of which scans"]
    optional = ", ".join(takes["optional_modalities"])
    height, width = takes["image_size"]
    window = takes["window_hu"]
    return [
        f"takes: {takes['kind']}: {', '.join(takes['modalities'])}" + (f" (may lack: {optional})" if optional else ""),
        f"slices: {height} x {width} pixels of {_number(takes['pixel_spacing_mm'])} mm (height x width)",
        *([f"window: {_number(window[0])} to {_number(window[1])} HU"] if window else []),
    ]


def _calibration(one: dict[str, Any]) -> str:
    """Thresholds and settings of a preset."""
    by_share = one["false_positive_thresholds"]
    shares = by_share.items() if isinstance(by_share, dict) else ()
    scan = one.get("scan") or {}
    of_scan = scan.get("peak_share")
    return ", ".join(
        [
            f"anomaly threshold {_number(one['threshold'])}",
            *([f"of a whole scan {_number(of_scan)} of the highest anomaly that counts"] if of_scan else []),
            *(f"{_number(value)} for a share of {share} false positives" for share, value in shares),
            *(f"{word} {_number(one[key])}" for word, key in _OWN.items() if one[key] is not None),
            *(["slices looked at together"] if scan else []),
        ]
    )


def _number(value: Any) -> str:
    """Three digits; as it is where it is none."""
    return f"{value:.3g}" if isinstance(value, float) else "not set" if value is None else str(value)


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:.1f} MB"
