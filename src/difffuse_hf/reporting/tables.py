"""Tables of results: measures over seeds as mean and standard error, in JSON, Markdown and LaTeX (chapters 4 to 6).

A measure that is undefined is NaN among the results, null in JSON and an en dash in a table; it never becomes a
figure. The thesis's own figures stand in a column of their own that says so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..evaluation.statistics import mean_over_seeds
from ..io.files import write_whole
from .thesis import THESIS, THESIS_HEADING

UNDEFINED = "–"


@dataclass(frozen=True)
class Column:
    """One measure of a table: its name among the results, its heading, and how it is printed."""

    measure: str
    heading: str
    scale: float = 1.0  # 100 prints fractions as per cent
    digits: int = 2
    best: str | None = "largest"  # which row is bold: "largest", "smallest", or None for no row
    spread: bool = True  # print the standard error; counts do without

    def __post_init__(self):
        if self.best not in ("largest", "smallest", None):
            raise ValueError(f'`best` is "largest", "smallest" or None, got {self.best!r}.')


@dataclass
class Table:
    """Cells as text, the first column naming the row; `bold` holds (row, column) of the cells to stress."""

    caption: str
    head: list[str]
    rows: list[list[str]]
    bold: set[tuple[int, int]] = field(default_factory=set)
    label: str = ""  # of LaTeX, "tab:..."

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"A row of the table has {len(row)} cells but its head has {len(self.head)}: {row}.")

    def markdown(self) -> str:
        """GitHub Markdown: the caption, and the table under it."""
        cells = [
            [_markdown_cell(text, (i, j) in self.bold) for j, text in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        lines = [[_markdown_cell(text) for text in self.head], ["---"] * len(self.head), *cells]
        return f"{self.caption}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def latex(self) -> str:
        """A `table` environment that needs the package booktabs."""
        lines = [
            [_latex_cell(text, (i, j) in self.bold) for j, text in enumerate(row)] for i, row in enumerate(self.rows)
        ]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_escape(self.caption)}}}",
                *([rf"\label{{{self.label}}}"] if self.label else []),
                rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}",
                r"\toprule",
                " & ".join(map(_escape, self.head)) + r" \\",
                r"\midrule",
                *(" & ".join(line) + r" \\" for line in lines),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def measures_table(
    results: Mapping[str, Sequence[Mapping[str, float]]],
    columns: Sequence[Column],
    caption: str,
    thesis: Sequence[str] = (),
    row_heading: str = "method",
    label: str = "",
) -> Table:
    """Rows of measures over seeds as "mean ± standard error", the best of every column bold.

    The best row is that of the best mean, and every row that prints the same mean; where all do, none is bold. The
    thesis's figure stands beside the first column that it has, and is never compared with. A row with one seed prints
    its interval instead of an error, where `<measure>_low` and `<measure>_high` are given.

    Args:
        results: row to the measures of each seed, `{"ACAT": [{"accuracy": 0.71}, {"accuracy": 0.73}]}`; NaN, None or a
            missing measure is undefined.
        columns: what is printed, in order.
        caption (`str`): a sentence or more; one about the number of seeds is added here.
        thesis: keys of `THESIS`, searched in order for each row; upper and lower case, spaces and hyphens of a row's
            name make no difference.

    Raises:
        ValueError: there is no row, or a key that `THESIS` does not have.
    """
    unknown = [key for key in thesis if key not in THESIS]
    if unknown:
        raise ValueError(f"`thesis` names {unknown[0]!r}; the thesis's figures are those of {', '.join(THESIS)}.")
    if not results:
        raise ValueError("`results` has no row; give the measures of at least one method.")
    summary = mean_over_seeds(results, [column.measure for column in columns])
    head, cells, bold = [row_heading], [[row] for row in results], set()
    for column in columns:
        found = [summary[row][column.measure] for row in results]
        for row, one, seeds in zip(cells, found, results.values()):
            row.append(_mean_cell(one, column, seeds))
        bold |= {(i, len(head)) for i in _best_rows([one["mean"] * column.scale for one in found], column)}
        head.append(column.heading)
        sources = [key for key in thesis if column.measure in THESIS[key]]
        if sources:
            for row in cells:
                row.append(_thesis_cell(row[0], column, sources))
            head.append(f"{column.heading}, {THESIS_HEADING}")
    return Table(f"{caption} {_about_seeds([len(seeds) for seeds in results.values()])}", head, cells, bold, label)


def about_data(split: str, synthetic: bool, limit: int | None = None, limit_healthy: int | None = None) -> str:
    """Which scans or slices a table is about: "split 'test', at most 8 slices of a class, synthetic data"."""
    parts = [f"split '{split}'"]
    parts += [f"at most {limit} slices of a class"] if limit else []
    parts += [f"at most {limit_healthy} healthy ones"] if limit_healthy else []
    return ", ".join([*parts, "synthetic data"] if synthetic else parts)


def interval_text(
    value: float | None, low: float | None, high: float | None, scale: float = 100.0, digits: int = 1
) -> str:
    """ "71.2 (65.0 to 77.1)"; without an interval the value alone, and an en dash for an undefined value."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    text = f"{value * scale:.{digits}f}"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return text
    return f"{text} ({low * scale:.{digits}f} to {high * scale:.{digits}f})"


