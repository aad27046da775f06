"""Files that appear complete or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary path)` write a file beside `path`, then rename it: nobody finds half a file there."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_into(folder: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary folder)` write files, then move them into `folder`, the weights before their configuration.

    Nobody finds half a file there, and what `write` does not write stays as it was; the same if it fails.
    """
    temporary = Path(folder) / ".writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for file in sorted(temporary.iterdir(), key=lambda file: file.suffix == ".json"):
            file.replace(Path(folder) / file.name)
    finally:
        shutil.rmtree(temporary)
