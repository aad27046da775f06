"""Tables of whole scans: what was found of the lesions, and what was flagged beside them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..evaluation.statistics import mean_and_error
from .tables import Column, Table, measures_table, write_tables

COLUMNS = [
    Column("dice", "Dice", digits=3, best=None),
    Column("sensitivity", "lesions found, %", 100, digits=1, best=None),
    Column("false_positives", "false positives a scan", digits=1, best=None),
    Column("false_slices", "slices without a lesion that are flagged, %", 100, digits=1, best=None),
    Column("flagged", "brain outside the lesions that is flagged, %", 100, best=None),
    Column("found_ml", "found, ml", digits=1, best=None),
    Column("drawn_ml", "drawn, ml", digits=1, best=None, spread=False),
    Column("volume_error_ml", "found minus drawn, ml", digits=1, best=None),
]
GRAIN = Column("grain", "grain of the picture (healthy tissue = 1)", best=None)
ALL = "all"


def write_scan_tables(
    results: Mapping[str, Sequence[Mapping[str, float]]],
    groups: Mapping[str, str],
    folder: str | Path,
    model: str,
    modalities: Sequence[str] | None = None,
) -> list[Table]:
    """Write `scans.json`, `.md` and `.tex`, and give back the tables: by group where there are groups, else by scan.

    Args:
        results: the measures (see `score_scan`) of each scan's seeds, and whether it is `synthetic`.
        groups: of each scan, where they are grouped; the mean of a group's scans is taken for each seed.
        model: its name, for the caption.
        modalities: those that were taken of the scans, if not all.
    """
    synthetic = sum(seeds[0]["synthetic"] for seeds in results.values())
    kind = "synthetic" if synthetic == len(results) else "real" if not synthetic else "real and synthetic"
    caption = f"Whole scans, model {model}, {len(results)} {kind}, thresholds of the model."
    if modalities:
        caption += f" Of each scan only {', '.join(modalities)}."
    rows = by_group(results, groups) if groups else results
    columns = [*COLUMNS, GRAIN] if any("grain" in one for seeds in rows.values() for one in seeds) else COLUMNS
    tables = [measures_table(rows, columns, caption, row_heading="lesions" if groups else "scan")]
    write_tables(tables, {"results": results, "groups": groups, "tables": rows}, folder, "scans")
    return tables


def by_group(
    results: Mapping[str, Sequence[Mapping[str, float]]], groups: Mapping[str, str]
) -> dict[str, list[dict[str, float]]]:
    """The mean over the scans of a group, for each seed; "all" holds every scan. Undefined measures are left out."""
    members = {name: [scan for scan in results if groups[scan] == name] for name in sorted(set(groups.values()))}
    named = {f"{name} ({len(scans)} scans)": scans for name, scans in members.items()}
    named[f"{ALL} ({len(results)} scans)"] = list(results)
    seeds = range(min(map(len, results.values())))
    return {
        name: [
            {
                column.measure: mean_and_error([results[scan][seed].get(column.measure, math.nan) for scan in scans])[
                    0
                ]
                for column in COLUMNS
            }
            for seed in seeds
        ]
        for name, scans in named.items()
    }
