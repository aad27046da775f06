"""The series on a disk: headers are read once (`header_cache.py`), and grouped a few thousand at a time.

Until its turn comes, a series is the numbers of its files. What is found does not depend on what was cached.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa

from ..errors import InputError
from .dicom import Series, join_parts, parts_to_join, series_of
from .header_cache import FileList, HeaderCache, read_rows, to_headers
from .headers import SliceHeader, Unread, frame_of, frames_of, printable, read_header
from .identity import Pseudonym, pseudonym
from .parallel import WorkerDied, Workers
from .pixels import same_pixels

_FILES_PER_TASK = 400
_HEADERS_AT_ONCE = 2000
_WHICH = "number", "frame"


@dataclass(frozen=True, slots=True, eq=False)
class FoundSeries:
    """A `Series` by the numbers of its files, and of the frames in them."""

    key: str
    numbers: np.ndarray  # (S,)
    frames: np.ndarray  # (S,)
    named_by: tuple[int, ...]
    dropped: dict[str, int]
    problem: str
    content: str  # of the slices: another one where slices were added, removed or exchanged
    study_uid: str
    patient_id: str
    study_day: int | None


class Disk:
    """The files below a folder and their concealed headers.

    Args:
        folder: searched with all its folders.
        salt: of the pseudonyms.
        cache: of the headers; it takes in those that are read here.
    """

    def __init__(self, folder: Path, salt: bytes, cache: HeaderCache):
        self.salt, self.files, self.cache = salt, FileList(folder, salt), cache
        self.rows = cache.rows_of(self.files.numbers)  # (N,) of `table`; -1 where a file has none
        self.table = pa.table({})
        self._failed: list[tuple[Path, str]] = []

    @property
    def unread(self) -> np.ndarray:
        """Numbers of the files whose headers are to be read: new ones, changed ones, and those that failed to open."""
        return np.flatnonzero(self.rows < 0)

    def read(self, pool: Workers, advance: Callable[[int], object] = lambda count: None):
        """Read what is `unread`; `advance` is told how many files were read whenever some were."""
        try:
            tasks = self._tasks(self.unread)
            for (_, paths), result in pool.map(partial(read_rows, salt=self.salt), tasks):
                if isinstance(result, WorkerDied):
                    self._failed += [(path, "the processes that read it died") for path in paths]
                else:
                    self.cache.add(result[0])
                    self._failed += result[1]
                advance(len(paths))
        finally:
            self.cache.write()
        self.rows = self.cache.rows_of(self.files.numbers)
        self.table = self.cache.table()
        known = self.rows >= 0
        self.cache.forget_others(self.table, self.files.numbers[known], self.rows[known])

    def _tasks(self, unread: np.ndarray) -> Iterator[tuple[np.ndarray, list[Path]]]:
        for start in range(0, len(unread), _FILES_PER_TASK):
            some = unread[start : start + _FILES_PER_TASK]
            yield self.files.numbers[some], [self.files.path(index) for index in some]

    def unreadable(self) -> list[tuple[Path, str]]:
        """Files without a header, and why, in the order of their paths."""
        numbers = np.flatnonzero((self.rows >= 0) & ~self.has_header())
        reasons = self.table["why"].take(pa.array(self.rows[numbers])).to_pylist()
        return sorted([*zip(map(self.files.path, numbers.tolist()), reasons), *self._failed, *self.files.closed])

    def has_header(self) -> np.ndarray:
        """(N,) of all files."""
        known = np.append(self.table["rest"].is_valid().to_numpy(), False)  # the last one is for row -1
        return known[self.rows]

    def headers(self, numbers: np.ndarray, with_paths: bool = True) -> list[SliceHeader]:
        """The headers of these files, one of each. To make the paths takes as long as the rest."""
        rows = self.table.take(pa.array(self.rows[numbers]))
        paths = map(self.files.path, numbers) if with_paths else repeat(Path())
        return list(to_headers(rows, paths, numbers.tolist()))

    def same_pixels(self, one: SliceHeader, other: SliceHeader) -> bool:
        """Whether two slices, whose headers have no paths here, show the same."""
        return same_pixels(*(replace(header, path=self.files.path(header.number)) for header in (one, other)))

    def find_series(self, join_split: bool = False) -> list[FoundSeries]:
        """As `group_series` and, with `join_split`, `merge_split` find them, in the same order."""
        found, parts = [], defaultdict(list)
        for series in series_of(_Groups(self), self.same_pixels):
            neighbours = parts_to_join(series) if join_split else None
            (found if neighbours is None else parts[neighbours]).append(_found(series))
        for same in parts.values():
            found += map(_found, join_parts([self.load(part) for part in same]))
        return found

    def load(self, found: FoundSeries) -> Series:
        """The series with its headers."""
        named_by = self.headers(np.array(found.named_by))
        slices = tuple(map(frame_of, self.headers(found.numbers), found.frames.tolist()))
        return Series(found.key, slices, found.dropped, tuple(named_by), found.problem)

    def scan_id(self, found: FoundSeries) -> str:
        """The pseudonym of a series' key. A key of several pseudonyms is first put together from the files again."""
        key = found.key
        if not isinstance(key, Pseudonym):
            for header in self.read_again(found.named_by):
                for name in (header.series_key, header.frame_key):
                    key = key.replace(pseudonym(name, self.salt), name)
        return pseudonym(key, self.salt)

    def read_again(self, numbers: Iterable[int]) -> list[SliceHeader]:
        """Headers with all that they say, from the files; raises `InputError` if one cannot be read any more."""
        headers = []
        for path in map(self.files.path, numbers):
            header = read_header(path)
            if isinstance(header, Unread):
                why = f"{printable(path)} has changed during the run ({header.why})"
                raise InputError(f"{why}; run the same command again.")
            headers.append(header)
        return headers


