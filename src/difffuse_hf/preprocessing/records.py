"""The log of a run: one line of JSON for every finished series, so that a run can be interrupted and continued."""

import json
from pathlib import Path


class Records:
    """Append-only; a line that an interrupt or a full disk cut short is dropped when the log is opened again."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict] = []
        if path.exists():
            content = path.read_bytes()
            complete = content[: content.rfind(b"\n") + 1]
            if len(complete) < len(content):
                with path.open("r+b") as file:
                    file.truncate(len(complete))
            self.rows = [json.loads(line) for line in complete.splitlines()]

    def append(self, row: dict):
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with self.path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                while line:
                    line = line[file.write(line) :]  # a nearly full disk takes a part of it
            except OSError:
                file.truncate(start)
                raise
        self.rows.append(row)