def write_tables(tables: Sequence[Table], data: Mapping, folder: str | Path, stem: str) -> None:
    """Write `<stem>.json` (the data, NaN as null), `<stem>.md` and `<stem>.tex`; each is whole or not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    contents = {
        "json": text,
        "md": "\n".join(table.markdown() for table in tables),
        "tex": "\n".join(table.latex() for table in tables),
    }
    for ending, content in contents.items():
        path = folder / f"{stem}.{ending}"
        write_whole(path, lambda temporary, content=content: temporary.write_text(content, encoding="utf-8"))


def _best_rows(means: Sequence[float], column: Column) -> set[int]:
    """Rows that print what the best one prints; none where all do, or fewer than two are defined."""
    finite = [mean for mean in means if math.isfinite(mean)]
    if column.best is None or len(finite) < 2:
        return set()
    best = max(finite) if column.best == "largest" else min(finite)
    same = [i for i, mean in enumerate(means) if f"{mean:.{column.digits}f}" == f"{best:.{column.digits}f}"]
    return set() if len(same) == len(means) else set(same)


def _about_seeds(counts: Sequence[int]) -> str:
    """The sentence about the number of seeds of each row."""
    few, many = min(counts), max(counts)
    if many == 1:
        return "One seed, so no standard error; in brackets an interval, where there is one."
    if few == many:
        return f"Mean ± standard error over {many} seeds."
    return f"Mean ± standard error over {few} to {many} seeds; an interval in brackets is of one seed."


def _mean_cell(result: Mapping, column: Column, seeds: Sequence[Mapping[str, float]]) -> str:
    """One measure of one row as text; `result` is that of `mean_over_seeds`."""
    if result["seeds"] == 0:
        return UNDEFINED
    if len(seeds) == 1:
        low, high = (seeds[0].get(f"{column.measure}_{end}") for end in ("low", "high"))
        return interval_text(result["mean"], low, high, column.scale, column.digits)
    text = f"{result['mean'] * column.scale:.{column.digits}f}"
    if result["standard_error"] is not None and column.spread:
        text += f" ± {result['standard_error'] * column.scale:.{column.digits}f}"
    if result["seeds"] < len(seeds):
        text += f" (n = {result['seeds']})"  # undefined for the other seeds
    return text


def _thesis_cell(row, column, sources):
    for source in sources:
        for name, value in THESIS[source][column.measure].items():
            if _bare(name) == _bare(row):
                return f"{value * column.scale:.{column.digits}f} ({source})"
    return UNDEFINED


def _bare(name):
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _markdown_cell(text, bold=False):
    text = str(text).replace("|", r"\|").replace("\n", " ")
    return f"**{text}**" if bold else text


def _latex_cell(text, bold=False):
    return rf"\textbf{{{_escape(text)}}}" if bold else _escape(text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "α": r"$\alpha$",
    "<": "$<$", ">": "$>$",
}  # fmt: skip


def _escape(text):
    return "".join(_LATEX.get(letter, letter) for letter in str(text))


def _plain(value):
    """A value as JSON can hold it: numpy numbers and arrays as Python's, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
