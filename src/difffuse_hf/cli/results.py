"""What `difffuse detect` and `difffuse demo` print at the end."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

USUAL = "BraTS 2018-2021"


def print_results(summaries: Sequence[dict], console: Console):
    """A table with one line per scan, then where the reports are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("case")
    for heading in ("lesion, ml", "slices flagged", "Dice", "seconds"):
        table.add_column(heading, justify="right")
    for one in summaries:
        table.add_row(
            one["case"] + (" (synthetic)" if one["synthetic"] else ""),
            f"{one['lesion_ml']:.1f}",
            f"{one['slices_flagged']} of {one['slices']}",
            "no reference" if one["dice"] is None else f"{one['dice']:.3f}",
            f"{one['seconds']:.0f}",
        )
    console.print(table)
    for one in summaries:
        for line in _about_reading(one):
            console.print(f"{one['case']}: {line}", markup=False, highlight=False, soft_wrap=True)
    for one in summaries:
        console.print(str(one["folder"] / "report.html"), markup=False, highlight=False, soft_wrap=True)
    resumed = sum("resumed" in one for one in summaries)
    if resumed:
        console.print(f"{resumed} of {len(summaries)} cases were made before and kept (--resume).", highlight=False)


def _about_reading(summary: dict) -> list[str]:
    """How a case was read, where that is not plain: its names, if they are not the usual ones, and what was done."""
    names = summary.get("read_as") or USUAL
    return [*([] if names == USUAL else [f"read as {names}."]), *summary.get("notes", [])]
