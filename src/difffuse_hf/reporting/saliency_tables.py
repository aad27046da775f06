"""Tables of saliency maps against lesions, with chance and the thesis's figures beside them, and their figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..evaluation.saliency_runs import LesionScan, likeness
from .figures import REFERENCE, SALIENCY_COLOURS, crop_to_foreground, grey_window, overview_figure
from .tables import UNDEFINED, Column, Table, measures_table
from .thesis import THESIS_HEADING, THESIS_POINTING_GAME

CHANCE = {  # rows of the tables: what a map scores that is the same in the whole image, or in the head alone
    "chance, image": {"pointing": "chance", "pointing_slices": "chance_slices", "energy": "chance", "auprc": "chance"},
    "chance, head": {"pointing": "chance_head", "energy": "chance_head", "auprc": "chance_head"},
}
COLUMNS = [
    Column("pointing", "pointing game, %", 100),
    Column("pointing_slices", "pointing game by slice, %", 100),
    Column("energy", "energy inside, %", 100),
    Column("auprc", "AUPRC", digits=3),
]
SCANS = Column("scans", "scans", digits=0, best=None, spread=False)
LONGEST_NAME = 16  # of a scan beside its row
SMALL_SIZES = (1, 2)  # of an infarct, IST-3's grades
LIKENESS = [
    Column("cascade_spearman", "ρ, all layers", best=None),
    Column("cascade_ssim", "SSIM, all layers", best=None),
    Column("independent_spearman", "ρ, one group", best=None),
    Column("independent_ssim", "SSIM, one group", best=None),
]


def lesion_tables(runs: Sequence[Mapping[str, Sequence[Mapping]]], where: str) -> list[Table]:
    """All lesions, small ones, and territories, each where there are any, with the two levels of chance as rows.

    Args:
        runs: of each run the measures of each scan by method, as `score_run` gives them.
    """
    small = f"Small lesions only (infarct size {' and '.join(map(str, SMALL_SIZES))}): {where}."
    tables = [
        _lesion_table(runs, f"Maps against the drawn lesion: {where}."),
        _lesion_table(runs, small, sizes=SMALL_SIZES),
        _lesion_table(runs, f"Maps against the territory that the reader named: {where}.", "territory_"),
    ]
    drawn, small_ones, territories = tables
    compared = [table and _with_thesis(table) for table in (drawn, territories)]  # the thesis's are by territory
    return [table for table in (compared[0], small_ones, compared[1]) if table is not None]


def _lesion_table(runs, caption: str, prefix: str = "", sizes: Sequence[int] = ()) -> Table | None:
    """The table of the measures with a prefix, of lesions of these sizes or of all; None if there is no lesion."""
    same = {column.measure: column.measure for column in COLUMNS}
    methods: dict[str, list[dict]] = {}
    chance: dict[str, list[dict]] = {}
    for run in runs:
        of_chance = {}  # the same for all methods
        for name, scans in run.items():
            chosen = [s for s in scans if prefix + "pointing" in s and (not sizes or s["infarct_size"] in sizes)]
            if chosen:
                methods.setdefault(name, []).append(_mean_measures(chosen, same, prefix))
                of_chance = {row: _mean_measures(chosen, measures, prefix) for row, measures in CHANCE.items()}
        for row, measures in of_chance.items():
            chance.setdefault(row, []).append(measures)
    if not methods:
        return None
    table = measures_table(methods, [*COLUMNS, SCANS], caption)
    table.rows += measures_table(chance, [*COLUMNS, SCANS], caption).rows  # never the best, never bold
    return table


def _mean_measures(scans: Sequence[Mapping], measures: Mapping[str, str], prefix: str) -> dict[str, float]:
    """Means over scans, {name in the table: mean of the measure}, and their number."""
    means = {ours: float(np.mean([scan[prefix + theirs] for scan in scans])) for ours, theirs in measures.items()}
    return {**means, "scans": len(scans)}


def _with_thesis(table: Table) -> Table:
    """The thesis's figures in a column of their own, after the pointing game."""
    rows = []
    for row in table.rows:
        figure = THESIS_POINTING_GAME.get(row[0])
        rows.append([*row[:2], UNDEFINED if figure is None else f"{figure:.2f}", *row[2:]])
    head = [*table.head[:2], f"pointing game, {THESIS_HEADING}", *table.head[2:]]
    return Table(table.caption, head, rows, {(i, j + (j >= 2)) for i, j in table.bold})


def likeness_table(checks: Mapping[str, Sequence[Mapping]], num_steps: int) -> Table:
    """Maps of the trained network against those of the wholly random one, and the mean over one random group.

    Args:
        checks: as `randomised_maps` gives them.
        num_steps (`int`): groups of layers.
    """
    caption = (
        "Likeness of the maps of the trained network and of one with random weights (1: the map does not see the "
        f"weights), {num_steps} groups of layers; each scan counts as one of the seeds."
    )
    return measures_table({name: list(map(likeness, scans)) for name, scans in checks.items()}, LIKENESS, caption)


def variance_table(variances: Mapping[str, Sequence[Mapping]], noise_std: float) -> Table:
    """A row for each stage of each network, as `noise_variances` gives them."""
    rows = [
        [name, str(step["stage"]), *(f"{step[key]:.4g}" for key in ("clean", "noisy", "ratio"))]
        for name, stages in variances.items()
        for step in stages
    ]
    caption = f"Variance of the pre-activations without and with noise of standard deviation {noise_std:g}."
    return Table(caption, ["network", "stage", "clean", "noisy", "ratio"], rows)


def draw_saliency(scans: Sequence[LesionScan], maps: Mapping[int, Mapping[str, torch.Tensor]], path: Path) -> None:
    """Write a PNG, a row per scan: the slice with most of the lesion, every method's map on it, the lesion outlined.

    Args:
        maps: {index of a scan with a drawn lesion: {method: its map ((S,) 1, H, W)}}.
    """
    rows = []
    for index, found in maps.items():
        scan = scans[index]
        if scan.mask is None:
            raise ValueError(f"The scan {scan.key} has no drawn lesion to outline; show another one.")
        image, mask = (
            np.asarray(array).reshape(-1, *array.shape[-2:]) for array in (scan.image[..., :1, :, :], scan.mask)
        )
        best = int(mask.sum((1, 2)).argmax())
        down, right = crop_to_foreground(image[best][None, None])
        window = {"image": image[best][down, right], "white": grey_window(image[best])}
        window["outlines"] = [(mask[best][down, right], REFERENCE)]
        tiles = [window]
        for saliency in found.values():
            plane = saliency.reshape(-1, *saliency.shape[-2:])[best].numpy()[down, right]
            tiles.append({**window, "colour": plane, "colours": SALIENCY_COLOURS, "opacity": 0.65})
        rows.append((f"{short(scan.key)}, slice {best}", tiles))
    columns = ["image", *(name.replace("_", " ") for name in next(iter(maps.values())))]
    bars = [(SALIENCY_COLOURS, 1.0, "saliency; 1 is the maximum of the scan")]
    overview_figure(rows, columns, "Saliency maps", bars, {"lesion": REFERENCE}, path)


def short(key: str) -> str:
    """The key of a scan, or the end of a long one: identifiers of one study begin alike."""
    return key if len(key) <= LONGEST_NAME else f"…{key[1 - LONGEST_NAME :]}"
