"""Table 6.1 and its figure: what methods find, and what becomes of the slices (thesis Ch. 6)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..data.cards import is_synthetic
from ..evaluation.admission import AdmissionTest, judged, passed
from ..evaluation.anomaly import HEALTHY_SHARE, INFARCT_SIZES, SIZES
from ..evaluation.anomaly_runs import AnomalySettings, ScoredMethods
from ..evaluation.effort import SEARCHED
from ..evaluation.paired import REFERENCE, paired_differences
from ..evaluation.sweep import Curves, Grid
from .anomaly_groups import Groups, group_tables
from .charts import draw_dice_curves, draw_grid
from .figures import methods_figure
from .tables import UNDEFINED, Column, Table, about_data, measures_table, write_tables
from .thesis import ANOMALY_COHORTS

OVERLAP = [
    Column("dice", "Dice", digits=3),
    Column("dice_no_masks", "Dice, no masks used for the threshold", digits=3),
    Column("dice_by_labels", "Dice, threshold by image labels", digits=3),
    Column("iou", "IoU", digits=3),
    Column("best_dice", "best-possible Dice", digits=3),
    Column("auprc", "AUPRC", digits=3),
    *(Column(f"dice_{size}", f"Dice, {size} lesions", digits=3) for size in SIZES),
    Column("volume_dice", "Dice by volume", digits=3),
    Column("lesion_sensitivity", "lesions found, %", 100, digits=1),
]
PICTURE = [
    Column("change_outside", "change outside the lesion", digits=4, best="smallest"),
    Column("healthy_change", "change of healthy slices", digits=4, best="smallest"),
    Column("false_positives", "healthy brain flagged, %", 100, best="smallest"),
    Column("false_slices", "healthy slices flagged, %", 100, digits=1, best="smallest"),
    Column("flip_rate", "pass as healthy, %", 100, digits=1),
    Column("kid", "KID", digits=4, best="smallest"),
    Column("calls", "network calls", digits=0, best="smallest", spread=False),
    Column("seconds_per_slice", "s per slice", digits=2, best="smallest"),
]
TWIN = [
    Column("twin_error", "error against the healthy twin inside the lesion", digits=4, best="smallest"),
    Column("twin_error_left", "of the error of doing nothing, %", 100, digits=1, best="smallest"),
]
BY_INFARCT = [
    Column(f"{measure}_infarct_{size}", f"{heading}, size {size}", digits=3)
    for measure, heading in (("dice", "Dice"), ("auprc", "AUPRC"))
    for size in INFARCT_SIZES
]
MOST_COLUMNS = 10  # methods in a picture
SWEPT = {"noise_level": "noise level K", "percentile": "percentile τ of the mask", "num_samples": "samples"}
DICE = [Column("dice", "Dice", digits=3), Column("best_dice", "best-possible Dice", digits=3)]


def write_anomaly_tables(
    scored: ScoredMethods,
    settings: AnomalySettings,
    folder: Path,
    datasets: Sequence[str],
    cohort: str | None = None,
    out_of_domain_cohort: str | None = None,
    references: Sequence[str] = (REFERENCE,),
    groups: Groups | None = None,
) -> list[Table]:
    """Write `anomaly.json`, `.md`, `.tex` and `.png`, and give back the tables, the lesions that are found first.

    Of more than ten methods there are more pictures, `anomaly_2.png` and so on.

    Args:
        datasets: folders of the data sets that the methods were scored on.
        cohort, out_of_domain_cohort: keys of `ANOMALY_COHORTS`, for the thesis's figures beside ours.
        references: the rows that all others are compared with, slice by slice; those that are not there are left out.
        groups: of the subjects, for tables of each, such as the kinds of lesion.
    """
    synthetic = any(map(is_synthetic, datasets))
    where = about_data("test", synthetic, settings.limit, settings.limit_healthy)
    caption = f"Counterfactuals, {where}; KID over {settings.features()}"
    caption += "." if settings.inception else "; the same classifier says what passes as healthy."
    found = f"Lesions found, {where}."
    if not any("dice" in one for seeds in scored.results.values() for one in seeds):
        found += " No lesion is drawn in these data, so nothing that needs one is scored."
    found += f" No masks: the threshold that {HEALTHY_SHARE:.0%} of healthy validation brain reaches."
    found += " By image labels: the threshold whose Dice, estimated from how much more is flagged in slices with a"
    found += " lesion than in healthy ones, is the best."
    shown = judged(scored.results, scored.admission)
    tables = [
        with_admission(measures_table(shown, OVERLAP, found, ANOMALY_COHORTS.get(cohort or "", ())), scored.admission),
        measures_table(shown, PICTURE, caption),
    ]
    by_dice, by_twin = (
        {one: paired_differences(scored.slices, one, measure) for one in references}
        for measure in ("dice", "twin_error")
    )
    for reference, differences in by_dice.items():
        if differences:
            caption = (
                f"Dice of {reference} minus that of the method, slice by slice, {where}; ± the error, by subject."
            )
            tables.append(differences_table(differences, reference, scored.admission, caption))
    tables += twin_tables(shown, by_twin, scored.admission, where)
    if groups is not None:
        tables += group_tables(scored, groups, where, references)
    if any(BY_INFARCT[0].measure in seed for seeds in scored.results.values() for seed in seeds):
        caption = f"Lesions found by the size of the scan's infarct, {where}."
        tables.append(measures_table(shown, BY_INFARCT, caption))
    for dataset, results in scored.out_of_domain.items():
        kind = "synthetic data" if is_synthetic(dataset) else "real data"
        caption = f"Lesions found in {Path(dataset).name} ({kind}), seen by no model, thresholds as before."
        results = judged(results, scored.admission)
        tables.append(measures_table(results, OVERLAP, caption, ANOMALY_COHORTS.get(out_of_domain_cohort or "", ())))
        tables += twin_tables(results, {}, scored.admission, f"in {Path(dataset).name}")
    if any("setting" in one for seeds in scored.about.values() for one in seeds):
        tables.append(settings_table(scored.about))
    data = {"limit": settings.limit, "synthetic": synthetic, "about": scored.about, "slices": scored.slices}
    data |= {"results": scored.results, "out_of_domain": scored.out_of_domain, "differences": by_dice}
    data |= {"twin_differences": by_twin} if any(by_twin.values()) else {}
    data["admission"] = {name: [[asdict(one) for one in some] for some in seeds] for name, seeds in
                         scored.admission.items()}  # fmt: skip
    write_tables(tables, data, folder, "anomaly")
    title = f"Counterfactuals and what changed{', synthetic data' if synthetic else ''}"
    names = list(scored.tiles)
    for first in range(0, len(names), MOST_COLUMNS):
        some = {name: scored.tiles[name] for name in names[first : first + MOST_COLUMNS]}
        methods_figure(some, title, folder / f"anomaly{f'_{first // MOST_COLUMNS + 1}' if first else ''}.png")
    return tables


def with_admission(table: Table, admission: Mapping[str, Sequence[Sequence[AdmissionTest]]]) -> Table:
    """The table with a last column that says what each row had to pass, and why a row is not judged."""
    rows = [[*row, _admission_cell(admission[row[0]])] for row in table.rows]
    return replace(table, head=[*table.head, "admission"], rows=rows)


def _admission_cell(seeds: Sequence[Sequence[AdmissionTest]]) -> str:
    failed = [[test for test in tests if not test.passed] for tests in seeds]
    if any(failed):
        reason = next(tests[0] for tests in failed if tests).in_words()
        return f"not judged ({sum(map(bool, failed))} of {len(seeds)} seeds): {reason}"
    return "; ".join(test.in_words() for test in seeds[0]) or UNDEFINED


def differences_table(
    differences: Mapping[str, Mapping],
    reference: str,
    admission: Mapping[str, Sequence[Sequence[AdmissionTest]]],
    caption: str,
    digits: int = 3,
) -> Table:
    """A measure of the reference minus that of each other method, with an error that is clustered by subject."""
    rows = []
    for name, one in differences.items():
        error = "" if one["standard_error"] is None else f" ± {one['standard_error']:.{digits}f}"
        same = passed([*admission[name], *admission[reference]])
        text = f"{one['mean']:+.{digits}f}{error}" if same else "not judged"
        rows.append([name, text, str(one["slices"]), str(one["subjects"])])
    return Table(caption, ["method", "difference", "slices", "subjects"], rows)


def settings_table(about: Mapping[str, Sequence[Mapping]]) -> Table:
    """The setting that was chosen for every seed, and those of its values that lie at an edge of what was tried."""
    rows = []
    for name, seeds in about.items():
        for number, one in enumerate(seeds):
            setting = one.get("setting", {})
            words = ", ".join(f"{what} {setting[what]:g}" for what in SEARCHED if what in setting)
            edges = ", ".join(one.get("at_an_edge", ()))
            rows.append([name, str(number), words or UNDEFINED, edges or UNDEFINED])
    caption = (
        "Settings chosen on validation slices. At an edge: no value beyond it was tried, so another may be better."
    )
    return Table(caption, ["method", "seed", "setting", "at an edge"], rows)


def twin_tables(
    results: Mapping[str, Sequence[dict]],
    differences: Mapping[str, Mapping],
    admission: Mapping[str, Sequence[Sequence[AdmissionTest]]],
    where: str,
) -> list[Table]:
    """How close counterfactuals come to the slices drawn without their lesion; none where there are no such twins."""
    if not any(TWIN[0].measure in seed for seeds in results.values() for seed in seeds):
        return []
    caption = f"Counterfactuals inside the lesion, {where}, beside the same slices drawn without it; range of 1."
    tables = [measures_table(results, TWIN, caption)]
    for reference, some in differences.items():
        if some:
            caption = (
                f"Error against the healthy twin, {reference} minus the method, slice by slice, {where}; below 0 "
            )
            caption += f"{reference} is closer; ± the error, by subject."
            tables.append(differences_table(some, reference, admission, caption, digits=4))
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
