"""The labels of IST-3 scans: one table, in the trial's own words or in ours.

CSV, or TSV by its ending; one row per scan, study or patient. Columns, under these names or under the table's own
with `columns={our name: name in the table}`; only a key and `lesion` are needed, and a blank is unknown:

| column | values |
|---|---|
| `scan_id`, `series_uid`, `study_uid` or `patient_id` | the key; all but the first need `private/linkage.csv` |
| `lesion` | side of the visible infarct: none, left, right, both |
| `time` | baseline, follow-up |
| `infarct_size` | 0 (none) to 4 |
| `territory` | free text, several separated by ";" |
| `old_infarct`, `leukoaraiosis`, `atrophy`, `hyperdense_vessel`, `non_stroke_lesion` | 0, 1 |
| `patient` | the same column of a phantom's `subjects.csv` |

Other words are translated with `values={our name: {value in the table: our value}}`.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas

from ..errors import InputError

KEYS = ("scan_id", "series_uid", "study_uid", "patient_id")  # the most exact first
SIDES = ["none", "left", "right", "both"]
TIMES = ["baseline", "follow-up"]
CHRONIC = ("old_infarct", "leukoaraiosis", "atrophy", "hyperdense_vessel", "non_stroke_lesion")  # Table 4.6(d)
_ALLOWED = {
    "lesion": SIDES,
    "time": TIMES,
    "infarct_size": ["0", "1", "2", "3", "4"],
    **{name: ["0", "1"] for name in CHRONIC},
}


def find_labels(root: Path, labels: str | None = None) -> Path:
    """`labels`, or else labels.csv in `root` or in the folder above; the error lists the tables that are there."""
    places = [Path(labels).expanduser().resolve()] if labels else [root / "labels.csv", root.parent / "labels.csv"]
    for place in places:
        if place.is_file():
            return place
    present = [str(table) for place in places for table in sorted(place.parent.glob("*.[ct]sv"))]
    raise FileNotFoundError(
        f"There is no labels table {' or '.join(map(str, places))}; give its path as `labels` "
        f"(tables there: {', '.join(present) or 'none'})."
    )


def read_labels(
    path: Path, columns: Mapping[str, str], values: Mapping[str, Mapping[str, str]], key: str | None = None
) -> tuple[pandas.DataFrame, str]:
    """The table with our column names and values, all strings, "" where unknown; and the name of its key.

    Args:
        path (`Path`): the table.
        columns (`Mapping`): our name to the name in the table, where they differ.
        values (`Mapping`): our column name to {value in the table: our value}.
        key (`str`, *optional*): one of `KEYS`; the first of them that the table has by default.
    """
    table = read_table(path)
    name_of = {name: columns.get(name, name) for name in (*KEYS, "patient", "territory", *_ALLOWED)}
    for name in (*columns, *values, key or KEYS[0]):
        if name not in name_of:
            raise InputError(f"There is no column `{name}` of labels; there are {', '.join(name_of)}.")
    key = key or next((name for name in KEYS if name_of[name] in table), None)
    if key is None:
        raise InputError(f"{path} has no key: no column {' or '.join(KEYS)}; name one in `columns`. {_has(table)}")
    for name in (key, "lesion", *columns, *values):
        if name_of[name] not in table:
            raise InputError(
                f"{path} has no column '{name_of[name]}' for `{name}`; name it in `columns`. {_has(table)}"
            )
    labels = pandas.DataFrame({name: table[name_of[name]] if name_of[name] in table else "" for name in name_of})
    for name, words in values.items():
        labels[name] = labels[name].replace(dict(words))
    for name, allowed in _ALLOWED.items():
        wrong = labels.loc[~labels[name].isin([*allowed, ""]), name]
        if len(wrong):
            raise InputError(
                f"{path}, column '{name_of[name]}': '{wrong.iloc[0]}' is none of {', '.join(allowed)}; say in "
                "`values` what it means."
            )
    return labels, key


def join_labels(scans: pandas.DataFrame, labels: pandas.DataFrame, key: str) -> tuple[pandas.DataFrame, int]:
    """Scans that have a label, with its columns, and the number of labels that no scan has.

    Where a patient has a row for each time, the scans of the first day are the baseline.

    Args:
        scans (`DataFrame`): columns `scan_id`, `study_day` and the key; a row for every series of a scan.
        labels (`DataFrame`), key (`str`): from `read_labels`.
    """
    on = [key]
    if key == "patient_id" and any(labels["time"] != ""):
        on = [key, "time"]
        scans = scans.assign(time=["" if day is None else TIMES[day > 0] for day in scans["study_day"]])
    twice = labels[labels.duplicated(on)]
    if len(twice):
        raise InputError(f"The labels have two rows for {key} {' '.join(twice.iloc[0][on])}; keep one of them.")
    others = [name for name in KEYS if name != key]
    joined = scans.merge(labels.drop(columns=others), on=on)
    unused = len(labels) - len(joined[on].drop_duplicates())
    labelled = joined.loc[joined["lesion"] != ""]
    return labelled.drop_duplicates("scan_id").sort_values("scan_id"), unused


def read_table(path: Path) -> pandas.DataFrame:
    """A CSV or TSV file as strings without spaces around them; nothing is taken for a number or for missing."""
    table = pandas.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    return pandas.DataFrame({str(name).strip(): column.str.strip() for name, column in table.items()})


def _has(table):
    return f"The columns there are {', '.join(table.columns)}."
