"""The history of a training as a file of lines of JSON."""

import json
from pathlib import Path
from typing import Any

from ..io.files import write_whole

HISTORY, DURATION = "history.jsonl", "duration.json"  # in the folder of a trained network


class RunLog:
    """`history.jsonl` in the output folder, a line a record, each with the `step` it was written after.

    Args:
        output_dir (`str` or `Path`): folder of the run.
        last_step (`int`): the step that the run goes on from. Records of later steps, and half a line that a killed
            run may have left, are cut off.
    """

    def __init__(self, output_dir: str | Path, last_step: int = 0):
        self.path = Path(output_dir) / HISTORY
        kept = []
        for line in self.path.read_text().splitlines(keepends=True) if self.path.exists() else []:
            if not line.endswith("\n") or json.loads(line)["step"] > last_step:
                break
            kept.append(line)
        write_whole(self.path, lambda path: path.write_text("".join(kept)))

    def append(self, step: int, **record: Any) -> None:
        """Add the line {"step": step, ...}."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **record}) + "\n")
