"""The tables of a run: one row per series with its decision, and the count of exclusions (thesis Table 3.1)."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas
from rich.console import Console
from rich.table import Table

from ..io.files import write_whole
from .exclusion import Exclusion
from .headers import ARCHIVE, NOT_DICOM

_FIRST = "scan_id patient study series decision reason detail header_decision header_reason merged_into file".split()


def make_manifest(records: list[dict]) -> pandas.DataFrame:
    """One row per series. Series that were joined into one scan share its measures and name it in `merged_into`."""
    rows = []
    for record in records:
        scan, *others = record["series"]
        rows.append({**record, "series": scan, "merged_into": ""})
        rows += [{**record, "series": other, "merged_into": record["scan_id"], "file": ""} for other in others]
    columns = _FIRST + sorted({name for row in rows for name in row} - set(_FIRST))
    table = pandas.DataFrame(rows, columns=columns)
    return table.sort_values(["patient", "study", "scan_id", "merged_into"], ignore_index=True)


def exclusion_table(manifest: pandas.DataFrame) -> pandas.DataFrame:
    """Series rejected for each reason, in the order of the tests, and how many remained after it (Table 3.1)."""
    rejected = manifest[manifest["decision"] == "reject"]
    rows = [{"reason": "", "description": "series found", "series": len(manifest), "remaining": len(manifest)}]
    for reason in Exclusion:
        count = int(np.count_nonzero(rejected["reason"] == reason.value))
        if count:
            remaining = rows[-1]["remaining"] - count
            rows.append(
                {"reason": reason.value, "description": reason.description, "series": count, "remaining": remaining}
            )
    kept = rows[-1]["remaining"]
    rows.append({"reason": "", "description": "series kept", "series": kept, "remaining": kept})
    return pandas.DataFrame(rows)


def file_table(unreadable: Iterable[tuple[str, str]]) -> pandas.DataFrame:
    """How many files gave no image for each kind of reason, of (path, reason) pairs; paths stay behind."""
    kinds = Counter(why if why in (NOT_DICOM, ARCHIVE) else "cannot be read, or is damaged" for _, why in unreadable)
    return pandas.DataFrame([{"file": why, "files": count} for why, count in kinds.most_common()])


def write_tables(manifest: pandas.DataFrame, output: Path, unreadable: Iterable[tuple[str, str]] = ()):
    """`manifest.parquet` and `.csv`, `exclusions.csv` and `.md`; each appears complete or not at all.

    `unreadable` are the paths of files that belong to no series, and why; they are counted in `exclusions.md`.
    """
    exclusions = exclusion_table(manifest)
    text = _markdown(exclusions)
    if len(files := file_table(unreadable)):
        lines = [f"| {row['file']} | {row['files']} |" for row in files.to_dict("records")]
        text += "\n".join(["\n| files without an image | files |", "|---|---:|", *lines]) + "\n"
    write_whole(output / "manifest.parquet", lambda path: manifest.to_parquet(path, index=False))
    write_whole(output / "manifest.csv", lambda path: manifest.to_csv(path, index=False))
    write_whole(output / "exclusions.csv", lambda path: exclusions.to_csv(path, index=False))
    write_whole(output / "exclusions.md", lambda path: path.write_text(text, encoding="utf-8"))


def print_summary(manifest: pandas.DataFrame, output: Path, console: Console):
    """The exclusion table on the screen, and where the rest lies."""
    table = Table("reason", "", box=None)
    for name in ("series", "remaining"):
        table.add_column(name, justify="right")
    for row in exclusion_table(manifest).to_dict("records"):
        table.add_row(*(str(row[name]) for name in ("reason", "description", "series", "remaining")))
    console.print(table)
    unreadable = output / "private" / "unreadable.csv"
    if unreadable.exists():
        with unreadable.open(newline="", encoding="utf-8") as file:
            rows = file_table([(path, why) for path, why in csv.reader(file)][1:]).to_dict("records")
        if rows:
            counts = "; ".join(f"{row['files']} ({row['file']})" for row in rows)
            console.print(
                f"Files without an image: {counts}; {unreadable} names them.", highlight=False, soft_wrap=True
            )
    scans = np.count_nonzero(manifest["file"] != "")
    console.print(
        f"{scans} scans in {output / 'scans'}; every decision is in {output / 'manifest.csv'}, "
        f"pictures in {output / 'kept.png'} and {output / 'rejected.png'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _markdown(exclusions: pandas.DataFrame) -> str:
    lines = ["| reason | | series | remaining |", "|---|---|---:|---:|"]
    for row in exclusions.to_dict("records"):
        lines.append(f"| {row['reason']} | {row['description']} | {row['series']} | {row['remaining']} |")
    return "\n".join(lines) + "\n"
