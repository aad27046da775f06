"""The files below a folder that may be DICOM. Nothing is opened."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def find_files(root: str | Path) -> list[Path]:
    """All files below `root` that may be DICOM, sorted; hidden files, `._*` and DICOMDIR are left out."""
    root = Path(root)
    return [root] if root.is_file() else [Path(entry.path) for entry in walk_files(root)]


def walk_files(
    folder: str | Path, closed: Callable[[str, OSError], object] = lambda path, error: None
) -> Iterator[os.DirEntry]:
    """The same, one by one as the system lists them. Links are followed, and each folder is entered once.

    `closed` is told which folders could not be listed.
    """
    yield from _walk(os.fspath(folder), closed, set())


def _walk(folder: str, closed: Callable, entered: set[tuple[int, int]]) -> Iterator[os.DirEntry]:
    try:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in entered and stat.st_ino:
            return
        entered.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=_name)
    except OSError as error:
        closed(folder, error)
        return
    for entry in found:
        if entry.is_dir():
            yield from _walk(entry.path, closed, entered)
        elif entry.name.upper() != "DICOMDIR" and (entry.is_file() or not os.path.exists(entry.path)):
            # no sockets and pipes, nor links to them; links to nowhere are told of
            yield entry


def _name(entry: os.DirEntry) -> str:
    return os.path.normcase(entry.name)  # as paths are compared
