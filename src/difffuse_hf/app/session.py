"""What belongs to one visitor of the page: a folder with limits, which nobody else sees and which goes with them.

    <root>/served/<token>/   what the visitor's browser may fetch: downloads, volumes of the viewer
    <root>/work/<token>/     the upload and the results; no address leads there

A token is 128 random bits, so that an address is known to those alone who were given it. A session ends when its tab
is closed or reloaded, or after `IDLE_SECONDS` without a request; both folders are then deleted.
"""

import os
import re
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, first_line
from ..io.layouts import case_name

if TYPE_CHECKING:
    from .picture import Shown

MEGABYTE = 1_000_000
MAX_UPLOAD_MB = 500
UNPACKED = 8  # times the limit of an upload is that of an unpacked archive: volumes pack by 2 to 5
MAX_FILES = 20_000  # in an archive; a head CT has a few hundred
MAX_SESSIONS = 64
IDLE_SECONDS = 2 * 3600.0
PREFIX = "difffuse-app-"  # of the root, then the process's number


@dataclass
class Finished:
    """A result as the page shows it."""

    summary: dict[str, Any]
    shown: "Shown"
    downloads: dict[str, Path]  # "volumes", "report", "dicom" if there is one
    volumes: dict[str, Path]  # for the viewer: "image", "counterfactual", "anomaly"
    white: float  # intensity of "image" that is shown as white
    peak: tuple[float, ...]  # where the largest anomaly lies, RAS+ millimetres


