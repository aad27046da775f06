"""The report of one scan: report.html (nothing outside the file is needed to read it), overview.png and summary.json.

Pictures come from the model-space slices the pipeline saw; volumes, areas and Dice from the native voxel grid.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_hex
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from .. import __version__
from ..detection.result import DetectionResult
from ..detection.shown import choose_slices
from ..evaluation.image_quality import flicker
from ..io.files import write_whole
from .coverage import coverage_of, voxels_by_slice, why_not_repainted
from .figures import (
    ANOMALY_COLOURS,
    DETECTED,
    MASK,
    REFERENCE,
    SALIENCY_COLOURS,
    Words,
    crop_to_foreground,
    grey_window,
    overview_figure,
    tile_png,
)

THESIS_MAP = "absolute change, share of the model's intensity range"
MODALITY_NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1 contrast", "t2": "T2", "ct": "CT"}


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
    slices, coverage = _select_slices(result, num_slices), coverage_of(result)
    if slices:
        _write_overview(result, slices, summary["coverage"], folder / "overview.png")
    template = files("difffuse_hf.reporting").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(template).render(
        summary=summary,
        parameters={name: _in_words(value) for name, value in summary["parameters"].items()},
        model_line=model_line,
        today=date.today().isoformat(),
        rows=[_html_row(one) for one in slices],
        bars=[_html_bar(*bar) for bar in _bars(slices)],
        profile=_profile(result, slices, coverage.flagged),
        left_out=[(one, _in_words(one.slices)) for one in coverage.left_out],
        grey=_grey_scale(result),
        names=MODALITY_NAMES,
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
    flagged: bool
    unseen: str  # why it was not repainted; empty if it was
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
    """At most `num_slices` slices to show, those that were repainted first."""
    images, counterfactuals = result.slices.image.numpy(), result.slices.pictures.numpy()
    if not len(images):
        return []
    window = crop_to_foreground(images)
    mask, anomaly = _map(result.slices.mask), _map(result.slices.anomaly)
    saliency, reference = (None if m is None else _map(m) for m in (result.slices.saliency, result.slices.reference))
    names = [MODALITY_NAMES.get(name, name) for name in result.case.files]
    in_window = _window_hu(result) is not None  # whose ends are 0 and 1
    whites = [1.0 if in_window else grey_window(images[:, channel]) for channel in range(len(names))]
    coverage = coverage_of(result)
    chosen = choose_slices(anomaly, reference, coverage.repainted[result.slices.indices.numpy()], num_slices)
    detected_cm2, reference_cm2 = _areas(result)
    threshold = float(result.parameters["anomaly_threshold"])
    limit = _round_up(max(float(anomaly[chosen].max()), 1.5 * threshold))
    shown = []
    for i in chosen:
        index = int(result.slices.indices[i])
        probability = float(result.lesion_probability[index])
        shown.append(
            _Shown(
                index=index,
                probability=probability,
                flagged=bool(coverage.flagged[index]),
                unseen="" if coverage.repainted[index] else why_not_repainted(probability, coverage.threshold),
                detected_cm2=float(detected_cm2[index]),
                reference_cm2=None if reference_cm2 is None else float(reference_cm2[index]),
                threshold=threshold,
                limit=limit,
                shows=_map_in_words(result),
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


def _window_hu(result: DetectionResult) -> tuple[float, float] | None:
    """The Hounsfield units that are black and white; None where the scan is not CT."""
    return result.parameters.get("window_hu")


def _grey_scale(result: DetectionResult) -> str:
    """What black and white are, in words."""
    window = _window_hu(result)
    if window is None:
        return "black is 0, white the 99.5th percentile of the tissue"
    return f"the model's window, from {window[0]:g} HU (black) to {window[1]:g} HU (white)"


def _map_in_words(result: DetectionResult) -> str:
    """What the anomaly is, and its unit."""
    shows, window = result.parameters.get("anomaly_shows") or THESIS_MAP, _window_hu(result)
    shows = re.sub(r"\bon (\w+)", lambda found: f"on {MODALITY_NAMES.get(found[1], found[1])}", shows)
    return shows if window is None else shows.replace("range", f"range, {window[0]:g} to {window[1]:g} HU")


def _tiles(one: _Shown) -> Sequence[tuple[str, dict | Words]]:
    """The main row of a slice: heading, and arguments of `figures.draw` or words in place of several tiles.

    A slice that was not repainted has its picture, the reason, and the reference if there is one.
    """
    tiles = _tiles_if_repainted(one)
    if not one.unseen:
        return tiles
    heading, grey = tiles[0]
    if one.reference is None:
        return [(heading, grey), ("", Words(one.unseen, len(tiles) - 1))]
    drawn = ("Reference", {**grey, "outlines": [(one.reference, REFERENCE)]})
    return [(heading, grey), ("", Words(one.unseen, len(tiles) - 2)), drawn]


def _tiles_if_repainted(one: _Shown) -> list[tuple[str, dict]]:
    """The main row of a slice that was repainted."""
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
    """The colour bars: (colour map, upper limit, label, value to mark); none where no slice has a map."""
    if all(one.unseen for one in slices):
        return []
    anomaly = (
        ANOMALY_COLOURS,
        slices[0].limit,
        f"Anomaly: {slices[0].shows}; the mark is the detection threshold",
        slices[0].threshold,
    )
    saliency = (SALIENCY_COLOURS, 1.0, "Saliency: normalised per slice, no unit")
    return [anomaly] if slices[0].saliency is None else [saliency, anomaly]


def _write_overview(result: DetectionResult, slices: list[_Shown], coverage: list[str], path: Path):
    rows = [
        (f"slice {one.index}\nlesion probability {one.probability:.2f}", [tile for _, tile in _tiles(one)])
        for one in slices
    ]
    columns = [heading for heading, _ in _tiles_if_repainted(slices[0])]
    lines = {"repainted": MASK, "detected": DETECTED}
    if slices[0].unseen:  # and so all others: those that were repainted come first
        columns = [columns[0], *[""] * (len(columns) - 2), "" if slices[0].reference is None else "Reference"]
        lines = {}
    if slices[0].reference is not None:
        lines["reference"] = REFERENCE
    overview_figure(rows, columns, result.case.name, _bars(slices), lines, path, coverage)


def _html_row(one: _Shown) -> dict:
    def small(picture, white):
        return _data_uri(tile_png(picture, width=170, white=white))

    others = []
    for name, image, counterfactual, white in one.modalities[1:]:
        others.append((f"{name}, original", small(image, white)))
        if not one.unseen:
            others.append((f"{name}, counterfactual", small(counterfactual, white)))
    return {
        "slice": one,
        "tiles": [
            (heading, tile if isinstance(tile, Words) else _data_uri(tile_png(**tile)))
            for heading, tile in _tiles(one)
        ],
        "others": others,
    }


def _html_bar(colours: str, limit: float, label: str, mark: float | None = None) -> dict:
    stops = ", ".join(to_hex(colour) for colour in matplotlib.colormaps[colours](np.linspace(0, 1, 16)))
    position = None if mark is None or mark > limit else 100 * mark / limit
    return {"stops": stops, "limit": f"{limit:g}", "label": label, "mark": mark, "position": position}


def _profile(
    result: DetectionResult, slices: list[_Shown], flagged: np.ndarray, width: int = 1000, height: int = 110
) -> dict:
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
        "flagged": [round((index - 0.5) * step, 1) for index in np.flatnonzero(flagged)],
        "step": round(step, 2),
        "shown": [(one.index, round(one.index * step, 1)) for one in slices],
    }


def _areas(result: DetectionResult) -> tuple[np.ndarray, np.ndarray | None]:
    """Detected and reference lesion area of each axial slice, cm², in canonical order (inferior to superior)."""
    reference, affine = result.case.reference, result.case.affine
    return _areas_cm2(result.lesion, affine), None if reference is None else _areas_cm2(reference, affine)


def _areas_cm2(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    sizes_mm = voxel_sizes(affine)[np.argsort(io_orientation(affine)[:, 0])]  # to the right, anterior, superior
    return voxels_by_slice(labels, affine) * sizes_mm[:2].prod() / 100


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


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
