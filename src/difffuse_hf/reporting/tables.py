"""Tables of results: measures over seeds as mean and standard error, in JSON, Markdown and LaTeX (chapters 4 to 6).

A measure that is undefined is NaN among the results, null in JSON and an en dash in a table; it never becomes a
figure. The thesis's own figures stand in a column of their own that says so. Standard library and numpy only.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..io.files import write_whole

UNDEFINED = "–"
THESIS_HEADING = "thesis (real data)"
# Fractions, as printed in A. Fontanella's thesis: table, measure, row. Ours never depend on them.
THESIS = {
    "Table 4.2": {"accuracy": {"ViT": 0.58, "Swin": 0.60, "ResNet-18": 0.64, "ResNet-50": 0.66, "MTL": 0.72}},
    "Table 5.1, IST-3": {
        "accuracy": {
            "baseline": 0.7139,
            "SMIC": 0.7085,
            "SalClassNet": 0.6943,
            "HSM": 0.7138,
            "SpAtt": 0.7096,
            "SeAtt": 0.7123,
            "ViT": 0.5787,
            "ACAT": 0.7255,
        }
    },
    "Table 5.1, MosMed": {
        "accuracy": {
            "baseline": 0.6771,
            "SMIC": 0.6927,
            "SalClassNet": 0.6250,
            "HSM": 0.6771,
            "SpAtt": 0.6667,
            "SeAtt": 0.6771,
            "ViT": 0.6667,
            "ACAT": 0.7084,
        }
    },
    "Table 6.1, BraTS": {
        "dice": {
            "f-AnoGAN": 0.545,
            "CG": 0.650,
            "CFG": 0.631,
            "AnoDDPM": 0.494,
            "AutoDDPM": 0.655,
            "DenoisingAE": 0.681,
            "Dif-fuse": 0.699,
            "ACAT": 0.591,
            "DDPM": 0.581,
            "DDIM-DDPM": 0.616,
            "DDIM": 0.498,
            "DDPM-DDIM": 0.677,
            "RePaint": 0.649,
        }
    },
    "Table 6.1, WMH": {
        "dice": {
            "f-AnoGAN": 0.172,
            "CG": 0.468,
            "CFG": 0.422,
            "AnoDDPM": 0.151,
            "AutoDDPM": 0.503,
            "DenoisingAE": 0.439,
            "Dif-fuse": 0.569,
            "ACAT": 0.530,
            "DDPM": 0.475,
            "DDIM-DDPM": 0.498,
            "DDIM": 0.495,
            "DDPM-DDIM": 0.487,
            "RePaint": 0.532,
        }
    },
}
COHORTS = {"ist3": ("Table 5.1, IST-3", "Table 4.2"), "mosmed": ("Table 5.1, MosMed",)}  # the first that has the row


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


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, standard error s/√n with s² over n - 1, and the number n of the values that are defined.

    The mean of no value is NaN; of fewer than two values there is no error (None), which is not an error of 0.
    """
    values = np.asarray([value for value in values if value is not None], float)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return math.nan, None, 0
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error, len(values)


def percentile_interval(samples: Sequence[float], value: float, confidence: float = 0.95) -> dict[str, float]:
    """`low` and `high` of a bootstrap; samples that are NaN are left out, and NaN has no interval but NaN."""
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` is a fraction between 0 and 1, got {confidence}; 0.95 is usual.")
    samples = np.asarray(samples, float)
    samples = samples[np.isfinite(samples)]
    if len(samples) == 0 or not math.isfinite(value):
        return {"low": math.nan, "high": math.nan}
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"low": float(low), "high": float(high)}


def summarise(
    results: Mapping[str, Sequence[Mapping[str, float]]], measures: Sequence[str] | None = None
) -> dict[str, dict[str, dict]]:
    """`{row: {measure: {"mean", "standard_error", "seeds", "values"}}}` of `{row: [measures of a seed, ...]}`.

    Args:
        measures: which ones; by default all that any seed of a row has.
    """
    summary = {}
    for row, seeds in results.items():
        summary[row] = {}
        for measure in dict.fromkeys(name for seed in seeds for name in seed) if measures is None else measures:
            values = [seed.get(measure, math.nan) for seed in seeds]
            mean, error, count = mean_and_error(values)
            summary[row][measure] = {"mean": mean, "standard_error": error, "seeds": count, "values": values}
    return summary


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
    summary = summarise(results, [column.measure for column in columns])
    head, cells, bold = [row_heading], [[row] for row in results], set()
    for column in columns:
        means = [summary[row][column.measure]["mean"] * column.scale for row in results]
        for i, row in enumerate(results):
            cells[i].append(_mean_cell(summary[row][column.measure], column, results[row]))
        finite = [mean for mean in means if math.isfinite(mean)]
        if column.best and len(finite) > 1:
            best = max(finite) if column.best == "largest" else min(finite)
            same = [f"{mean:.{column.digits}f}" == f"{best:.{column.digits}f}" for mean in means]
            bold |= set() if all(same) else {(i, len(head)) for i, equal in enumerate(same) if equal}
        head.append(column.heading)
        sources = [key for key in thesis if column.measure in THESIS[key]]
        if sources:
            for i, row in enumerate(results):
                cells[i].append(_thesis_cell(row, column, sources))
            head.append(f"{column.heading}, {THESIS_HEADING}")
    counts = sorted({len(seeds) for seeds in results.values()})
    if counts[-1] == 1:
        ending = "One seed, so no standard error; in brackets an interval, where there is one."
    elif len(counts) == 1:
        ending = f"Mean ± standard error over {counts[0]} seeds."
    else:
        ending = (
            f"Mean ± standard error over {counts[0]} to {counts[-1]} seeds; an interval in brackets is of one seed."
        )
    return Table(f"{caption} {ending}", head, cells, bold, label)


def interval_text(value: float, low: float, high: float, scale: float = 100.0, digits: int = 1) -> str:
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


def _mean_cell(result, column, seeds):
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
