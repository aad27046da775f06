"""What methods find of one kind of lesion and of another: the slices of Table 6.1 by a column of a cohort's table."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..evaluation.admission import judged, passed
from ..evaluation.anomaly_runs import ScoredMethods
from ..evaluation.paired import paired_differences
from .tables import UNDEFINED, Column, Table, measures_table

OfSlices = Mapping[str, Sequence[Mapping[str, list]]]  # `ScoredMethods.slices`, of all subjects or of one group
ALL = "all"
MEASURES = (  # name, heading, factor, digits, and what is best
    ("dice", "Dice", 1, 3, "largest"),
    ("lesion_sensitivity", "lesions found, %", 100, 1, "largest"),
    ("false_positives", "flagged pieces beside the lesions, a slice", 1, 2, "smallest"),
)


class Groups(NamedTuple):
    """What subjects are grouped by, such as "kind", and the group of each."""

    by: str
    of: Mapping[str, str]


def group_tables(scored: ScoredMethods, groups: Groups, where: str, references: Sequence[str]) -> list[Table]:
    """Of each of `MEASURES` a table with a column for each group, and the paired differences of Dice in each.

    Args:
        scored: methods without a drawn lesion or a threshold have an en dash.
        where: which slices they are, for the captions.
        references: the rows that all others are compared with; those that are not there are left out.

    Raises:
        InputError: a subject has no group.
    """
    subjects = {one for seeds in scored.slices.values() for seed in seeds for one in seed["subject"]}
    if missing := sorted(subjects - set(groups.of)):
        raise InputError(f"The table has no row of the subject {missing[0]}, so its {groups.by} is not known.")
    names = sorted({groups.of[one] for one in subjects})
    parts: dict[str, OfSlices] = {}
    for name in names:
        parts[name] = _of_group(scored.slices, groups.of, name)
    parts[ALL] = scored.slices
    heads = {name: f"{name} ({_subjects(part)} subjects)" for name, part in parts.items()}
    results = {
        method: [
            {f"{measure} {name}": value for name, part in parts.items() for measure, value in _means(part[method][i])}
            for i in range(len(seeds))
        ]
        for method, seeds in scored.slices.items()
    }
    shown, tables = judged(results, scored.admission), []
    for measure, heading, scale, digits, best in MEASURES:
        columns = [Column(f"{measure} {name}", head, scale, digits, best) for name, head in heads.items()]
        tables.append(measures_table(shown, columns, f"{heading}, by {groups.by}, {where}."))
    for reference in references:
        table = _differences(scored, parts, heads, reference, f"by {groups.by}, {where}")
        tables += [table] if table.rows else []
    return tables


def _of_group(slices: OfSlices, groups: Mapping[str, str], name: str) -> dict[str, list[dict[str, list]]]:
    """The slices of the subjects of a group."""
    return {
        method: [
            {key: [one for one, whose in zip(values, seed["subject"]) if groups[whose] == name]
             for key, values in seed.items()}
            for seed in seeds
        ]
        for method, seeds in slices.items()
    }  # fmt: skip


def _subjects(part: OfSlices) -> int:
    return len({one for seeds in part.values() for seed in seeds for one in seed["subject"]})


def _means(seed: Mapping[str, list]) -> list[tuple[str, float]]:
    """`MEASURES` of the slices of one seed; those that they do not have are left out."""
    found = {name: float(np.mean(seed[name])) for name in ("dice", "false_positives") if seed.get(name)}
    if seed.get("lesions"):
        found["lesion_sensitivity"] = sum(seed["lesions_found"]) / sum(seed["lesions"])
    return list(found.items())


def _differences(
    scored: ScoredMethods, parts: Mapping[str, OfSlices], heads: Mapping[str, str], reference: str, where: str
) -> Table:
    """Dice of the reference minus that of each other method, in each group, with an error by subject."""
    by_group = {name: paired_differences(part, reference) for name, part in parts.items()}
    rows = []
    for method in by_group[ALL]:
        if not passed([*scored.admission[method], *scored.admission[reference]]):
            rows.append([method, *["not judged"] * len(parts)])
            continue
        found = [some.get(method) for some in by_group.values()]
        rows.append([method, *(UNDEFINED if one is None else _difference_text(one) for one in found)])
    caption = f"Dice of {reference} minus that of the method, slice by slice, {where}; ± the error, by subject."
    return Table(caption, ["method", *heads.values()], rows)


def _difference_text(difference: Mapping) -> str:
    error = difference["standard_error"]
    return f"{difference['mean']:+.3f}" + ("" if error is None else f" ± {error:.3f}")
