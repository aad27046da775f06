"""Pictures of slices: one tile at a time for the report, and one overview figure per scan.

Slices are model-space arrays, (H, W) or stacks (S, H, W), row 0 anterior and the patient's right on the picture's left
(radiological); every tile carries the letters R and L. Drawn with matplotlib's Agg canvas, without global state.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke

from ..io.files import write_whole

SALIENCY_COLOURS = "viridis"
ANOMALY_COLOURS = "inferno"
# Told apart by every kind of colour vision (Okabe and Ito's palette), and from both colour maps.
DETECTED, REFERENCE, MASK = "#ff9e1b", "#56b4e9", "#f5f5f5"

EDGE = [Stroke(linewidth=2.4, foreground="#00000080"), Normal()]  # a dark rim, so that outlines show on white tissue


@dataclass(frozen=True)
class Words:
    """What stands in a row in place of `columns` tiles that there are not."""

    text: str
    columns: int


def crop_to_foreground(image: np.ndarray, margin: int = 3) -> tuple[slice, slice]:
    """Rows and columns that hold every non-zero pixel of a stack (S, C, H, W), with a margin in pixels."""
    inside = (image > 0).any((0, 1))
    if not inside.any():
        return slice(None), slice(None)
    rows, columns = np.nonzero(inside)
    return _span(rows, margin), _span(columns, margin)


def _span(indices: np.ndarray, margin: int) -> slice:
    return slice(max(int(indices.min()) - margin, 0), int(indices.max()) + 1 + margin)


def grey_window(image: np.ndarray) -> float:
    """The intensity shown as white: the 99.5th percentile of the tissue (pixels above 0)."""
    tissue = image[image > 0]
    return float(np.percentile(tissue, 99.5)) if tissue.size else 1.0


def draw(
    axes: Axes,
    image: np.ndarray,
    white: float = 1.0,
    colour: np.ndarray | None = None,
    colours: str = ANOMALY_COLOURS,
    limit: float = 1.0,
    opacity: float | np.ndarray = 1.0,
    outlines: Sequence[tuple[np.ndarray, str]] = (),
    note: str = "",
):
    """Draw one tile on matplotlib axes.

    Args:
        image (`np.ndarray` of shape `(H, W)`): shown in grey from 0 to `white`.
        colour (`np.ndarray` of shape `(H, W)`, *optional*): drawn over it in the colour map `colours`, 0 to `limit`.
        opacity (`float` or `np.ndarray` of shape `(H, W)`): of that colour layer, 0 to 1.
        outlines: pairs (binary (H, W) array, colour of its outline).
        note (`str`): stands at the bottom.
    """
    axes.imshow(image, cmap="gray", vmin=0, vmax=white, interpolation="bicubic")
    if colour is not None:
        rgba = matplotlib.colormaps[colours](Normalize(0, limit, clip=True)(colour))
        rgba[..., 3] = opacity
        axes.imshow(rgba, interpolation="bilinear")
    for binary, line in outlines:
        if 0 < np.count_nonzero(binary) < binary.size:
            axes.contour(binary > 0, levels=[0.5], colors=[line], linewidths=1.1).set_path_effects(EDGE)
    style = {"transform": axes.transAxes, "color": "white", "alpha": 0.75, "fontsize": 7, "va": "top"}
    axes.text(0.03, 0.97, "R", ha="left", **style)
    axes.text(0.97, 0.97, "L", ha="right", **style)
    axes.text(0.5, 0.03, note, ha="center", **{**style, "va": "bottom"})
    axes.set_axis_off()


def tile_png(image: np.ndarray, width: int = 300, **options) -> bytes:
    """One tile as a PNG `width` pixels wide; the options are those of `draw`."""
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    figure = Figure(figsize=(width / 150, height / 150), dpi=150, facecolor="black")
    FigureCanvasAgg(figure)
    draw(figure.add_axes((0, 0, 1, 1)), image, **options)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor="black")
    return stream.getvalue()


def overview_figure(
    rows: Sequence[tuple[str, Sequence[dict | Words]]],
    columns: Sequence[str],
    title: str,
    bars: Sequence[tuple],
    lines: dict[str, str],
    path: str | Path,
    sentences: Sequence[str] = (),
):
    """Write one picture of the whole result: a row of tiles per slice and the colour bars below.

    Args:
        rows: pairs (label of the slice, tiles), a tile being the arguments of `draw`; `Words` in place of some.
        columns: heading of each tile.
        bars: (colour map, upper limit, label) of each colour bar, all from 0; a fourth entry marks a value on it.
        lines: what each colour of outline means, {meaning: colour}.
        sentences: stand below the title.
    """
    height, width = next(tile["image"].shape for _, tiles in rows for tile in tiles if isinstance(tile, dict))
    tile = 1.7
    tall = tile * height / width
    wide = int(16.5 * tile * len(columns))  # characters
    said = "\n".join(textwrap.fill(sentence, wide) for sentence in sentences)
    top, bottom, left = 0.8 + 0.17 * len(said.splitlines()), 0.75 if bars else 0.2, 0.55
    size = (left + tile * len(columns) + 0.1, top + tall * len(rows) + bottom)
    figure = Figure(figsize=size, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(left / size[0], 1 - 0.32 / size[1], title, fontsize=11, fontweight="bold", va="center")
    figure.text(left / size[0], 1 - 0.52 / size[1], said, fontsize=8, va="top", linespacing=1.45)
    keys = [Line2D([], [], color=colour, linewidth=2, path_effects=EDGE) for colour in lines.values()]
    figure.legend(keys, lines, loc="center right", bbox_to_anchor=(1 - 0.1 / size[0], 1 - 0.32 / size[1]), ncols=3,
                  fontsize=8, frameon=False, handlelength=1.5)  # fmt: skip
    for i, (label, tiles) in enumerate(rows):
        y = (bottom + tall * (len(rows) - 1 - i)) / size[1]
        figure.text(0.27 / size[0], y + tall / 2 / size[1], label, rotation=90, fontsize=8, ha="center", va="center")
        j = 0
        for one in tiles:
            x = (left + tile * j) / size[0]
            if isinstance(one, Words):
                x += tile * one.columns / 2 / size[0]
                text = textwrap.fill(one.text, 20 * one.columns)
                figure.text(x, y + tall / 2 / size[1], text, fontsize=9, color="0.25", ha="center", va="center")
                j += one.columns
                continue
            draw(figure.add_axes((x, y, (tile - 0.03) / size[0], (tall - 0.03) / size[1])), **one)
            j += 1
    for j, heading in enumerate(columns):
        x, y = left + tile * j + (tile - 0.03) / 2, bottom + tall * len(rows) + 0.03
        figure.text(x / size[0], y / size[1], heading, fontsize=8, ha="center", va="bottom")
    for i, (colours, limit, label, *mark) in enumerate(bars):
        x = (left + tile * len(columns) * i / len(bars)) / size[0]
        axes = figure.add_axes((x, 0.47 / size[1], 0.8 * tile * len(columns) / len(bars) / size[0], 0.1 / size[1]))
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto", extent=(0, limit, 0, 1))
        axes.set_yticks([])
        axes.tick_params(labelsize=7, length=2)
        axes.set_xlabel(label, fontsize=min(7, 700 / len(label)), labelpad=2)  # long ones smaller, none cut off
        for value in mark:
            axes.axvline(value, color="white", linewidth=1.2)
    write_whole(path, lambda file: figure.savefig(file, format="png", facecolor="white"))


def settings_figure(
    images: np.ndarray,
    made: np.ndarray,
    probabilities: np.ndarray,
    headings: Sequence[str],
    title: str,
    path: str | Path,
):
    """Slices, and beside each what every setting of a counterfactual search makes of it: a row a slice.

    Args:
        images (`np.ndarray` of shape `(N, H, W)`), made (`np.ndarray` of shape `(K, N, H, W)`): of K settings.
        probabilities (`np.ndarray` of shape `(K, N)`): of the class that is moved towards; stand in the pictures.
        headings: of the settings.
    """
    rows = []
    for n, image in enumerate(images):
        white = grey_window(image)
        notes = ["", *(f"P = {value:.2f}" for value in probabilities[:, n])]
        tiles = [{"image": one, "white": white, "note": note} for one, note in zip((image, *made[:, n]), notes)]
        rows.append((f"slice {n + 1}", tiles))
    overview_figure(rows, ["slice", *headings], title, [], {}, path)


def methods_figure(methods: dict[str, dict[str, np.ndarray]], title: str, path: str | Path):
    """Slices, what every method makes of them, and the map of the change: two rows a slice, a column a method.

    Args:
        methods: for each method `image`, `lesion`, `counterfactual` and `map`, all (N, 1, H, W) of the same slices,
            and its `threshold`. Maps are shown from 0 to their own method's largest value.
    """
    first = next(iter(methods.values()))
    rows = []
    for i, image in enumerate(first["image"][:, 0]):
        white, drawn = grey_window(image), (first["lesion"][i, 0], REFERENCE)
        pictures, maps = [{"image": image, "white": white}], [{"image": image, "white": white, "outlines": [drawn]}]
        for made in methods.values():
            anomaly = made["map"][i, 0]
            pictures.append({"image": made["counterfactual"][i, 0], "white": white})
            maps.append(
                {
                    "image": image,
                    "white": white,
                    "colour": anomaly,
                    "colours": ANOMALY_COLOURS,
                    "limit": max(float(made["map"].max()), 1e-6),
                    "opacity": 0.7,
                    "outlines": [drawn, (anomaly >= made["threshold"], DETECTED)],
                }
            )
        rows += [(f"slice {i + 1}", pictures), ("", maps)]
    lines = {"drawn lesion": REFERENCE, "detected": DETECTED}
    overview_figure(rows, ["slice", *methods], title, [], lines, path)
