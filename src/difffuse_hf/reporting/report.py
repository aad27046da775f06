"""The report of one scan: report.html (nothing outside the file is needed to read it), overview.png and summary.json.

Pictures come from the model-space slices the pipeline saw; volumes, areas and Dice from the native voxel grid.
"""

import base64
import json
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path

import jinja2
import matplotlib
import nibabel
import numpy as np
import torch
from matplotlib.colors import to_hex

from .. import __version__
from ..detection.result import DetectionResult
from ..detection.shown import choose_slices
from ..evaluation.image_quality import flicker
from ..io.files import write_whole
from .figures import (
    ANOMALY_COLOURS,
    DETECTED,
    MASK,
    REFERENCE,
    SALIENCY_COLOURS,
    crop_to_foreground,
    grey_window,
    overview_figure,
    tile_png,
)

THESIS_MAP = "absolute change, share of the model's intensity range"
MODALITY_NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1 contrast", "t2": "T2"}


def summarise_scan(result: DetectionResult, model: str, seconds: float, synthetic: bool = False) -> dict:
    """What `summary.json` holds: the figures of one scan, in units named by their keys."""
    reference = result.case.reference
    return {
        "case": result.case.name,
        "synthetic": synthetic,
        "lesion_ml": round(float(result.lesion_ml), 3),
        "reference_ml": None if reference is None else round(np.count_nonzero(reference) * result.case.voxel_ml, 3),
        "dice": None if result.dice is None else round(float(result.dice), 4),
        "slices": int(len(result.lesion_probability)),
        "slices_flagged": int(np.count_nonzero(_flagged(result))),
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
    slices = _select_slices(result, num_slices)
    if slices:
        _write_overview(result, slices, folder / "overview.png")
    template = files("difffuse_hf.reporting").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(template).render(
        summary=summary,
        parameters={name: _in_words(value) for name, value in summary["parameters"].items()},
        model_line=model_line,
        today=date.today().isoformat(),
        rows=[_html_row(one) for one in slices],
        bars=[_html_bar(*bar) for bar in _bars(slices)],
        profile=_profile(result, slices),
        colour={"detected": DETECTED, "reference": REFERENCE, "mask": MASK},
        files=sorted(path.name for path in folder.iterdir()),
    )
    for name, text in {"report.html": html, "summary.json": json.dumps(summary, indent=2) + "\n"}.items():
        write_whole(folder / name, lambda file, text=text: file.write_text(text, encoding="utf-8"))
    return summary


@dataclass
class _Shown:
    """A slice of the report: cropped to the head, as numpy arrays with their labels and display limits."""

    index: int  # of the axial slice
    probability: float
    repainted: bool
    detected_cm2: float
    reference_cm2: float | None
    threshold: float
    limit: float  # of the anomaly's colour bar
    shows: str  # what the anomaly is, and its unit
    modalities: list[tuple[str, np.ndarray, np.ndarray, float]]  # name, image, counterfactual, intensity of white
    mask: np.ndarray  # (H, W), as the next three
    anomaly: np.ndarray
    saliency: np.ndarray | None
    reference: np.ndarray | None


def _select_slices(result: DetectionResult, num_slices: int) -> list[_Shown]:
    """At most `num_slices` slices to show."""
    images, counterfactuals = result.slices.image.numpy(), result.slices.pictures.numpy()
    if not len(images):
        return []
    window = crop_to_foreground(images)
    mask, anomaly = _map(result.slices.mask), _map(result.slices.anomaly)
    saliency, reference = (None if m is None else _map(m) for m in (result.slices.saliency, result.slices.reference))
    names = [MODALITY_NAMES.get(name, name) for name in result.case.files]
    whites = [grey_window(images[:, channel]) for channel in range(len(names))]
    chosen = choose_slices(anomaly, reference, num_slices)
    detected_cm2, reference_cm2 = _areas(result)
    threshold = float(result.parameters["anomaly_threshold"])
    limit = _round_up(max(float(anomaly[chosen].max()), 1.5 * threshold))
    shown = []
    for i in chosen:
        index = int(result.slices.indices[i])
        shown.append(
            _Shown(
                index=index,
                probability=float(result.lesion_probability[index]),
                repainted=index in result.parameters["repainted_slices"],
                detected_cm2=float(detected_cm2[index]),
                reference_cm2=None if reference_cm2 is None else float(reference_cm2[index]),
                threshold=threshold,
                limit=limit,
                shows=result.parameters.get("anomaly_shows") or THESIS_MAP,
                modalities=[
                    (name, images[i, c][window], counterfactuals[i, c][window], white)
                    for c, (name, white) in enumerate(zip(names, whites))
                ],
                mask=mask[i][window],
                anomaly=anomaly[i][window],
                saliency=None if saliency is None else saliency[i][window],
                reference=None if reference is None else reference[i][window],
            )
        )
    return shown


def _map(slices: torch.Tensor) -> np.ndarray:
    """(S, 1, H, W) -> (S, H, W)."""
    return slices[:, 0].numpy()


def _tiles(one: _Shown) -> list[tuple[str, dict]]:
    """The main row of a slice: (heading, arguments of `figures.draw`) per tile."""
    name, image, counterfactual, white = one.modalities[0]
    grey = {"image": image, "white": white}
    tiles = [(f"{name}, original", grey)]
    if one.saliency is not None:
        opacity = np.clip(2 * one.saliency, 0, 1) * (image > 0) * 0.85
        tiles.append(("Saliency", {**grey, "colour": one.saliency, "colours": SALIENCY_COLOURS, "opacity": opacity}))
    tiles.append(("Mask: repainted region", {**grey, "outlines": [(one.mask, MASK)]}))
    tiles.append((f"{name}, counterfactual", {"image": counterfactual, "white": white}))
    opacity = np.clip(one.anomaly / max(one.threshold, 1e-6), 0, 1) * 0.9
    overlay = {"colour": one.anomaly, "colours": ANOMALY_COLOURS, "limit": one.limit, "opacity": opacity}
    tiles.append(("Anomaly map", {**grey, **overlay}))
    detected = (one.anomaly >= one.threshold, DETECTED)
    if one.reference is None:
        tiles.append(("Detected", {**grey, "outlines": [detected]}))
    else:
        tiles.append(("Detected and reference", {**grey, "outlines": [(one.reference, REFERENCE), detected]}))
    return tiles


def _bars(slices: list[_Shown]) -> list[tuple]:
    """The colour bars: (colour map, upper limit, label, value to mark)."""
    if not slices:
        return []
    anomaly = (
        ANOMALY_COLOURS,
        slices[0].limit,
        f"Anomaly: {slices[0].shows}; the mark is the detection threshold",
        slices[0].threshold,
    )
    saliency = (SALIENCY_COLOURS, 1.0, "Saliency: normalised per slice, no unit")
    return [anomaly] if slices[0].saliency is None else [saliency, anomaly]


def _write_overview(result: DetectionResult, slices: list[_Shown], path: Path):
    rows = [(f"slice {one.index}", [options for _, options in _tiles(one)]) for one in slices]
    columns = [heading for heading, _ in _tiles(slices[0])]
    lines = {"repainted": MASK, "detected": DETECTED, "reference": REFERENCE}
    if slices[0].reference is None:
        del lines["reference"]
    overview_figure(rows, columns, result.case.name, _bars(slices), lines, path)


def _html_row(one: _Shown) -> dict:
    return {
        "slice": one,
        "tiles": [(heading, _data_uri(tile_png(**options))) for heading, options in _tiles(one)],
        "others": [
            (name, *(_data_uri(tile_png(picture, width=170, white=white)) for picture in (image, counterfactual)))
            for name, image, counterfactual, white in one.modalities[1:]
        ],
    }


def _html_bar(colours: str, limit: float, label: str, mark: float | None = None) -> dict:
    stops = ", ".join(to_hex(colour) for colour in matplotlib.colormaps[colours](np.linspace(0, 1, 16)))
    position = None if mark is None or mark > limit else 100 * mark / limit
    return {"stops": stops, "limit": f"{limit:g}", "label": label, "mark": mark, "position": position}


def _profile(result: DetectionResult, slices: list[_Shown], width: int = 1000, height: int = 110) -> dict:
    """Coordinates of the small plot of lesion area against slice, as SVG points in a `width` × `height` box."""
    detected, reference = _areas(result)
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
        "flagged": [round((index - 0.5) * step, 1) for index in np.flatnonzero(_flagged(result))],
        "step": round(step, 2),
        "shown": [(one.index, round(one.index * step, 1)) for one in slices],
    }


def _areas(result: DetectionResult) -> tuple[np.ndarray, np.ndarray | None]:
    """Detected and reference lesion area of each axial slice, cm², in canonical order (inferior to superior)."""
    reference, affine = result.case.reference, result.case.affine
    return _areas_cm2(result.lesion, affine), None if reference is None else _areas_cm2(reference, affine)


def _areas_cm2(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image((labels > 0).astype(np.uint8), affine))
    pixel_cm2 = float(np.prod(image.header.get_zooms()[:2])) / 100
    return np.asarray(image.dataobj).sum((0, 1)) * pixel_cm2


def _flagged(result: DetectionResult) -> np.ndarray:
    """Which axial slices the classifier took for ones with a lesion."""
    return np.asarray(result.lesion_probability) >= result.parameters["lesion_probability_threshold"]


def _round_up(value: float) -> float:
    step = 0.05 if value < 1 else 1.0
    return max(step, round(float(np.ceil(value / step)) * step, 2))


def _data_uri(png: bytes) -> str:
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
