"""Table 6.1 and its figure: what methods find, and what becomes of the slices (thesis Ch. 6)."""

from collections.abc import Sequence
from pathlib import Path

from ..data.cards import is_synthetic
from ..evaluation.anomaly import INFARCT_SIZES, SIZES
from ..evaluation.anomaly_runs import AnomalySettings, ScoredMethods
from ..evaluation.sweep import Curves, Grid
from .charts import draw_dice_curves, draw_grid
from .figures import methods_figure
from .tables import Column, Table, about_data, measures_table, write_tables
from .thesis import ANOMALY_COHORTS

OVERLAP = [
    Column("dice", "Dice", digits=3),
    Column("iou", "IoU", digits=3),
    Column("best_dice", "best-possible Dice", digits=3),
    Column("auprc", "AUPRC", digits=3),
    *(Column(f"dice_{size}", f"Dice, {size} lesions", digits=3) for size in SIZES),
    Column("volume_dice", "Dice by volume", digits=3),
]
PICTURE = [
    Column("change_outside", "change outside the lesion", digits=4, best="smallest"),
    Column("healthy_change", "change of healthy slices", digits=4, best="smallest"),
    Column("false_positives", "healthy brain flagged, %", 100, best="smallest"),
    Column("flip_rate", "pass as healthy, %", 100, digits=1),
    Column("kid", "KID", digits=4, best="smallest"),
    Column("seconds_per_slice", "s per slice", digits=2, best="smallest"),
]
BY_INFARCT = [
    Column(f"{measure}_infarct_{size}", f"{heading}, size {size}", digits=3)
    for measure, heading in (("dice", "Dice"), ("auprc", "AUPRC"))
    for size in INFARCT_SIZES
]
SWEPT = {"noise_level": "noise level K", "percentile": "percentile τ of the mask", "num_samples": "samples"}
DICE = [Column("dice", "Dice", digits=3), Column("best_dice", "best-possible Dice", digits=3)]


def write_anomaly_tables(
    scored: ScoredMethods,
    settings: AnomalySettings,
    folder: Path,
    datasets: Sequence[str],
    cohort: str | None = None,
    out_of_domain_cohort: str | None = None,
) -> list[Table]:
    """Write `anomaly.json`, `.md`, `.tex` and `.png`, and give back the tables, the lesions that are found first.

    Args:
        datasets: folders of the data sets that the methods were scored on.
        cohort, out_of_domain_cohort: keys of `ANOMALY_COHORTS`, for the thesis's figures beside ours.
    """
    synthetic = any(map(is_synthetic, datasets))
    where = about_data("test", synthetic, settings.limit)
    caption = f"Counterfactuals, {where}; KID over {settings.features()}."
    found = f"Lesions found, {where}."
    if not any("dice" in one for seeds in scored.results.values() for one in seeds):
        found += " No lesion is drawn in these data, so nothing that needs one is scored."
    tables = [
        measures_table(scored.results, OVERLAP, found, ANOMALY_COHORTS.get(cohort or "", ())),
        measures_table(scored.results, PICTURE, caption),
    ]
    if any(BY_INFARCT[0].measure in seed for seeds in scored.results.values() for seed in seeds):
        caption = f"Lesions found by the size of the scan's infarct, {where}."
        tables.append(measures_table(scored.results, BY_INFARCT, caption))
    for dataset, results in scored.out_of_domain.items():
        kind = "synthetic data" if is_synthetic(dataset) else "real data"
        caption = f"Lesions found in {Path(dataset).name} ({kind}), seen by no model, thresholds as before."
        tables.append(measures_table(results, OVERLAP, caption, ANOMALY_COHORTS.get(out_of_domain_cohort or "", ())))
    data = {"limit": settings.limit, "synthetic": synthetic}
    data |= {"results": scored.results, "out_of_domain": scored.out_of_domain}
    write_tables(tables, data, folder, "anomaly")
    title = f"Counterfactuals and what changed{', synthetic data' if synthetic else ''}"
    methods_figure(scored.tiles, title, folder / "anomaly.png")
    return tables


def write_sweep_tables(curves: Curves, grid: Grid, where: str, num_slices: int, folder: Path) -> list[Table]:
    """Write `sweep.json`, `.md`, `.tex` and `.png`, with a grid also `sweep_grid.png`, and give back the tables.

    Args:
        curves: a table and a panel each.
        grid: Dice of every noise level with every percentile (Fig. 6.6); may be empty.
        where (`str`), num_slices (`int`): the slices that they were measured on.
    """
    tables = []
    if grid:
        shares = next(iter(grid.values()))
        columns = [Column(f"{share:g}", f"τ = {share:g}", digits=3, best=None) for share in shares]
        rows = {
            f"{level:g}": [{f"{share:g}": run["dice"] for share, run in zip(row, runs)} for runs in zip(*row.values())]
            for level, row in grid.items()
        }
        caption = f"Dice, {num_slices} slices with a lesion, split {where}."
        tables.append(measures_table(rows, columns, caption, row_heading=SWEPT["noise_level"]))
        draw_grid(grid, (SWEPT["percentile"], SWEPT["noise_level"]), f"Dice ({where})", folder / "sweep_grid.png")
    for name, curve in curves.items():
        rows = {f"{value:g}": runs for value, runs in curve.items()}
        caption = f"{num_slices} slices with a lesion, split {where}."
        tables.append(measures_table(rows, DICE, caption, row_heading=SWEPT[name]))
    write_tables(tables, {"curves": curves, "grid": grid, "split": where}, folder, "sweep")
    draw_dice_curves({SWEPT[name]: curve for name, curve in curves.items()}, where, folder / "sweep.png")
    return tables
