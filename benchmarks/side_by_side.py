"""What the benchmarks share: sides that take turns in one run, their wall and CPU time, and the files of a result.

Each side is a function without arguments. All sides run once a round, so that a machine that is busy for a while is
busy for all of them; a warm-up round is not counted. CPU time is that of the process and of those it has waited for.
Figures of one run compare the sides; figures of two runs, or of two machines, do not.
"""

import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difffuse_hf.io.files import write_whole


@dataclass
class Timing:
    """Seconds of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def row(self, against: "Timing | None" = None) -> dict[str, float]:
        """Medians, spread (largest less smallest), and how many times the time of `against` fits in this one's."""
        row = {
            "wall_s": statistics.median(self.wall),
            "wall_spread_s": max(self.wall) - min(self.wall),
            "cpu_s": statistics.median(self.cpu),
            "cpu_spread_s": max(self.cpu) - min(self.cpu),
        }
        if against is not None:
            row["wall_ratio"] = statistics.median(against.wall) / row["wall_s"]
            row["cpu_ratio"] = statistics.median(against.cpu) / row["cpu_s"]
        return row


def take_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int = 3, warm_up: bool = True
) -> tuple[dict[str, Timing], dict[str, Any]]:
    """The time of every side in every round, and what each side returned in the last one."""
    timings, results = {name: Timing() for name in sides}, {}
    for number in range(rounds + warm_up):
        for name, side in sides.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            results[name] = side()
            if number >= warm_up:
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].cpu.append(cpu_seconds() - cpu)
    return timings, results


def cpu_seconds() -> float:
    """CPU time of this process and of the processes that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_gb(of_children: bool = False) -> float:
    """Largest resident memory so far of this process, or of the largest process that it has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN if of_children else resource.RUSAGE_SELF)
    return usage.ru_maxrss / (1e9 if platform.system() == "Darwin" else 1e6)


def write_results(
    folder: str | Path, name: str, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> str:
    """Write `<name>.json` and `<name>.md`, a table of the rows, into a folder; returns the table."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    text = json.dumps({"settings": {**settings, **machine}, "rows": list(rows)}, indent=2, default=str) + "\n"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_in_words(row.get(column, "")) for column in columns) + " |" for row in rows]
    table = "\n".join(lines) + "\n"
    write_whole(folder / f"{name}.json", lambda file: file.write_text(text, encoding="utf-8"))
    write_whole(folder / f"{name}.md", lambda file: file.write_text(table, encoding="utf-8"))
    return table


def _in_words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
