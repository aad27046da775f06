"""Files and folders that appear complete or not at all."""

import csv
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import InputError, first_line

_HALF_FILE = r"\.\d+-.+"  # of `write_whole`
_STAGING = r"\.(?:writing.*|drawing-.*|prepare-.*)"  # of whole runs; the next one in the folder finds them
_FOLDER = r"\.(.+)\.\d+\.(?:new|old)"  # of `complete_folder`
_LOCK = r"\.(.+)\.lock"


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(temporary path)` write a file beside `path`, then rename it: nobody finds half a file there."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with _naming(path):
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
    try:
        with _naming(Path(folder)):
            temporary.mkdir(parents=True)
            write(temporary)
            for file in sorted(temporary.iterdir(), key=lambda file: file.suffix == ".json"):
                file.replace(Path(folder) / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def complete_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and vanishes otherwise.

    A folder that was there is replaced as a whole. Folders above it are made, and removed again if the block fails.
    What a killed process has left beside it goes first, and a folder that it had set aside comes back.

    Raises:
        InputError: no folder can be made there, or another run is making it.
    """
    folder = Path(folder)
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("new", "old"))
    with ExitStack() as stack:
        stack.push(partial(_remove_parents, new_parents))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_run(folder.with_name(f".{folder.name}.lock"), folder))
            _settle(folder)
            temporary.mkdir()
        except OSError as error:
            raise _not_there(folder, error) from error
        try:
            with _naming(folder):
                yield temporary
                if folder.exists():
                    folder.rename(old)
                temporary.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _remove_parents(new_parents: Sequence[Path], error: type[BaseException] | None, *_: object) -> None:
    for parent in new_parents if error else ():
        with suppress(OSError):  # it holds something, or another process has removed it
            parent.rmdir()


@contextmanager
def only_run(lock: Path, output: Path) -> Iterator[None]:
    """One run at a time in here, of all processes that name the same lock file; it is removed at the end.

    The system gives the lock of a process that was killed to the next one.

    Raises:
        InputError: another run is in here.
    """
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
        while not lock.exists():  # the run before has removed it in the meantime
            held.release()
            held.acquire()
    except Timeout:
        raise InputError(f"Another run is writing to {output}; wait for it, or choose another folder.") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


@contextmanager
def own_folder(folder: str | Path) -> Iterator[Path]:
    """A folder that only this run writes to while in here; it is made, and what killed runs have left in it removed.

    Raises:
        InputError: another run is writing to it, or nothing can be written there.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_run(folder / ".lock", folder))
        except OSError as error:
            raise _not_there(folder / "files", error) from error
        for place, folders, _ in os.walk(folder):
            folders[:] = [name for name in folders if not Path(place, name, ".lock").exists()]  # of other runs
            for entry in Path(place).glob(".*"):
                if re.fullmatch(rf"{_HALF_FILE}|{_STAGING}", entry.name):
                    _remove(entry)
        sweep(folder)
        yield folder


def sweep(folder: Path) -> None:
    """Remove what killed processes have left of a `complete_folder` in a folder, but for those that others make."""
    found = [re.fullmatch(rf"{_FOLDER}|{_LOCK}", entry.name) for entry in folder.glob(".*")]
    names = {match[1] or match[2] for match in found if match}
    for name in sorted(names):
        with suppress(InputError), only_run(folder / f".{name}.lock", folder / name):
            _settle(folder / name)


def _settle(folder: Path) -> None:
    """Beside a folder that nobody makes now: half ones go; one that was to be replaced comes back or goes."""
    for entry in folder.parent.glob(".*.*.*"):
        match = re.fullmatch(_FOLDER, entry.name)
        if match and match[1] == folder.name:
            if entry.suffix == ".old" and not folder.exists():
                entry.rename(folder)
            else:
                _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _not_there(folder: Path, error: OSError) -> InputError:
    return InputError(f"Cannot write to {folder.parent} ({error.strerror}); choose another output folder.")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of a full disk and the like name `path`, not a temporary file or none at all."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(errno.EIO, first_line(error), str(path)) from error
    except OSError as error:
        name = str(error.filename or "")
        if error.errno is not None and (not name or name.startswith(str(path.parent / "."))):
            error.filename, error.filename2 = str(path), None
        raise


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