@dataclass
class Session:
    """One visitor: their folders, their scan, and what was found in it."""

    served: Path
    work: Path
    used: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
    busy: threading.Lock = field(default_factory=threading.Lock)  # held while a job writes into the folders
    waiting: bool = False  # for a run that was asked for, or its end
    closed: bool = False
    source: Path | None = None
    finished: Finished | None = None
    masks: dict[int, np.ndarray] = field(default_factory=dict)  # those that were changed, (H, W) by axial slice

    def take(self, files: Sequence[Path], most_bytes: int) -> Path:
        """Move uploaded files into the session; the scan that they are takes the place of the one before.

        Args:
            files: one archive or volume, or the files of one case; they are gone from where they were in any case.
            most_bytes: of all files together, and a share of what an archive holds.

        Raises:
            InputError: they are too large, or no scan can be made of them.
        """
        self.forget()
        folder = self.work / "upload"
        folder.mkdir(parents=True)
        try:
            _check_upload(files, most_bytes)
            for file in files:
                _move(file, folder / file.name)
            moved = [folder / file.name for file in files]
            if len(moved) > 1:
                name = case_name({file.name: file for file in moved})
                case = folder / ("scan" if name == folder.name else name)
                case.mkdir()
                for file in moved:
                    file.rename(case / file.name)
                moved = [case]
            if zipfile.is_zipfile(moved[0]):
                check_archive(moved[0], UNPACKED * most_bytes)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            for file in files:
                file.unlink(missing_ok=True)
                with suppress(OSError):  # it holds the upload of somebody else, or is not gradio's
                    file.parent.rmdir()
        self.source = moved[0]
        return self.source

    @contextmanager
    def held(self, wait: bool = False) -> Iterator[None]:
        """In here nothing else writes into the session's folders; if it is closed meanwhile, they go at the end.

        Raises:
            InputError: something else does, and it was not to be waited for.
        """
        if not self.busy.acquire(blocking=wait):
            raise InputError("Your scan is being worked on; wait for the result, or cancel first.")
        try:
            yield
        finally:
            self.busy.release()
            if self.closed:
                self.delete()

    def delete(self) -> None:
        """Delete the folders, for good."""
        self.finished, self.masks = None, {}
        for folder in (self.served, self.work):
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Delete the scan and what was found; the session goes on."""
        self.source, self.finished, self.masks = None, None, {}
        for folder in (self.served, self.work):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def plain(self, sentence: str) -> str:
        """A sentence for the visitor: without folders of the server and without options of the command line."""
        for folder in (self.work / "upload", self.work, self.served):
            sentence = sentence.replace(f"{folder}{os.sep}", "").replace(str(folder), "the upload")
        sentence = re.sub(r"[;,] (?:or )?name (?:each|the files?) by --image [^;.]*", "", sentence)
        sentence = sentence.replace(
            "give the folder that holds them", "drop all files of the case, or a zip of its folder"
        )
        return re.sub(r" ?\(?--series[^;.)]*\)?", "", sentence)


class Sessions:
    """All visitors of a server, each known by the random name that their tab gives itself.

    Args:
        root: folder of the server, see `make_root`.
    """

    def __init__(self, root: Path):
        self.served, self.work = root / "served", root / "work"
        for folder in (self.served, self.work):
            folder.mkdir(exist_ok=True)
        self.known: dict[str, Session] = {}
        self.lock = threading.Lock()

    def of(self, name: str | None) -> Session:
        """The session of a tab, a new one if it has none.

        Raises:
            InputError: there are `MAX_SESSIONS` already.
        """
        name = name or ""
        with self.lock:
            session = self.known.get(name)
            if session is None:
                if len(self.known) >= MAX_SESSIONS:
                    raise InputError(f"{MAX_SESSIONS} visitors are here already; come back later.")
                token = secrets.token_hex(16)
                session = self.known[name] = Session(self.served / token, self.work / token)
                session.forget()
            session.used = time.monotonic()
            return session

    def is_upload(self, file: Path) -> bool:
        """Is this a file as gradio stores uploads, and no file of a session or of the server?"""
        with self.lock:
            ours = {one.served.name for one in self.known.values()}
        file = Path(os.path.abspath(file))
        return file.parent.parent == self.served and file.parent.name not in ours and not file.is_symlink()

    def close(self, name: str | None) -> None:
        """End a session: its job stops, and its files are deleted, by the job itself if one is at work."""
        with self.lock:
            session = self.known.pop(name or "", None)
        if session is not None:
            session.closed = True
            session.cancelled.set()
            if not session.busy.locked():  # else who holds it finds it closed
                session.delete()

    def close_all(self) -> None:
        """End all sessions."""
        for name in list(self.known):
            self.close(name)

    def sweep(self, now: float | None = None) -> None:
        """End the sessions that nobody has used for long, and delete uploads that no session took."""
        now = time.monotonic() if now is None else now
        with self.lock:
            idle = [
                name for name, one in self.known.items() if now - one.used > IDLE_SECONDS and not one.busy.locked()
            ]
            ours = {one.served.name for one in self.known.values()}
        for name in idle:
            self.close(name)
        for place in self.served.iterdir():
            with suppress(OSError):
                if place.name in ours or time.time() - place.stat().st_mtime < IDLE_SECONDS:
                    continue
                if place.is_dir():
                    shutil.rmtree(place, ignore_errors=True)
                else:
                    place.unlink()


def check_archive(file: Path, most_bytes: int) -> None:
    """Raise an `InputError` for a zip file that cannot be read or holds more than it should, before it is unpacked."""
    try:
        with zipfile.ZipFile(file) as archive:
            inside = archive.infolist()
    except Exception as error:  # each way to be damaged has errors of its own
        raise InputError(f"{file.name} cannot be read as a zip file ({first_line(error)[:100]}).") from None
    size = sum(one.file_size for one in inside)
    if size > most_bytes:
        raise InputError(
            f"{file.name} would unpack to {size / 1e9:.1f} GB, and {most_bytes / 1e9:.1f} GB is the most."
        )
    if len(inside) > MAX_FILES:
        raise InputError(f"{file.name} holds {len(inside)} files, and {MAX_FILES} is the most; zip one scan alone.")


def make_root() -> Path:
    """A new folder for a server that only this user can read; those of servers that were killed are deleted."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        process = old.name.removeprefix(PREFIX).partition("-")[0]
        if process.isdigit() and not _alive(int(process)):
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _check_upload(files: Sequence[Path], most_bytes: int) -> None:
    if not all(file.is_file() for file in files):
        raise InputError("The upload has gone in the meantime; upload it again.")
    empty = [file.name for file in files if not file.stat().st_size]
    if empty:
        raise InputError(f"{empty[0]} is empty (0 bytes); export it again.")
    size = sum(file.stat().st_size for file in files)
    if size > most_bytes:
        raise InputError(
            f"The upload has {size / MEGABYTE:.0f} MB, and {most_bytes / MEGABYTE:.0f} MB is the most that is taken."
        )
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise InputError("Two files have the same name; rename one of them, or drop a zip of the case's folder.")
    if len(files) > 1 and any(zipfile.is_zipfile(file) for file in files):
        raise InputError("Drop one zip file by itself, or the files of one case, and not both.")


def _move(file: Path, target: Path) -> None:
    try:
        shutil.move(file, target)
    except OSError as error:
        raise InputError(f"{file.name} could not be stored ({error.strerror}); upload it again.") from None
