"""Files and folders that appear complete or not at all."""

import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError


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


@contextmanager
def complete_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and vanishes otherwise.

    A folder that was there is replaced as a whole. Folders above it are made, and removed again if the block fails.

    Raises:
        InputError: no folder can be made there.
    """
    folder = Path(folder)
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    temporary, old = _beside(folder, os.getpid())
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"Cannot write to {folder.parent} ({error.strerror}); choose another output folder."
        ) from error
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in new_parents:
            with suppress(OSError):  # it holds something, or another process has removed it
                parent.rmdir()
        raise


def remove_unfinished(folder: str | Path, process_id: int | None) -> None:
    """Remove what a process that was killed in `complete_folder` has left beside the folder."""
    shutil.rmtree(_beside(Path(folder), process_id)[0], ignore_errors=True)


def _beside(folder: Path, process_id: int | None) -> list[Path]:
    """Names for the new folder until it is complete, and for the old one while it is replaced."""
    return [folder.with_name(f".{folder.name}.{process_id}.{end}") for end in ("new", "old")]


def check_output(folder: str | os.PathLike) -> Path:
    """The folder as a path, if files can be written there; raises `InputError` otherwise and creates nothing."""
    folder = Path(folder)
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return folder
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}); choose another output folder.") from error


def write_csv(
    path: str | Path, columns: Sequence[str], rows: Iterable[Iterable[object]], owner_only: bool = False
) -> None:
    """A table in UTF-8 with a header line, whole or not at all; with `owner_only` nobody else may read it."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
        if owner_only:
            temporary.chmod(0o600)

    write_whole(path, write)