class _Groups(Sequence):
    """The headers of each patient, study and SeriesInstanceUID (or folder, where that is missing), in the order of
    their first files; loaded when asked for."""

    def __init__(self, disk: Disk):
        numbers = np.flatnonzero(disk.has_header()).astype(np.int32)
        rows = pa.array(disk.rows[numbers])
        uids = disk.table["series_uid"].combine_chunks()
        group = np.zeros(len(numbers), np.int32)
        for values in (*(disk.table[name].combine_chunks().indices for name in ("owner", "study_uid")), uids.indices):
            group = _within(group, values.take(rows).to_numpy())
        blank = uids.dictionary.index("").as_py()
        if blank >= 0:
            folders = np.where(uids.indices.take(rows).to_numpy() == blank, disk.files.folders(numbers) + 1, 0)
            group = _within(group, folders)
        self.disk, self.numbers = disk, numbers[group.argsort(kind="stable")]
        self.ends = np.bincount(group).cumsum()

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, index: int) -> list[SliceHeader]:
        numbers = self.numbers[self.ends[index - 1] if index else 0 : self.ends[index]]
        return [one for header in self.disk.headers(numbers, with_paths=False) for one in frames_of(header)]

    def __iter__(self) -> Iterator[list[SliceHeader]]:
        done = 0
        while done < len(self):
            start = self.ends[done - 1] if done else 0
            upto = max(done + 1, int(np.searchsorted(self.ends, start + _HEADERS_AT_ONCE, side="right")))
            headers = iter(self.disk.headers(self.numbers[start : self.ends[upto - 1]], with_paths=False))
            for count in np.diff(self.ends[done:upto], prepend=start):
                yield [one for header in islice(headers, int(count)) for one in frames_of(header)]
            done = upto


def _within(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Groups (N,) parted by the values, 0 and more, of their members; numbered in the order of their first ones."""
    keys = group.astype(np.int64)
    keys <<= 32
    keys |= values
    return pandas.factorize(keys)[0].astype(np.int32)


def _found(series: Series) -> FoundSeries:
    numbers, frames = (np.array([getattr(one, name) for one in series.slices], np.int32) for name in _WHICH)
    first = series.slices[0]
    return FoundSeries(
        key=series.key,
        numbers=numbers,
        frames=frames,
        named_by=tuple(header.number for header in series.named_by),
        dropped=series.dropped,
        problem=series.problem,
        content=series.content,
        study_uid=first.study_uid,
        patient_id=series.patient_id,
        study_day=first.study_day,
    )
