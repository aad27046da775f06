"""The report of one scan: report.html (nothing outside the file is needed to read it), overview.png and summary.json.

Pictures come from the model-space slices the pipeline saw; volumes, areas and Dice from the native voxel grid.
"""

import base64
import json
from datetime import date
from importlib.resources import files
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from .. import __version__
from ..detection.result import DetectionResult
from ..evaluation.image_quality import flicker
from ..io.files import write_whole
from .coverage import areas_of, coverage_of
from .figures import DETECTED, MASK, REFERENCE, Words, tile_png
from .shown_slices import MODALITY_NAMES, ShownSlice, colour_bars, grey_scale, select_slices, tiles_of, write_overview


def summarise_scan(result: DetectionResult, model: str, seconds: float, synthetic: bool = False) -> dict:
    """What `summary.json` holds: the figures of one scan, in units named by their keys."""
    coverage = coverage_of(result)
    return {
        "case": result.case.name,
        "synthetic": synthetic,
        "lesion_ml": round(float(result.lesion_ml), 3),
        "reference_ml": _rounded(coverage.reference_ml, 3),
        "dice": _rounded(result.dice, 4),
        "slices": int(len(result.lesion_probability)),
        "slices_usable": int(coverage.usable.sum()),
        "slices_flagged": int(coverage.flagged.sum()),
        "slices_repainted": int(coverage.repainted.sum()),
        "slices_not_repainted": {one.reason: one.slices for one in coverage.left_out},
        "reference_not_repainted_ml": _rounded(coverage.missed_ml, 3),
        "reference_not_repainted_share": _rounded(coverage.missed_share, 4),
        "uncounted_ml": coverage.uncounted_ml,
        "coverage": coverage.in_words(),
        "flicker": round(flicker(result.slices.image, result.slices.counterfactual), 6),
        "seconds": round(float(seconds), 1),
        "model": model,
        "package": f"difffuse_hf {__version__}",
        "read_as": result.case.read_as,
        "notes": list(result.case.notes),
        "inputs": {modality: str(path) for modality, path in result.case.files.items()},
        "parameters": {name: _plain(value) for name, value in result.parameters.items()},
    }


def write_report(
    result: DetectionResult,
    folder: str | Path,
    *,
    model: str,
    model_line: str = "",
    seconds: float = 0.0,
    synthetic: bool = False,
    num_slices: int = 5,
) -> dict:
    """Write `report.html`, `overview.png` and `summary.json` into an existing folder; returns the summary.

    Args:
        result (`DetectionResult`): what `detect_volume` made of the scan.
        folder: each file in it is written whole; no `overview.png` if the scan has no usable slice.
        model: name or path of the model; `model_line` is one line of its model card.
        synthetic: the scan was drawn by a computer; the report says so at its head.
        num_slices: at most so many slices are shown.
    """
    folder = Path(folder)
    summary = summarise_scan(result, model, seconds, synthetic)
    slices, coverage = select_slices(result, num_slices), coverage_of(result)
    if slices:
        write_overview(result, slices, summary["coverage"], folder / "overview.png")
    template = files("difffuse_hf.reporting").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(template).render(
        summary=summary,
        parameters={name: _in_words(value) for name, value in summary["parameters"].items()},
        model_line=model_line,
        today=date.today().isoformat(),
        rows=[_html_row(one) for one in slices],
        bars=[html_bar(*bar) for bar in colour_bars(slices)],
        profile=_profile(result, slices, coverage.flagged),
        left_out=[(one, _in_words(one.slices)) for one in coverage.left_out],
        grey=grey_scale(result),
        names=MODALITY_NAMES,
        colour={"detected": DETECTED, "reference": REFERENCE, "mask": MASK},
        files=sorted(path.name for path in folder.iterdir()),
    )
    for name, text in {"report.html": html, "summary.json": json.dumps(summary, indent=2) + "\n"}.items():
        write_whole(folder / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))
    return summary


def _html_row(one: ShownSlice) -> dict:
    def small(picture, white):
        return data_uri(tile_png(picture, width=170, white=white))

    others = []
    for name, image, counterfactual, white in one.modalities[1:]:
        others.append((f"{name}, original", small(image, white)))
        if not one.unseen:
            others.append((f"{name}, counterfactual", small(counterfactual, white)))
    return {
        "slice": one,
        "tiles": [
            (heading, tile if isinstance(tile, Words) else data_uri(tile_png(**tile)))
            for heading, tile in tiles_of(one)
        ],
        "others": others,
    }


def html_bar(colours: str, limit: float, label: str, mark: float | None = None) -> dict:
    """A colour bar for a template: colours of a CSS gradient, its end and label, and where on it (%) the mark is."""
    stops = ", ".join(to_hex(colour) for colour in matplotlib.colormaps[colours](np.linspace(0, 1, 16)))
    position = None if mark is None or mark > limit else 100 * mark / limit
    return {"stops": stops, "limit": f"{limit:g}", "label": label, "mark": mark, "position": position}


def _profile(
    result: DetectionResult, slices: list[ShownSlice], flagged: np.ndarray, width: int = 1000, height: int = 110
) -> dict:
    """Coordinates of the small plot of lesion area against slice, as SVG points in a `width` × `height` box."""
    detected, reference = areas_of(result)
    peak = max(float(detected.max()), 0.0 if reference is None else float(reference.max()), 1e-6)
    step = width / max(len(detected) - 1, 1)

    def line(areas):
        return " ".join(f"{i * step:.1f},{height * (1 - area / peak):.1f}" for i, area in enumerate(areas))

    return {
        "width": width,
        "height": height,
        "peak_cm2": peak,
        "last": len(detected) - 1,
        "detected": f"0,{height} {line(detected)} {width},{height}",
        "reference": None if reference is None else line(reference),
        "flagged": [round((index - 0.5) * step, 1) for index in np.flatnonzero(flagged)],
        "step": round(step, 2),
        "shown": [(one.index, round(one.index * step, 1)) for one in slices],
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


def data_uri(png: bytes) -> str:
    """A picture as an address that holds it: there is no file to ask for."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _in_words(value) -> str:
    """A parameter as the report prints it; long runs of whole numbers as ranges."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if not isinstance(value, list):
        return {"True": "yes", "False": "no", "None": "default"}.get(str(value), str(value))
    if len(value) < 3 or not all(isinstance(item, int) for item in value):
        return ", ".join(map(str, value)) or "none"
    ends = [[value[0], value[0]]]
    for item in value[1:]:
        if item == ends[-1][1] + 1:
            ends[-1][1] = item
        else:
            ends.append([item, item])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in ends)


def _plain(value):
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else getattr(value, "item", value.__str__)()
