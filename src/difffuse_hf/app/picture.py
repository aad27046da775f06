"""A slice of a result as the page shows it: before and after, the anomaly over it, and the mask to be painted on.

Pictures are those of the report (`reporting/figures.py`): radiological, with the letters R and L, in colours that
every kind of colour vision tells apart.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ..detection.result import DetectionResult
from ..errors import InputError
from ..reporting.figures import ANOMALY_COLOURS, DETECTED, MASK, crop_to_foreground, tile_png
from ..reporting.report import data_uri, html_bar
from ..reporting.shown_slices import ShownSlice, colour_bars, grey_scale, select_slices

WIDTH = 400  # pixels of a picture


@dataclass(frozen=True)
class Shown:
    """The usable slices of a scan, by their place in it, small enough to be kept for every visitor."""

    slices: dict[int, ShownSlice]
    window: tuple[slice, slice]  # rows and columns of the model's slices that the pictures show
    size: tuple[int, int]  # height and width of the model's slices
    for_eye: frozenset[int]  # slices with a counterfactual that was made to be looked at
    grey: str  # what black and white are

    @classmethod
    def of(cls, result: DetectionResult) -> "Shown":
        """Of what was found; intensities are kept in half precision, the anomaly as it is."""
        seen = result.slices
        chosen = select_slices(result, len(seen.indices))
        eye = (seen.pictures != seen.counterfactual).flatten(1).any(1)
        return cls(
            slices={one.index: _small(one) for one in sorted(chosen, key=lambda one: one.index)},
            window=crop_to_foreground(seen.image.numpy()),
            size=(int(seen.image.shape[2]), int(seen.image.shape[3])),
            for_eye=frozenset(seen.indices[eye].tolist()),
            grey=grey_scale(result),
        )

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, in their order."""
        return [name for name, *_ in next(iter(self.slices.values())).modalities] if self.slices else []

    def nearest(self, index: int) -> ShownSlice:
        """The slice with this place in the scan, or the nearest that the model uses."""
        return self.slices[min(self.slices, key=lambda one: abs(one - index))]

    def most_suspicious(self) -> int:
        """The slice with the largest summed anomaly."""
        return max(self.slices, key=lambda one: float(self.slices[one].anomaly.sum()))


def _small(one: ShownSlice) -> ShownSlice:
    return replace(
        one,
        modalities=[
            (name, image.astype(np.float16), healthy.astype(np.float16), white)
            for name, image, healthy, white in one.modalities
        ],
        mask=one.mask > 0,
        anomaly=one.anomaly.copy(),  # not a view of the whole scan
        saliency=None,
        reference=None if one.reference is None else one.reference > 0,
    )


def compare(
    shown: Shown, index: int, modality: str, opacity: float, threshold: float, outline: bool
) -> dict[str, Any]:
    """The value of the page's before-and-after picture.

    Args:
        opacity: of the anomaly, 0 to 1; it fades out below the threshold.
        threshold: of the anomaly map, whose outline is drawn; in the map's own unit.
        outline: draw the outline of the repainted region, too.
    """
    one = shown.nearest(index)
    name, image, healthy, white = next(m for m in one.modalities if m[0] == modality)
    image, healthy = image.astype(np.float32), healthy.astype(np.float32)
    over: dict[str, Any] = {}
    if not one.unseen:
        fade = np.clip(one.anomaly / max(threshold, 1e-6), 0, 1) * opacity
        over = {"colour": one.anomaly, "colours": ANOMALY_COLOURS, "limit": one.limit, "opacity": fade}
        over["outlines"] = [(one.mask, MASK)] * outline + [(one.anomaly >= threshold, DETECTED)]
    made = "made for the eye" if one.index in shown.for_eye else "mean of the samples"
    return {
        "before": data_uri(tile_png(image, WIDTH, white=white, **over)),
        "after": data_uri(tile_png(healthy, WIDTH, white=white)),
        "left": f"{name}, original" if one.unseen else f"{name}, original with anomaly",
        "right": "not repainted" if one.unseen else f"healthy counterfactual ({made})",
        "words": escape(one.unseen or f"Lesion probability {one.probability:.2f}; {one.detected_cm2:.2f} cm² found."),
    }


def legend(shown: Shown, threshold: float) -> str:
    """The colour bar with its unit, and what lines and greys mean."""
    anomaly = colour_bars(list(shown.slices.values()))[-1:]  # no bar where nothing was repainted
    bars = "".join(_bar(bar[0], bar[1], bar[2], threshold) for bar in anomaly)
    return (
        f"{bars}<p><span class='key' style='background:{DETECTED}'></span>at or above the threshold "
        f"<span class='key outlined' style='background:{MASK}'></span>repainted region<br>"
        f"Grey: {escape(shown.grey)}. R and L: the patient's right and left.</p>"
    )


def _bar(colours: str, limit: float, label: str, threshold: float) -> str:
    bar = html_bar(colours, limit, label.replace("the mark is the detection threshold", "the mark is the threshold"),
                   threshold)  # fmt: skip
    mark = "" if bar["position"] is None else f"<i style='left:{bar['position']:.1f}%'></i>"
    return (
        f"<div class='bar' style='background:linear-gradient(to right,{bar['stops']})'>{mark}</div>"
        f"<div class='ends'><span>0</span><span>{bar['limit']}</span></div>"
        f"<p>{escape(bar['label'])} ({threshold:.3g})</p>"
    )


def easel(shown: Shown, index: int, modality: str, masks: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """The value of the page's brush: a grey picture, pixel by pixel, and the mask over it as a row of 0 and 1."""
    one = shown.nearest(index)
    image, white = next((image, white) for name, image, _, white in one.modalities if name == modality)
    grey = (255 * np.clip(image.astype(np.float32) / white, 0, 1)).astype(np.uint8)
    mask = masks[one.index][shown.window] if one.index in masks else one.mask
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG")
    return {
        "slice": one.index,
        "picture": data_uri(stream.getvalue()),
        "width": grey.shape[1],
        "height": grey.shape[0],
        "mask": "".join(np.where(mask > 0, "1", "0").ravel()),
    }


def mask_of(shown: Shown, index: int, painted: str) -> np.ndarray:
    """The mask (H, W) of a slice, on the model's pixels, of what the brush gives back.

    Raises:
        InputError: it is no mask of this slice.
    """
    rows, columns = shown.window
    mask = np.zeros(shown.size, np.float32)
    height, width = mask[rows, columns].shape
    if index not in shown.slices or len(painted) != height * width or set(painted) - {"0", "1"}:
        raise InputError("The mask does not belong to this slice; move the slice slider and paint again.")
    mask[rows, columns] = np.array(list(painted), np.float32).reshape(height, width)
    return mask


def above(shown: Shown, index: int, threshold: float) -> np.ndarray:
    """The mask (H, W) of where a slice's anomaly reaches the threshold."""
    mask = np.zeros(shown.size, np.float32)
    mask[shown.window] = shown.nearest(index).anomaly >= threshold
    return mask
