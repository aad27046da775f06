"""The slices of a scan that its report shows: chosen, cropped and laid out; `overview.png` is made of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..detection.result import DetectionResult
from ..detection.shown import choose_slices
from .coverage import areas_of, coverage_of, why_not_repainted
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
)

THESIS_MAP = "absolute change, share of the model's intensity range"
MODALITY_NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1 contrast", "t2": "T2", "ct": "CT"}


@dataclass
class ShownSlice:
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


def select_slices(result: DetectionResult, num_slices: int) -> list[ShownSlice]:
    """At most `num_slices` slices to show, those that were repainted first."""
    images, counterfactuals = result.slices.image.numpy(), result.slices.pictures.numpy()
    if not len(images):
        return []
    window = crop_to_foreground(images)
    mask, anomaly = _map(result.slices.mask), _map(result.slices.anomaly)
    saliency, reference = (None if m is None else _map(m) for m in (result.slices.saliency, result.slices.reference))
    names = [MODALITY_NAMES.get(name, name) for name in result.case.files]
    whites = [white_of(result, channel) for channel in range(len(names))]
    coverage = coverage_of(result)
    chosen = choose_slices(anomaly, reference, coverage.repainted[result.slices.indices.numpy()], num_slices)
    detected_cm2, reference_cm2 = areas_of(result)
    threshold = float(result.parameters["anomaly_threshold"])
    limit = _round_up(max(float(anomaly[chosen].max()), 1.5 * threshold))
    shown = []
    for i in chosen:
        index = int(result.slices.indices[i])
        probability = float(result.lesion_probability[index])
        shown.append(
            ShownSlice(
                index=index,
                probability=probability,
                flagged=bool(coverage.flagged[index]),
                unseen="" if coverage.repainted[index] else why_not_repainted(probability, coverage.threshold),
                detected_cm2=float(detected_cm2[index]),
                reference_cm2=None if reference_cm2 is None else float(reference_cm2[index]),
                threshold=threshold,
                limit=limit,
                shows=map_in_words(result),
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


def white_of(result: DetectionResult, channel: int = 0) -> float:
    """The intensity of a channel of the slices that is shown as white."""
    if _window_hu(result) is not None:  # its ends are 0 and 1
        return 1.0
    return grey_window(result.slices.image[:, channel].numpy())


def grey_scale(result: DetectionResult) -> str:
    """What black and white are, in words."""
    window = _window_hu(result)
    if window is None:
        return "black is 0, white the 99.5th percentile of the tissue"
    return f"the model's window, from {window[0]:g} HU (black) to {window[1]:g} HU (white)"


def map_in_words(result: DetectionResult) -> str:
    """What the anomaly is, and its unit."""
    shows, window = result.parameters.get("anomaly_shows") or THESIS_MAP, _window_hu(result)
    shows = re.sub(r"\bon (\w+)", lambda found: f"on {MODALITY_NAMES.get(found[1], found[1])}", shows)
    return shows if window is None else shows.replace("range", f"range, {window[0]:g} to {window[1]:g} HU")


def tiles_of(one: ShownSlice) -> Sequence[tuple[str, dict | Words]]:
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


def _tiles_if_repainted(one: ShownSlice) -> list[tuple[str, dict]]:
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


def colour_bars(slices: list[ShownSlice]) -> list[tuple]:
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


def write_overview(result: DetectionResult, slices: list[ShownSlice], coverage: list[str], path: Path):
    """Write the PNG with a row for each slice, and the sentences on what was looked at above them."""
    rows = [
        (f"slice {one.index}\nlesion probability {one.probability:.2f}", [tile for _, tile in tiles_of(one)])
        for one in slices
    ]
    columns = [heading for heading, _ in _tiles_if_repainted(slices[0])]
    lines = {"repainted": MASK, "detected": DETECTED}
    if slices[0].unseen:  # and so all others: those that were repainted come first
        columns = [columns[0], *[""] * (len(columns) - 2), "" if slices[0].reference is None else "Reference"]
        lines = {}
    if slices[0].reference is not None:
        lines["reference"] = REFERENCE
    overview_figure(rows, columns, result.case.name, colour_bars(slices), lines, path, coverage)


def _round_up(value: float) -> float:
    step = 0.05 if value < 1 else 1.0
    return max(step, round(float(np.ceil(value / step)) * step, 2))
