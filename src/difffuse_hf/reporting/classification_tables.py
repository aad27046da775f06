"""Tables and figures of classifiers: chapters 4 and 5 (Tables 4.2 to 4.6, 5.1 to 5.5).

Each function gives its tables and what goes into the JSON file beside them; `predictions` are the tables of
`evaluation.predictions`, one a seed, for each method.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas

from ..errors import InputError
from ..evaluation.agreement import pairwise_alpha, read_readers, reader_agreement
from ..evaluation.classification import by_class, compare, confusion_matrix, evaluate, flat, num_patients
from ..evaluation.predictions import ClassifierRun, decide, predicted_classes
from ..evaluation.statistics import mean_and_error
from ..evaluation.subgroups import GRADES, auc_differences, subgroup_table
from .charts import draw_confusions, draw_gains, draw_lines
from .tables import UNDEFINED, Column, Table, interval_text, measures_table
from .thesis import CLASSIFICATION_COHORTS

ACCURACY = Column("accuracy", "accuracy, %", 100)
MACRO = [
    Column("macro_sensitivity", "macro sensitivity, %", 100),
    Column("macro_specificity", "macro specificity, %", 100),
]
LESION = [
    Column("lesion_sensitivity", "lesion sensitivity, %", 100),
    Column("lesion_specificity", "lesion specificity, %", 100),
]
AUC = Column("auc", "AUC", digits=3)
SCANS = Column("scans", "scans", digits=0, best=None, spread=False)
SUBGROUP = [SCANS, *(Column(one.measure, one.heading, 100, digits=1, best=None) for one in (ACCURACY, *LESION))]
SUBGROUP.append(Column("auc", "AUC (of lesions alone: against all without)", digits=3, best=None))
AGREEMENT = [Column("alpha", "α", digits=3, best=None), Column("change_from_readers", "change", digits=3, best=None)]

Predictions = Mapping[str, Sequence[pandas.DataFrame]]


def common_classes(predictions: Sequence[pandas.DataFrame]) -> list[str]:
    """The classes of all tables.

    Raises:
        InputError: they are not the same.
    """
    classes = sorted({tuple(predicted_classes(table)) for table in predictions})
    if len(classes) > 1:
        different = " against ".join(", ".join(names) for names in classes)
        raise InputError(f"The models tell different classes apart ({different}); score them in separate runs.")
    return list(classes[0])


def method_tables(
    runs: Mapping[str, Sequence[ClassifierRun]],
    predictions: Predictions,
    where: str,
    folder: Path,
    cohort: str | None = None,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[list[Table], dict]:
    """The main table, the comparisons with the first method, a table of subgroups each, and up to three figures.

    Args:
        where (`str`): which scans these are, for the captions.
        folder (`Path`): of `confusion_matrices.png`, `sensitivity_by_size.png` and `auc_gain_by_size.png`.
        cohort (`str`, *optional*): key of `CLASSIFICATION_COHORTS`, for the thesis's figures beside ours.
    """
    everything = [table for seeds in predictions.values() for table in seeds]
    names, what = predicted_classes(everything[0]), rows_are(everything[0])
    results, groups, matrices = {}, {}, {}
    for name, seeds in predictions.items():
        results[name] = [evaluate(table, num_bootstrap, seed) for table in seeds]
        groups[name] = [subgroup_table(table, num_bootstrap, seed) for table in seeds]
        matrices[name] = [confusion_matrix(table) for table in seeds]
    data: dict = {"methods": {}}
    for name, seeds in runs.items():
        data["methods"][name] = [
            run._asdict()
            | {"scans": len(predictions[name][i]), "patients": num_patients(predictions[name][i])}
            | {"measures": results[name][i], "by_class": by_class(predictions[name][i])}
            | {"confusion": matrices[name][i], "subgroups": groups[name][i].to_dict("records")}
            for i, run in enumerate(seeds)
        ]
    caption = f"Classes {', '.join(names)}: {_sizes(everything)}, {where}."
    columns = [ACCURACY, *(MACRO if len(names) > 2 else []), *LESION, AUC]
    rows = {name: list(map(flat, seeds)) for name, seeds in results.items()}
    thesis = CLASSIFICATION_COHORTS.get(cohort or "", ())
    tables = [measures_table(rows, columns, caption, thesis, label="tab:classification")]
    comparisons, data["comparisons"] = compare_with_first(predictions, where, num_bootstrap, seed)
    by_grade, data["auc_differences"] = grades_against_first(predictions, where, num_bootstrap, seed)
    tables += comparisons + by_grade
    for name, seeds in groups.items():
        caption = f"{name} in subgroups, {where}. An en dash: there are no {what} of which it could be said."
        tables.append(measures_table(_subgroup_rows(seeds), SUBGROUP, caption, row_heading="subgroup"))

    totals = {name: np.sum(seeds, axis=0) for name, seeds in matrices.items()}
    title = f"{what.capitalize()} by class, all seeds, {where}"
    draw_confusions(totals, names, title, folder / "confusion_matrices.png")
    draw_grades(groups, where, folder / "sensitivity_by_size.png")
    if data["auc_differences"]:
        gains = {
            name: {row["value"] or row["group"]: (row["difference"], row["low"], row["high"]) for row in rows}
            for name, rows in data["auc_differences"].items()
        }
        grades = {row["group"] for rows in data["auc_differences"].values() for row in rows if row["value"]}
        by = f", by {', '.join(sorted(grades))}" if grades else ""
        heading = (f"{rows_are(everything[0])} with a lesion{by}", f"AUC minus that of {next(iter(predictions))}")
        draw_gains(gains, heading, f"Against lesion-free ones, {where}", folder / "auc_gain_by_size.png")
    return tables, data


def compare_with_first(
    predictions: Predictions, where: str, num_bootstrap: int = 1000, seed: int = 0
) -> tuple[list[Table], list[dict]]:
    """One table, a row for each other method and seed; seeds that were scored on other scans are left out aloud."""
    (first, firsts), *others = predictions.items()
    what = rows_are(firsts[0])
    rows, comparisons = [], []
    for name, seeds in others:
        for i, (one, other) in enumerate(zip(firsts, seeds)):
            if set(one["key"]) != set(other["key"]):
                print(f"Seed {i} of {name} and of {first} are not compared: they were scored on other {what}.")
                continue
            result = compare(one, other, num_bootstrap=num_bootstrap, seed=seed)
            comparisons.append({"first": first, "second": name, "seed": i, **result})
            difference = interval_text(result["difference"], result["low"], result["high"])
            counts = [str(result[f"only_{side}"]) for side in ("first", "second")]
            rows.append([f"{name} − {first}, seed {i}", difference, *counts, f"{result['p_value']:.3g}"])
    caption = f"Accuracy against {first} on the same {what}, {where}: interval over patients, McNemar's exact test."
    head = ["methods", "difference, %", f"only {first} right", "only the other right", "p (McNemar)"]
    return [Table(caption, head, rows)] if rows else [], comparisons


def grades_against_first(
    predictions: Predictions, where: str, num_bootstrap: int = 1000, seed: int = 0
) -> tuple[list[Table], dict]:
    """One table: the first method's AUC for lesions of each grade, and each other one's minus it, all seeds together.

    Seeds of a method that were scored on other scans than the first one's are left out; `compare_with_first` says so.
    """
    (first, firsts), *others = predictions.items()
    own = auc_differences(firsts, firsts, 0).to_dict("records")
    differences = {}
    for name, seeds in others:
        pairs = [(one, other) for one, other in zip(firsts, seeds) if set(one["key"]) == set(other["key"])]
        if pairs:
            some, same = ([pair[i] for pair in pairs] for i in (0, 1))
            differences[name] = auc_differences(some, same, num_bootstrap, seed)
    if not differences:
        return [], {}
    head = [f"{row['group']} {row['value']}".strip() + f" ({row['lesions']} scans)" for row in own]
    rows = [[f"{first}: AUC", *(interval_text(row["first"], None, None, scale=1, digits=3) for row in own)]]
    for name, table in differences.items():
        found = {(row["group"], row["value"]): row for row in table.to_dict("records")}
        cells = [_difference_cell(found.get((row["group"], row["value"]))) for row in own]
        rows.append([f"{name} − {first}", *cells])
    what = "AUC of lesions of a grade against all scans without one"
    caption = f"{what}, mean over the seeds, {where}: interval over patients, ± standard error over the seeds."
    data = {name: table.to_dict("records") for name, table in differences.items()}
    return [Table(caption, ["methods", *head], rows)], data


def _difference_cell(row: Mapping | None) -> str:
    if row is None:
        return UNDEFINED
    text = interval_text(row["difference"], row["low"], row["high"], scale=1, digits=3)
    error = row["standard_error"]
    return text if error is None or not np.isfinite(error) else f"{text} ± {error:.3f}"


def draw_grades(groups: Predictions, where: str, path: Path) -> None:
    """Sensitivity by infarct size, or by severity, where the data set knows either.

    Args:
        groups: of each method the tables of `subgroup_table`, one a seed.
    """
    for group in GRADES.values():
        lines = {}
        for name, seeds in groups.items():
            grades: dict[str, list[float]] = {}
            for row in (row for table in seeds for row in table.to_dict("records")):
                if row["group"] == group and row["lesions"] > 0 and not row["value"].startswith("small"):
                    grades.setdefault(row["value"], []).append(row["lesion_sensitivity"])
            lines[name] = {grade: mean_and_error(values)[:2] for grade, values in sorted(grades.items())}
        if any(lines.values()):
            draw_lines(lines, (group, "lesion sensitivity, %"), f"Sensitivity by {group}, {where}", path)
            return
    print("The data set knows neither infarct size nor severity, so there is no figure of sensitivity by size.")


def reader_tables(
    path: str | Path, predictions: Predictions, where: str, num_bootstrap: int = 1000, seed: int = 0
) -> tuple[list[Table], dict]:
    """Krippendorff's alpha with and without each method (Tables 4.4 and 4.5).

    Args:
        path: CSV of the readings, see `read_readers`.

    Raises:
        InputError: the file cannot be used, a reader is called as a method is, or no scan is in both.
    """
    readers = read_readers(path, predicted_classes(next(iter(predictions.values()))[0]))
    tables, agreement = [], {}
    for name, seeds in predictions.items():
        if name in readers:
            raise InputError(f"{path} has a reader called '{name}', as a method is; rename one of them.")
        panels, pairs, count = [], [], 0
        for table in seeds:
            decisions = pandas.Series(decide(table), index=table["key"], name=name)
            both = readers.join(decisions, how="inner")
            if both.empty:
                raise InputError(f"No `key` of {path} is that of a scan in the {where}.")
            panels.append(reader_agreement(both, name, num_bootstrap=num_bootstrap, seed=seed))
            count = len(both)
            pairs.append(pairwise_alpha(both))
        agreement[name] = [panel.to_dict("records") for panel in panels]
        rows = {row: [panel.loc[i].to_dict() for panel in panels] for i, row in enumerate(panels[0]["panel"])}
        panel = f"{len(readers.columns)} readers and {name} on {count} scans"
        caption = f"Krippendorff's α (nominal) of {panel}, {where}; change: against the readers alone."
        members = list(pairs[0])
        of_two = {one: [pair.loc[one].to_dict() for pair in pairs] for one in members}
        columns = [Column(str(one), str(one), digits=3, best=None) for one in members]
        caption_of_two = f"Krippendorff's α (nominal) of every two of {panel}, {where}."
        tables.append(measures_table(of_two, columns, caption_of_two, row_heading="reader"))
        tables.append(measures_table(rows, AGREEMENT, caption, row_heading="panel"))
        agreement[f"{name}, pairs"] = [pair.to_dict() for pair in pairs]
    return tables, {"agreement": agreement}


def curve_tables(
    predictions: Mapping[tuple[str, int], Sequence[pandas.DataFrame]],
    where: str,
    folder: Path,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> tuple[list[Table], dict]:
    """Accuracy against the number of training scans, as a table and `accuracy_by_training_scans.png` (Sec. 5.6.4).

    Args:
        predictions: by (method, number of training scans).
    """
    results = {
        key: [flat(evaluate(table, num_bootstrap, seed)) for table in seeds]
        for key, seeds in sorted(predictions.items())
    }
    lines: dict[str, dict] = {}
    for (name, size), seeds in results.items():
        lines.setdefault(name, {})[size] = mean_and_error([one["accuracy"] for one in seeds])[:2]
    path = folder / "accuracy_by_training_scans.png"
    draw_lines(lines, ("training scans", "accuracy, %"), f"Accuracy, {where}", path)
    caption = f"Accuracy against the number of training scans, {where}."
    rows = {f"{name}, {size} scans": seeds for (name, size), seeds in results.items()}
    column = Column("accuracy", "accuracy, %", 100, best=None)
    curve = [{"method": name, "training_scans": size, "seeds": seeds} for (name, size), seeds in results.items()]
    return [measures_table(rows, [column], caption, row_heading="method, training scans")], {"curve": curve}


def _subgroup_rows(seeds: Sequence[pandas.DataFrame]) -> dict[str, list[dict]]:
    """`{"infarct size: 1": [measures of each seed]}`; a seed without such scans has none."""
    rows: dict[str, list[dict]] = {}
    for i, table in enumerate(seeds):
        for row in table.to_dict("records"):
            title = f"{row['group']}: {row['value']}" if row["value"] else row["group"]
            rows.setdefault(title, [{} for _ in seeds])[i] = row
    return rows


def _sizes(tables: Sequence[pandas.DataFrame]) -> str:
    """ "120 scans of 80 patients", or slices, with the range where seeds differ."""
    counts = [sorted({len(table) for table in tables}), sorted({num_patients(table) for table in tables})]
    rows, patients = (str(c[0]) if len(c) == 1 else f"{c[0]} to {c[-1]}" for c in counts)
    return f"{rows} {rows_are(tables[0])} of {patients} patients"


def rows_are(predictions: pandas.DataFrame) -> str:
    """What the rows of predictions are, in a word: "slices", each of which has its number, or "scans"."""
    return "slices" if "slice" in predictions.columns else "scans"
