"""Whom does a classifier judge well? Its measures by time of the scan, lesion and background findings (Ch. 4)."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas

from .classification import evaluate, flat, num_patients, patient_weights, roc_auc
from .predictions import class_probabilities, predicted_classes
from .statistics import mean_and_error, percentile_interval

# Table 4.6(d) has the first three and the last; a non-stroke lesion is none of an infarct.
CONDITIONS = ("old_infarct", "leukoaraiosis", "atrophy", "hyperdense_vessel", "non_stroke_lesion")
TIMES = ("baseline", "follow-up")
GRADES = {"infarct_size": "infarct size", "severity": "severity"}  # of the lesion: IST-3, MosMed
Subgroup = tuple[str, str, np.ndarray]  # group, value, which scans: bool, (N,)


def lesion_sites(territory: str) -> list[tuple[str, str]]:
    """Territory and side of every lesion named: `MCA superior left;ACA` gives (MCA superior, left) and (ACA, "")."""
    sites = []
    for entry in filter(None, (part.strip() for part in str(territory).split(";"))):
        words = entry.split()
        side = words[-1].lower() if words[-1].lower() in ("left", "right") else ""
        sites.append((" ".join(words[:-1] if side else words), side))
    return sites


def subgroups(predictions: pandas.DataFrame) -> list[Subgroup]:
    """Triples (group, value, which scans) in the order of the tables: time, lesion, background findings.

    Where the time is known, every other group is also crossed with it, as in Table 4.6: `"infarct size, baseline"`.
    `lesion sites` holds what is affected and nothing else is, such as "MCA" alone or "ACA + MCA".
    Groups for which there is no metadata are left out, and a scan whose metadata are missing is in no group of them.
    The groups `lesions` (from `territory`), `side`, `territory`, `infarct size` ("small" is 1-2) and `severity` are
    defined by the lesion itself: but for 0 lesions, and CT-0, they hold no healthy scan, so specificity is not defined
    in them and sensitivity is the measure. A scan with two lesions is in the groups of both.
    """
    found = itertools.chain(
        _by_time(predictions), _by_site(predictions), _by_grade(predictions), _by_condition(predictions)
    )
    masks = [(group, value, np.asarray(inside, bool)) for group, value, inside in found]
    at = {time: predictions["time"].eq(time).to_numpy(bool) for time in TIMES} if "time" in predictions else {}
    crossed = [
        (f"{group}, {time}", value, inside & now)
        for time, now in at.items()
        for group, value, inside in masks
        if group != "time"
    ]
    return [(group, value, inside) for group, value, inside in [*masks, *crossed] if inside.any()]


def _by_time(predictions: pandas.DataFrame) -> Iterator[Subgroup]:
    if "time" in predictions:
        for value in TIMES:
            yield "time", value, predictions["time"].eq(value).to_numpy()


def _by_site(predictions: pandas.DataFrame) -> Iterator[Subgroup]:
    """By the number of lesions, their side (of the label, or else of the territories), and their territory."""
    names = predicted_classes(predictions)
    labels = predictions["label"].to_numpy()
    lesion = labels > 0
    sites: list[list[tuple[str, str]]] = [[] for _ in labels]
    if "territory" in predictions:
        sites = [lesion_sites(text) if isinstance(text, str) else [] for text in predictions["territory"]]
        count = np.array([len(found) for found in sites])
        yield "lesions", "0", ~lesion
        yield "lesions", "1", lesion & (count == 1)
        yield "lesions", "2 or more", lesion & (count > 1)
    named = {"left": {"left"}, "right": {"right"}, "both": {"left", "right"}}
    sides = [named.get(names[label]) or {side for _, side in found if side} for label, found in zip(labels, sites)]
    for value, wanted in named.items():
        yield "side", value, lesion & np.array([side == wanted for side in sides], bool)
    territories = [{name for name, _ in found if name} for found in sites]
    for value in sorted(set().union(*territories)):
        yield "territory", value, lesion & np.array([value in known for known in territories], bool)
    arteries = [" + ".join(sorted({name.split()[0] for name in known})) for known in territories]
    for value in sorted(filter(None, set(arteries))):
        yield "lesion sites", value, lesion & np.array([value == known for known in arteries], bool)


def _by_grade(predictions: pandas.DataFrame) -> Iterator[Subgroup]:
    lesion = predictions["label"].to_numpy() > 0
    if "infarct_size" in predictions:
        size = _numbers(pandas.to_numeric(predictions["infarct_size"]))
        for grade in (1, 2, 3, 4):
            yield "infarct size", str(grade), lesion & (size == grade)
        yield "infarct size", "small (1-2)", lesion & ((size == 1) | (size == 2))
    if "severity" in predictions:
        for value in sorted(predictions["severity"].dropna().unique()):
            yield "severity", str(value), predictions["severity"].eq(value).to_numpy()


def _by_condition(predictions: pandas.DataFrame) -> Iterator[Subgroup]:
    for condition in CONDITIONS:
        if condition in predictions:
            known = _numbers(predictions[condition])
            yield condition.replace("_", " "), "present", known == 1
            yield condition.replace("_", " "), "absent", known == 0


def _numbers(column) -> np.ndarray:
    """A column as floats (N,), NaN where a value is missing."""
    return pandas.Series(column).astype("Float64").to_numpy(float, na_value=np.nan)


def subgroup_table(
    predictions: pandas.DataFrame, num_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95
) -> pandas.DataFrame:
    """Accuracy, and sensitivity and specificity for "lesion present", in every subgroup; "all" is the first row.

    Columns: `group`, `value`, `scans`, `patients`, `lesions` (scans with one), and of `accuracy`, `lesion_sensitivity`
    and `lesion_specificity` the value, `_low` and `_high`, NaN where it is undefined: see `subgroups`. And `auc`,
    lesion against none: of a group that the lesion defines, such as small infarcts, against all scans without one.
    """
    healthy = pandas.DataFrame(predictions[predictions["label"] == 0])
    everything: Subgroup = ("all", "", np.ones(len(predictions), bool))
    rows = []
    for group, value, inside in [everything, *subgroups(predictions)]:
        chosen = pandas.DataFrame(predictions[inside])
        lesions = int((chosen["label"].to_numpy() > 0).sum())
        row = {"group": group, "value": value, "scans": len(chosen), "patients": num_patients(chosen)}
        row["lesions"] = lesions
        results = flat(evaluate(chosen, num_bootstrap, seed, confidence))
        for name in ("accuracy", "lesion_sensitivity", "lesion_specificity"):
            row |= {f"{name}{end}": results[f"{name}{end}"] for end in ("", "_low", "_high")}
        compared = pandas.concat([chosen, healthy]) if lesions == len(chosen) else chosen
        suspicion = 1 - class_probabilities(compared)[:, 0]
        row["auc"] = float(roc_auc(suspicion, np.asarray(compared["label"]) > 0)[0])
        rows.append(row)
    return pandas.DataFrame(rows)


def auc_differences(
    firsts: Sequence[pandas.DataFrame],
    seconds: Sequence[pandas.DataFrame],
    num_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pandas.DataFrame:
    """Second minus first in the AUC of lesions of each grade against all scans without one: a mean over the seeds.

    The interval is over patients, drawn once for all seeds and both methods, for a patient may be tested in several
    seeds; the standard error is over the seeds, so that it holds what another training does.

    Args:
        firsts, seconds: predictions of two methods, one a seed; a seed's two are of the same scans.

    Returns:
        `DataFrame`: a row a grade and one for all: `group`, `value`, `lesions` (scans with one, of all seeds), `first`
        (its own AUC), `difference`, `low`, `high`, `standard_error` (None of one seed). Without grades, one row.
    """
    firsts = [table.sort_values("key", ignore_index=True) for table in firsts]
    seconds = [table.sort_values("key", ignore_index=True) for table in seconds]
    for one, other in zip(firsts, seconds, strict=True):
        if not one[["key", "label"]].equals(other[["key", "label"]]):
            raise ValueError("A seed's two tables hold other scans or labels; compare predictions of one split.")
    patients = pandas.concat([table["patient"] for table in firsts])
    drawn = patient_weights(patients, num_bootstrap, seed)
    weights = np.concatenate([np.ones((1, len(patients))), drawn])
    parts = np.split(weights, np.cumsum([len(table) for table in firsts])[:-1], axis=1)
    rows: dict[tuple[str, str], list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for one, other, part in zip(firsts, seconds, parts):
        lesion = one["label"].to_numpy() > 0
        scores = [1 - class_probabilities(table)[:, 0] for table in (one, other)]
        graded = [found for found in subgroups(one) if found[0] in GRADES.values() and np.any(lesion & found[2])]
        for group, value, inside in [("all", "", lesion), *graded]:
            chosen = ~lesion | inside
            first, second = (roc_auc(score[chosen], lesion[chosen], part[:, chosen]) for score in scores)
            rows.setdefault((group, value), []).append((int((lesion & inside).sum()), first, second))
    several = len(set(patients)) > 1
    table = []
    for (group, value), seeds in rows.items():
        samples = np.mean([second - first for _, first, second in seeds], 0)
        error = mean_and_error([float(second[0] - first[0]) for _, first, second in seeds])[1]
        row = {"group": group, "value": value, "lesions": sum(count for count, *_ in seeds)}
        row |= {"first": float(np.mean([first[0] for _, first, _ in seeds])), "difference": float(samples[0])}
        row |= percentile_interval(samples[1:] if several else [], samples[0], confidence)
        table.append(row | {"standard_error": error})
    return pandas.DataFrame(table)
