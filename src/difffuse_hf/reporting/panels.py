"""Figures of a whole scan, of what samples disagree about, and of many volumes: one call each, a PNG each."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..detection.result import DetectionResult
from ..errors import InputError
from ..pipelines.pipeline_output import CounterfactualOutput
from .charts import COLOURS, new_figure, save
from .figures import (
    ANOMALY_COLOURS,
    DETECTED,
    REFERENCE,
    SALIENCY_COLOURS,
    crop_to_foreground,
    grey_window,
    overview_figure,
)
from .shown_slices import map_in_words, white_of

SPREAD_COLOURS = "cividis"


def draw_montage(result: DetectionResult, path: str | Path, columns: int = 6, rows: int = 4) -> None:
    """Write a PNG of a whole scan: slices evenly spaced from the feet up, the anomaly over them, outlines of lesions.

    Args:
        result (`DetectionResult`): of `detect_volume`.
        path (`str` or `Path`): the PNG.
        columns, rows (`int`): of slices, at most.

    Raises:
        InputError: the scan has no usable slice.
    """
    images, anomaly = result.slices.image.numpy(), result.slices.anomaly[:, 0].numpy()
    if not len(images):
        raise InputError(f"{result.case.name} has no usable slice, so there is no montage of it.")
    count = min(columns * rows, len(images))
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    window, white = crop_to_foreground(images), white_of(result)
    threshold = float(result.parameters["anomaly_threshold"])
    limit = max(float(anomaly.max()), 1.5 * threshold)
    tiles = []
    for i in chosen:
        outlines = [(anomaly[i][window] >= threshold, DETECTED)]
        if result.slices.reference is not None:
            outlines.insert(0, (result.slices.reference[i, 0].numpy()[window], REFERENCE))
        shown = anomaly[i][window]
        opacity = np.clip(shown / max(threshold, 1e-6), 0, 1) * 0.8
        layer = {"colour": shown, "limit": limit, "opacity": opacity, "outlines": outlines}
        tiles.append({"image": images[i, 0][window], "white": white, **layer})
    lines = {"detected": DETECTED} | ({} if result.slices.reference is None else {"reference": REFERENCE})
    numbers = result.slices.indices.numpy()[chosen]
    parts = [slice(start, start + columns) for start in range(0, count, columns)]
    bars = [(ANOMALY_COLOURS, limit, f"Anomaly: {map_in_words(result)}; the mark is the threshold", threshold)]
    overview_figure(
        [(f"slices {numbers[part][0]} to {numbers[part][-1]}", tiles[part]) for part in parts],
        [""] * min(columns, count),
        result.case.name,
        bars,
        lines,
        path,
    )


def draw_samples(image: np.ndarray, output: CounterfactualOutput, path: str | Path, title: str = "Samples") -> None:
    """Write a PNG of what a pipeline's samples agree and disagree about, a row for each slice.

    Args:
        image (`np.ndarray` of shape `(B, C, H, W)`): what the pipeline was given; its first channel is shown.
        output (`CounterfactualOutput`): of a call with `num_samples` above 1.
        path (`str` or `Path`): the PNG.

    Raises:
        InputError: there was one sample, so that nothing varies.
    """
    if output.uncertainty is None:
        raise InputError("The output holds one sample, which has no spread; call the pipeline with `num_samples=4`.")
    image, expected, spread = np.asarray(image), np.asarray(output.expected), np.asarray(output.uncertainty)[:, 0]
    agreement = None if output.agreement is None else np.asarray(output.agreement)[:, 0]
    window, limit = crop_to_foreground(image), max(float(spread.max()), 1e-6)
    rows = []
    for i, grey in enumerate(image[:, 0]):
        white, tissue = grey_window(grey), 0.8 * (grey > 0)[window]
        plain = {"image": grey[window], "white": white}
        tiles = [plain, {"image": expected[i, 0][window], "white": white}]
        layer = {"colour": spread[i][window], "colours": SPREAD_COLOURS, "limit": limit, "opacity": tissue}
        tiles.append({**plain, **layer})
        if agreement is not None:
            layer = {"colour": agreement[i][window], "colours": SALIENCY_COLOURS, "opacity": tissue}
            tiles.append({**plain, **layer})
        rows.append((f"slice {i + 1}", tiles))
    columns = ["image", "mean of the samples", "spread"] + ([] if agreement is None else ["agreement"])
    bars = [(SPREAD_COLOURS, limit, "Spread: standard deviation over the samples, share of the intensity range")]
    if agreement is not None:
        bars.append((SALIENCY_COLOURS, 1.0, "Agreement: share of the samples above the anomaly threshold"))
    overview_figure(rows, columns, title, bars, {}, path)


def draw_bland_altman(
    volumes_ml: Mapping[str, tuple[float, float]], path: str | Path, title: str = "Lesion volumes"
) -> dict[str, float]:
    """Write a PNG of the differences between two measurements against their mean (Bland and Altman 1986).

    Args:
        volumes_ml: of each scan by its name, the volume detected and that of the reference, in millilitres.
        path (`str` or `Path`): the PNG.

    Returns:
        `bias` (mean of detected − reference), `lower` and `upper` limits of agreement (bias ± 1.96 standard
        deviations), all in millilitres.

    Raises:
        InputError: there are fewer than three scans, whose spread says nothing.
    """
    if len(volumes_ml) < 3:
        raise InputError(f"Limits of agreement need three scans or more, got {len(volumes_ml)}.")
    detected, reference = np.array(list(volumes_ml.values()), float).T
    mean, difference = (detected + reference) / 2, detected - reference
    bias, deviation = float(difference.mean()), float(difference.std(ddof=1))
    found = {"bias": bias, "lower": bias - 1.96 * deviation, "upper": bias + 1.96 * deviation}
    figure = new_figure(5.6, 3.8)
    axes = figure.add_subplot()
    axes.plot(mean, difference, "o", color=COLOURS[0], markersize=4)
    for name, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
        axes.axhline(found[name], color=COLOURS[1], linestyle=style, linewidth=1)
        axes.annotate(f"{name} {found[name]:+.1f} ml", (1.01, found[name]), xycoords=axes.get_yaxis_transform(),
                      va="center", fontsize=8)  # fmt: skip
    axes.margins(y=0.12)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set_xlabel("mean of detected and reference, ml", fontsize=8)
    axes.set_ylabel("detected − reference, ml", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_title(f"{title}: {len(mean)} scans", fontsize=9)
    save(figure, path)
    return found
