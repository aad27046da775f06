"""The headers of a disk in columns, some fifty bytes a file, kept in `private/headers/` for the next run.

A row holds a concealed header (`conceal.py`) or why a file has none. It is found by one number, a keyed hash of the
file's path, size and time of change: a file that is new or changed has no row, and is read. The rows lie in Parquet
files that appear whole, one for some thousands of files read, so that an interrupted run keeps them; the next run that
ends well makes one of them.
"""

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..io.files import write_whole
from .conceal import TIME_BYTES, conceal
from .frames import Frame
from .headers import SliceHeader, read_header
from .identity import Pseudonym
from .walk import walk_files

_ROWS_PER_PART = 8000  # read in some ten seconds
_ROWS_AT_ONCE = 10_000  # of the part that replaces the others

_REPEATED = pa.dictionary(pa.int32(), pa.string())
_INDICES = pa.int8(), pa.int16(), pa.int32()
_COLUMNS = {
    "study_uid": _REPEATED,
    "series_uid": _REPEATED,
    "owner": _REPEATED,
    "series_key": _REPEATED,
    "sop_instance_uid": pa.uint64(),  # as a number
    "x": pa.float64(),
    "y": pa.float64(),
    "z": pa.float64(),
    "acquisition": pa.float64(),  # the header's number as it was read, whole and of any size
    "acquisition_time": pa.binary(TIME_BYTES),
    "instance": pa.float64(),
    "truncated": pa.bool_(),
    "rest": _REPEATED,  # what the slices of a series share: JSON, a list of the other fields
}
_FIELDS = [field.name for field in fields(SliceHeader)]
_OWN = [name for name in _FIELDS if name in _COLUMNS and name != "rest"]
_REST = [name for name in _FIELDS if name not in {*_COLUMNS, "path", "position", "number"}]
_SCHEMA = pa.schema([("file", pa.uint64()), ("why", _REPEATED), *_COLUMNS.items()])
# The number is raised when `headers.py` or `conceal.py` reads or keeps something else in the same fields.
_VERSION = {b"difffuse_hf.headers": f"2 {' '.join(_FIELDS)}".encode()}


class FileList:
    """The files of a disk in the order of their paths: each path, and the number that its row is found by.

    Args:
        folder: searched with all its folders.
        salt: key of the numbers.
    """

    def __init__(self, folder: Path, salt: bytes):
        self._folders, self._folder_of, self._names, self._ends = [], array("I"), bytearray(), array("q")
        numbers, keyed = array("Q"), hashlib.blake2b(key=salt[:64], digest_size=8, person=b"file")
        self.closed: list[tuple[Path, str]] = []  # folders that could not be listed, and why
        number_of = {}
        for entry in walk_files(folder, lambda path, error: self.closed.append((Path(path), str(error)))):
            parent = os.path.dirname(entry.path)
            if parent not in number_of:
                number_of[parent] = len(self._folders)
                self._folders.append(parent)
            self._folder_of.append(number_of[parent])
            self._names += os.fsencode(entry.name)
            self._ends.append(len(self._names))
            try:
                stat = entry.stat()
                state = f"{stat.st_size} {stat.st_mtime_ns} "
            except OSError:  # a link to nowhere, or a file that has just gone
                state = "- - "
            digest = keyed.copy()
            digest.update(state.encode() + os.fsencode(entry.path))
            numbers.append(int.from_bytes(digest.digest(), "big"))
        self.numbers = np.frombuffer(numbers, np.uint64)  # (N,)

    def __len__(self):
        return len(self._ends)

    def folders(self, indices: np.ndarray) -> np.ndarray:
        """Numbers of the folders that these files lie in."""
        return np.frombuffer(self._folder_of, np.uint32)[indices] if len(self) else np.zeros(0, np.uint32)

    def path(self, index: int) -> Path:
        start = self._ends[index - 1] if index else 0
        name = os.fsdecode(bytes(self._names[start : self._ends[index]]))
        return Path(self._folders[self._folder_of[index]], name)


def read_rows(task: tuple[np.ndarray, list[Path]], salt: bytes) -> tuple[pa.Table, list[tuple[Path, str]]]:
    """Rows of files, given by their numbers and paths; and those without one, since the disk did not give them."""
    rows, failed = [], []
    for number, path in zip(task[0].tolist(), task[1]):
        header = read_header(path)
        if isinstance(header, SliceHeader):
            rows.append({"file": number} | _to_row(conceal(header, salt)))
        elif header.lasting:
            rows.append({"file": number, "why": header.why.encode(errors="replace").decode()})
        else:
            failed.append((path, header.why))
    return pa.Table.from_pylist(rows, _SCHEMA), failed


def _to_row(header: SliceHeader) -> dict:
    row = {name: getattr(header, name) for name in _OWN}
    row["acquisition_time"] = bytes.fromhex(header.acquisition_time)
    row["sop_instance_uid"] = int(header.sop_instance_uid, 16) if header.sop_instance_uid else None
    row |= dict(zip("xyz", header.position or (None, None, None)))
    return row | {"rest": json.dumps([getattr(header, name) for name in _REST])}


