"""Charts of results: confusion matrices, and lines with their standard errors. Pictures of slices are in `figures`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..evaluation.latent_paths import NO_DISTANCE, ONE_STEP, OURS
from ..io.files import write_whole

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's palette
MARKERS = "osD^vPX"


def draw_confusions(matrices: dict[str, np.ndarray], names: Sequence[str], title: str, path: str | Path) -> None:
    """Write a PNG with one confusion matrix (K, K) a method: counts, coloured by their share of the true class."""
    columns = min(len(matrices), 4)
    rows = -(-len(matrices) // columns)
    figure = new_figure(0.4 + 2.6 * columns, 0.4 + 3.0 * rows)
    figure.suptitle(title, fontsize=9)
    for i, (method, counts) in enumerate(matrices.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        shares = counts / np.maximum(np.sum(counts, 1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            colour = "white" if share > 0.6 else "black"
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(names)), names, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7, rotation=90, va="center")
        axes.set_title(method, fontsize=8)
        axes.set_xlabel("given", fontsize=7)
        if i % columns == 0:
            axes.set_ylabel("true", fontsize=7)
    save(figure, path)


def draw_lines(lines: dict[str, dict], labels: tuple[str, str], title: str, path: str | Path) -> None:
    """Write a PNG with a line a method: mean and standard error, in per cent, against a size or a grade.

    Args:
        lines: method to {x: (mean, standard error or None)}, fractions; a mean of NaN is left out. Names as x stand
            side by side, in order.
        labels: of the two axes.
    """
    figure = new_figure(6.8, 3.6)
    axes = figure.add_subplot()
    grades = sorted({x for line in lines.values() for x in line})
    place = {x: i if isinstance(x, str) else x for i, x in enumerate(grades)}
    for i, (method, line) in enumerate(lines.items()):
        points = [(place[x], 100 * m, 100 * (e or 0.0)) for x, (m, e) in sorted(line.items()) if np.isfinite(m)]
        if points:
            style: dict = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            style["linestyle"] = ("-", "--", ":")[i // len(COLOURS) % 3]  # when the colours come round again
            grade, mean, error = zip(*points)
            axes.errorbar(grade, mean, error, label=method, capsize=2, linewidth=1.3, markersize=4, **style)
    axes.set_xticks(list(place.values()), list(map(str, place)), fontsize=8)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -2), min(top, 102))
    _explain(axes, labels, title)
    save(figure, path)


def _explain(axes, labels: tuple[str, str], title: str) -> None:
    """Title, names of the axes, a grid, and beside them a legend of what is drawn."""
    axes.tick_params(labelsize=8)
    axes.set_xlabel(labels[0], fontsize=8)
    axes.set_ylabel(labels[1], fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))


def draw_gains(
    gains: Mapping[str, Mapping[str, tuple[float, float, float]]],
    labels: tuple[str, str],
    title: str,
    path: str | Path,
) -> None:
    """Write a PNG with a point and its interval for each method in each group, around a line at 0.

    Args:
        gains: method to {group: (value, low, high)}; a value that is undefined is left out, and so are ends.
        labels: of the two axes.
    """
    figure = new_figure(6.8, 3.6)
    axes = figure.add_subplot()
    groups = list(dict.fromkeys(group for gain in gains.values() for group in gain))
    axes.axhline(0, color="0.5", linewidth=0.8)
    for i, (method, gain) in enumerate(gains.items()):
        aside = 0.6 * ((i + 0.5) / len(gains) - 0.5)  # the methods of a group stand side by side
        style: dict = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "linestyle": "none"}
        found = [(groups.index(group), *values) for group, values in gain.items() if np.isfinite(values[0])]
        if found:
            place, value, low, high = np.array(found, float).T
            ends = np.nan_to_num([value - low, high - value]).clip(min=0)
            axes.errorbar(place + aside, value, ends, label=method, capsize=2, linewidth=1.3, markersize=4, **style)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    _explain(axes, labels, title)
    save(figure, path)


def draw_dice_curves(curves: Mapping[str, Mapping[float, Sequence]], where: str, path: str | Path) -> None:
    """Write a PNG with a panel for each curve: mean Dice over the seeds, and its ceiling.

    Args:
        curves: {what varies: {its value: [{"dice": ..., "best_dice": ...} of each seed]}}.
        where (`str`): the slices that they were measured on.
    """
    figure = new_figure(4.2 * len(curves), 3.2)
    for number, (name, curve) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), number)
        for measure, style in (("dice", "o-"), ("best_dice", "s--")):
            means = [sum(run[measure] for run in runs) / len(runs) for runs in curve.values()]
            axes.plot(list(curve), means, style, label=measure.replace("_", "-possible ").replace("dice", "Dice"))
        axes.set_xlabel(name)
        axes.set_ylabel(f"Dice ({where})")
        axes.set_ylim(0, 1)
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def draw_grid(
    grid: Mapping[float, Mapping[float, Sequence]], labels: tuple[str, str], title: str, path: str | Path
) -> None:
    """Write a PNG of the mean Dice of two settings together, as numbers on a coloured grid.

    Args:
        grid: {row: {column: [{"dice": ...} of each seed]}}.
        labels: of the columns' axis and of the rows'.
    """
    means = np.array([[np.mean([run["dice"] for run in runs]) for runs in row.values()] for row in grid.values()])
    figure = new_figure(1.5 + 0.7 * means.shape[1], 1.2 + 0.45 * means.shape[0])
    axes = figure.add_subplot()
    axes.imshow(means, cmap="Blues", aspect="auto", origin="lower")
    middle = (means.min() + means.max()) / 2
    for (row, column), mean in np.ndenumerate(means):
        colour = "white" if mean > middle else "black"
        axes.text(column, row, f"{mean:.3f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(means.shape[1]), [f"{column:g}" for column in next(iter(grid.values()))])
    axes.set_yticks(range(means.shape[0]), [f"{row:g}" for row in grid])
    axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
    save(figure, path)


def draw_cost(summary: Mapping[str, Mapping[str, Mapping]], title: str, path: str | Path) -> None:
    """Write a PNG of Dice against the seconds that a slice takes, a point a method with its standard error.

    Args:
        summary: {method: {"dice": {"mean", "standard_error"}, "seconds_per_slice": {"mean"}}}; NaN is left out.
    """
    figure = new_figure(7.6, 4.4)
    axes = figure.add_subplot()
    for i, (method, of) in enumerate(summary.items()):
        dice, seconds = of["dice"], of["seconds_per_slice"]["mean"]
        if np.isfinite(dice["mean"]) and seconds > 0:
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS) % len(MARKERS)]
            error = dice["standard_error"] or 0.0
            axes.errorbar(
                seconds, dice["mean"], error, color=colour, marker=marker, capsize=2, linestyle="", label=method
            )
    axes.set(xscale="log", xlabel="seconds a slice, on this machine", ylabel="Dice", title=title)
    axes.grid(alpha=0.3)
    if axes.containers:
        axes.legend(fontsize=6.5, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    save(figure, path)


def draw_latent_paths(summary: dict, path: str | Path, title: str = "") -> None:
    """Write a PNG of what `summarise_paths` gives: probability by step, distance by step, one against the other."""
    colours = {ONE_STEP: COLOURS[1], NO_DISTANCE: COLOURS[5], OURS: COLOURS[6]}
    figure = new_figure(11, 3.6)
    by_step, distance_by_step, against = figure.subplots(1, 3)
    for name, row in summary.items():
        colour = colours.get(name)
        for axes, measure in ((by_step, "probability"), (distance_by_step, "distance")):
            median = row[measure]["median"]
            steps = range(len(median))
            axes.plot(steps, median, color=colour, label=name)
            axes.fill_between(
                steps, row[measure]["quartile_1"], row[measure]["quartile_3"], color=colour, alpha=0.15, linewidth=0
            )
        against.plot(row["distance"]["median"], row["probability"]["median"], color=colour, marker=".", markersize=4)
    by_step.set(xlabel="step", ylabel="probability of the target class", ylim=(-0.02, 1.02))
    distance_by_step.set(xlabel="step", ylabel="mean |z − E(x)|")
    against.set(xlabel="mean |z − E(x)|", ylabel="probability of the target class", ylim=(-0.02, 1.02))
    by_step.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, drawn without a window and without matplotlib's global state."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """The figure as a whole PNG file."""
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", facecolor="white"))
