"""The table of a cohort, `subjects.csv`: a row for each subject, with whatever is known of it."""

import csv
from pathlib import Path

from ..errors import InputError

SUBJECTS = "subjects.csv"


def read_subjects(table: str | Path, column: str, by: str = "subject") -> dict[str, str]:
    """A column of a cohort's table, by another one; of `table` (a CSV file, or the folder with its `subjects.csv`).

    Raises:
        InputError: there is no such table, or it lacks the column.
    """
    table = Path(table)
    table = table / SUBJECTS if table.is_dir() else table
    if not table.is_file():
        raise InputError(f"There is no table {table}; give the {SUBJECTS} of the cohort, or its folder.")
    with table.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if missing := {by, column} - set(columns):
            raise InputError(
                f"{table} has no column {sorted(missing)[0]}; it has {', '.join(columns) or 'none at all'}."
            )
        return {row[by]: row[column] for row in reader}