class HeaderCache:
    """The rows that earlier runs have left in a folder, and those that are added.

    A file in it that is damaged, or was not written by this version, is removed with a sentence on stderr.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._unwritten = folder, []
        self._parts = [path for path in sorted(folder.glob("*.parquet")) if _is_ours(path)]

    def rows_of(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) rows of the files with these numbers, as long as nothing is added; -1 where there is none."""
        known = _read_column(self._parts, "file").to_numpy()
        if not len(known):
            return np.full(len(numbers), -1, np.int32)
        order = np.argsort(known).astype(np.int32)
        rows = order[np.searchsorted(known, numbers, sorter=order).clip(max=len(known) - 1)]
        rows[known[rows] != numbers] = -1
        return rows

    def add(self, rows: pa.Table):
        """Take rows in; they are on the disk after some thousands of them, or after `write`."""
        self._unwritten.append(rows)
        if sum(map(len, self._unwritten)) >= _ROWS_PER_PART:
            self.write()

    def write(self):
        """Bring what was added to the disk."""
        rows, self._unwritten = [table for table in self._unwritten if len(table)], []
        if rows:
            self._write_part(rows)

    def table(self) -> pa.Table:
        """What is on the disk, without the files' numbers, each column in as few bytes as its values take; one column
        after another, which takes little more memory than the table."""
        return pa.table({name: _narrow(_read_column(self._parts, name)) for name in _SCHEMA.names[1:]})

    def forget_others(self, table: pa.Table, numbers: np.ndarray, rows: np.ndarray):
        """Put the rows of the files with these numbers into one part and remove the others."""
        old = list(self._parts)
        if len(old) > 1 and len(rows):  # none at all: the disk is not there
            starts = range(0, len(rows), _ROWS_AT_ONCE)
            ends = [start + starts.step for start in starts]
            some = (_as_written(table.take(pa.array(rows[start:end]))) for start, end in zip(starts, ends))
            files = (pa.array(numbers[start:end]) for start, end in zip(starts, ends))
            self._write_part(rows.add_column(0, "file", file) for rows, file in zip(some, files))
            self._parts = self._parts[-1:]
            for path in old:
                path.unlink(missing_ok=True)

    def _write_part(self, tables: Iterable[pa.Table]):
        path = self._folder / f"{int(self._parts[-1].stem) + 1 if self._parts else 0:08d}.parquet"

        def write(temporary: Path):
            schema, options = _SCHEMA.with_metadata(_VERSION), {"compression": "zstd", "write_page_checksum": True}
            with temporary.open("wb") as file, pq.ParquetWriter(file, schema, **options) as writer:
                temporary.chmod(0o600)
                for table in tables:
                    writer.write_table(table)

        write_whole(path, write)
        self._parts.append(path)


def _is_ours(path: Path) -> bool:
    """Whether a part can be read; it is removed if not."""
    try:
        if not path.stem.isdecimal():
            raise pa.ArrowInvalid("a name that we do not give")
        schema = pq.read_schema(path)
        if not schema.equals(_SCHEMA) or not _VERSION.items() <= (schema.metadata or {}).items():
            raise pa.ArrowInvalid("another table")
        for name in schema.names:
            _read_column([path], name)  # checks the sums
    except (pa.ArrowException, OSError):
        sentence = "is damaged or from another version; it is removed, and the headers that it held are read again."
        print(f"{path} {sentence}", file=sys.stderr)
        path.unlink(missing_ok=True)
        return False
    return True


def _read_column(parts: list[Path], name: str) -> pa.Array:
    """A column of all parts in one piece, with one dictionary if it repeats values."""
    chunks = []
    for part in parts:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            chunks += file.read([name], use_threads=False).column(0).chunks
    column = pa.chunked_array(chunks, _SCHEMA.field(name).type).unify_dictionaries().combine_chunks()
    pa.default_memory_pool().release_unused()
    return column


def _narrow(column: pa.Array) -> pa.Array:
    """The same values: those that repeat by the smallest number of an entry in a dictionary, if that takes less."""
    few = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = few.indices.cast(next(kind for kind in _INDICES if len(few.dictionary) <= 2 ** (kind.bit_width - 1)))
    few = pa.DictionaryArray.from_arrays(indices, few.dictionary)
    return few if few.nbytes < column.nbytes else column


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _as_written(rows: pa.Table) -> pa.Table:
    """Columns of the types that a file has, of those that `_narrow` has made."""
    plain = {name: _plain(rows[name]) for name in rows.column_names}
    repeated = {name for name in plain if _SCHEMA.field(name).type == _REPEATED}
    return pa.table({name: one.dictionary_encode() if name in repeated else one for name, one in plain.items()})


def to_headers(rows: pa.Table, paths: Iterable[Path], numbers: Iterable[int]) -> Iterator[SliceHeader]:
    """The concealed headers of rows that have one, of whole files, with their paths and these numbers of them."""
    columns = dict(zip(rows.column_names, (_plain(column).to_pylist() for column in rows.columns)))
    own = [map(_REVIVE.get(name, _unchanged), columns[name]) for name in _OWN]
    positions = zip(columns["x"], columns["y"], columns["z"])
    for path, number, position, rest, *values in zip(paths, numbers, positions, columns["rest"], *own):
        position = None if position[0] is None else position
        yield SliceHeader(path=path, number=number, position=position, **dict(zip(_OWN, values)), **_shared(rest))


def _unchanged(value):
    return tuple(value) if isinstance(value, list) else value


def _frames(values: list[list]) -> tuple[Frame, ...]:
    return tuple(Frame._make(map(_unchanged, value)) for value in values)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


# From a row back to the header; pseudonyms are known as such, so that they are not hashed again.
_NAMES = "study_uid series_uid series_key frame_of_reference_uid patient_id owner session frame_key".split()
_REVIVE: dict[str, Callable] = dict.fromkeys(_NAMES, Pseudonym)
_REVIVE |= {"frames": _frames, "acquisition": _whole, "instance": _whole, "acquisition_time": bytes.hex}
_REVIVE |= {"sop_instance_uid": lambda number: "" if number is None else f"{number:016x}"}


@lru_cache(1000)
def _shared(rest: str) -> dict:
    return {name: _REVIVE.get(name, _unchanged)(value) for name, value in zip(_REST, json.loads(rest))}
