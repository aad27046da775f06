"""Which method for my data: the results of `evaluate_anomaly.py` as one table, one figure and three sentences.

What two methods differ by is said only where it is more than two standard errors of the paired difference; of methods
that are level, the quickest is the one to take.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.admission import AdmissionTest, judged
from ..evaluation.effort import Training
from ..evaluation.needs import HEALTHY_ONLY
from ..evaluation.paired import paired_differences
from ..evaluation.statistics import mean_over_seeds
from ..io.files import write_whole
from .charts import draw_cost
from .tables import UNDEFINED, Column, Table, measures_table, write_tables

LEVEL = 2.0  # standard errors within which two methods are called level
COLUMNS = [
    Column("dice", "Dice", digits=3),
    Column("dice_by_labels", "Dice, no lesion drawn", digits=3),
    Column("lesion_sensitivity", "lesions found, %", 100, digits=1),
    Column("false_slices", "healthy slices flagged, %", 100, digits=1, best="smallest"),
    Column("flip_rate", "pass as healthy, %", 100, digits=1),
    Column("healthy_change", "change of healthy slices", digits=4, best="smallest"),
    Column("twin_error", "error against the healthy twin", digits=4, best="smallest"),
    Column("calls", "network calls", digits=0, best="smallest", spread=False),
    Column("seconds_per_slice", "s per slice", digits=2, best="smallest"),
]


def write_choice(
    results: str | Path,
    folder: Path,
    by_labels: str | Path | None = None,
    trainings: Mapping[str, Sequence[Training]] | None = None,
) -> list[str]:
    """Write `choosing.json`, `.md`, `.tex` and `.png` and give back the advice, a sentence each.

    Args:
        results (`str` or `Path`): the output of `evaluate_anomaly.py`.
        by_labels (`str` or `Path`, *optional*): that of the same methods tuned without masks; its Dice by image labels
            then stands in the second column.
        trainings: of each network, its seeds; for a table of steps and hours.

    Raises:
        InputError: a folder holds no such output, or no method can be judged by its Dice.
    """
    data = read_scores(results)
    shown = _judged(data)
    if by_labels is not None:
        without = _judged(read_scores(by_labels))
        shown = {
            name: [{**one, "dice_by_labels": other.get("dice_by_labels")} if one else one for one, other in
                   zip(seeds, without.get(name, [{}] * len(seeds)))]
            for name, seeds in shown.items()
        }  # fmt: skip
    said = advice(shown, data["slices"], data["about"])
    whose = "synthetic data" if data["synthetic"] else "split 'test'"
    caption = (
        f"Methods side by side, {whose}. Dice: thresholds of drawn validation lesions. No lesion drawn: thresholds "
    )
    caption += "of image labels, " + ("and settings too." if by_labels is not None else "settings as before.")
    tables = [with_needs(measures_table(shown, COLUMNS, caption), data["about"])]
    if trainings:
        tables.append(trainings_table(trainings))
    write_tables(tables, {"advice": said, "results": shown}, folder, "choosing")
    page = "\n".join([" ".join(said) + "\n", *(table.markdown() for table in tables)])
    write_whole(folder / "choosing.md", lambda path: path.write_text(page, encoding="utf-8"))
    summary = mean_over_seeds(shown, ["dice", "seconds_per_slice"])
    draw_cost(summary, f"Dice and cost, {whose}", folder / "choosing.png")
    return said


def read_scores(folder: str | Path) -> dict[str, Any]:
    """`anomaly.json` of `evaluate_anomaly.py`.

    Raises:
        InputError: it is not there, or older than what is needed here.
    """
    path = Path(folder) / "anomaly.json"
    if not path.exists():
        raise InputError(f"There is no {path}; make it with examples/evaluate_anomaly.py.")
    data = json.loads(path.read_text(encoding="utf-8"))
    if missing := [name for name in ("results", "slices", "about", "admission") if name not in data]:
        raise InputError(f"{path} has no {missing[0]}; make it again with examples/evaluate_anomaly.py.")
    return data


def with_needs(table: Table, about: Mapping[str, Sequence[Mapping]]) -> Table:
    """The table with two columns more: the networks to train, and what labels they learn from."""
    rows = [[*row, ", ".join(about[row[0]][0]["networks"]), about[row[0]][0]["labels"]] for row in table.rows]
    return Table(table.caption, [*table.head, "networks to train", "labels to train with"], rows, table.bold)


def advice(
    results: Mapping[str, Sequence[Mapping]], slices: Mapping[str, Sequence[Mapping]], about: Mapping[str, Sequence]
) -> list[str]:
    """Three sentences at most: which method, which without drawn lesions, and which from healthy slices alone.

    Raises:
        InputError: no method has a Dice.
    """
    names = [name for name, seeds in results.items() if any(seeds)]  # those that are judged
    mean = mean_over_seeds(results, ["dice", "dice_by_labels", "seconds_per_slice"])
    best = _largest(mean, "dice", names)
    if best is None:
        raise InputError("No method has a Dice: no lesion is drawn in these data, or none passed its admission test.")
    level = [best, *level_with(best, {name: slices[name] for name in names})]
    quick = min(level, key=lambda name: mean[name]["seconds_per_slice"]["mean"])
    others = f"level with it are {_listed(level[1:])}" if len(level) > 1 else "no other method is level with it"
    said = [
        f"{best} has the highest Dice ({_value(mean, best, 'dice')}) and {others}; take {quick}"
        + (", the quickest of them." if len(level) > 1 else ".")
    ]
    if (alone := _largest(mean, "dice_by_labels", names)) is not None:
        said.append(
            f"Where no lesion is drawn, {alone} has the highest Dice ({_value(mean, alone, 'dice_by_labels')}, "
            f"against {_value(mean, alone, 'dice')} with drawn ones)."
        )
    healthy = _largest(mean, "dice", [name for name in names if about[name][0]["labels"] == HEALTHY_ONLY])
    if healthy is not None:
        said.append(f"Where there are healthy slices alone, it is {healthy} ({_value(mean, healthy, 'dice')}).")
    return said


def level_with(best: str, slices: Mapping[str, Sequence[Mapping]]) -> list[str]:
    """The methods whose Dice, slice by slice, is less than two paired standard errors below that of the best."""
    found = []
    for name, one in paired_differences(slices, reference=best).items():
        short, error = one["mean"], one["standard_error"]
        if short is not None and error is not None and short <= LEVEL * error:
            found.append(name)
    return found


def trainings_table(trainings: Mapping[str, Sequence[Training]]) -> Table:
    """Steps and hours of each network, means over its seeds, and how many of these still improved."""
    rows = []
    for name, seeds in trainings.items():
        hours = [one.hours for one in seeds if one.hours is not None]
        known = [one.still_improving for one in seeds if one.still_improving is not None]
        improving = f"{sum(known)} of {len(known)}" if known else "not known"
        spent = f"{sum(hours) / len(hours):.2f}" if hours else UNDEFINED
        rows.append([name, f"{sum(one.steps for one in seeds) / len(seeds):.0f}", spent, improving])
    caption = (
        "How long each network was trained, means over its seeds; still improving: the lowest validation loss of "
    )
    caption += "the last third is lower than all before it by 1 %."
    return Table(caption, ["network", "steps", "hours", "seeds still improving"], rows)


def _judged(data: Mapping[str, Any]) -> dict[str, list[dict]]:
    admission = {name: [[AdmissionTest(**test) for test in tests] for tests in seeds]
                 for name, seeds in data["admission"].items()}  # fmt: skip
    return judged(data["results"], admission)


def _largest(mean: Mapping[str, Mapping[str, Mapping]], measure: str, names: Sequence[str]) -> str | None:
    known = [name for name in names if math.isfinite(mean[name][measure]["mean"])]
    return max(known, key=lambda name: mean[name][measure]["mean"], default=None)


def _value(mean: Mapping[str, Mapping[str, Mapping]], name: str, measure: str) -> str:
    return f"{mean[name][measure]['mean']:.3f}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(["; ".join(names[:-1]), names[-1]] if len(names) > 1 else names)  # names hold commas
