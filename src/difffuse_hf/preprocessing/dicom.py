"""Slices into series: which files are one scan, and in which order (thesis Sec. 3.4.4, step 1).

A *series* is a stack of slices of one orientation, size and kernel. Often that is all files of a SeriesInstanceUID,
but hospitals also put two scans under one UID, or every slice under its own. Headers alone decide (`headers.py`).
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter

import numpy as np

from .headers import SliceHeader, find_files, read_headers

__all__ = ["Series", "SliceHeader", "find_files", "group_series", "is_localiser", "merge_split", "read_headers"]

WHOLE_HEAD_MM = 100.0  # between the first and the last slice; less is a part of the head
MAX_OFF_LINE_MM = 1.0  # of slice positions from one straight line
LOCALISER = "LOCALI[SZ]ER|SURVIEW|SCOUT|TOPOGRAM|PILOT"
_SAME_POSITION_MM = 0.1
_SAME_DIRECTION = 0.02  # of a cosine: about one degree
_STRAY_SLICES = 2  # so few slices beside a larger stack of the same UID are strays, not a series


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one orientation, size and kernel, inferior to superior.

    `key` names the series: the same whenever the same scan is read. It is put together from the keys of the slices
    `named_by`. `dropped` counts files left out, and why.
    """

    key: str
    slices: tuple[SliceHeader, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    named_by: tuple[SliceHeader, ...] = ()

    @property
    def series_uids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(header.series_uid for header in self.slices))

    @property
    def study_uid(self) -> str:
        return self.slices[0].study_uid

    @property
    def patient_id(self) -> str:
        return self.slices[0].patient_id

    @property
    def has_geometry(self) -> bool:
        """Whether orientation, position and pixel spacing are given; what follows needs them."""
        return _has_geometry(self.slices[0])

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector across the slices, towards the head (or, in other planes, to the left or the back)."""
        return _normal(self.slices[0])

    @cached_property
    def positions_mm(self) -> np.ndarray:
        """(S,) along the normal, ascending."""
        return np.array([header.position for header in self.slices]) @ self.normal

    @property
    def spacings_mm(self) -> np.ndarray:
        """(S - 1,) between neighbours, along the normal."""
        return np.diff(self.positions_mm)

    @property
    def coverage_mm(self) -> float:
        """From the first slice's centre to the last one's: 28 slices of 5 mm cover 135 mm."""
        return float(self.positions_mm[-1] - self.positions_mm[0])

    @property
    def thicknesses_mm(self) -> tuple[float, ...]:
        """The distinct ones, ascending."""
        return tuple(sorted({header.thickness_mm for header in self.slices if header.thickness_mm}))

    @property
    def tilt_deg(self) -> float:
        """Gantry tilt from the orientation (the tag's sign differs between vendors): the normal's angle with z."""
        return math.degrees(math.atan2(self.normal[1], self.normal[2]))

    @property
    def off_line_mm(self) -> float:
        """How far the slices' first pixels stray from the straight line that a scan moves along."""
        points = np.array([header.position for header in self.slices])
        points = points - points.mean(axis=0)
        direction = np.linalg.svd(points, full_matrices=False)[2][0]
        return float(np.linalg.norm(points - np.outer(points @ direction, direction), axis=1).max())


def is_localiser(header: SliceHeader) -> bool:
    """What ImageType says; vendors have five words for it."""
    return any(re.search(LOCALISER, value) for value in header.image_type)


def group_series(headers: Sequence[SliceHeader]) -> list[Series]:
    """Sort slices into series: by SeriesInstanceUID, then by kernel, size and orientation, then by acquisition.

    One or two slices beside a larger stack of their UID are strays and are dropped, as are copies of a slice. Where
    many positions are taken twice, there are two scans under one UID (before and after, soft and bone), which
    are parted. Slices that each have a UID of their own are put together by frame of reference and geometry.
    """
    by_uid = defaultdict(list)
    for header in headers:
        by_uid[header.study_uid, header.series_uid].append(header)
    return list(series_of(list(by_uid.values())))


def series_of(groups: Sequence[Sequence[SliceHeader]]) -> Iterator[Series]:
    """The series of slices that have been grouped by study and SeriesInstanceUID, as `group_series` makes them.

    A group is looked at when its turn comes, and once more if it is a single slice: `groups` may load it then.
    """
    alone, seen = defaultdict(list), Counter()

    def with_distinct_key(one):
        seen[one.key] += 1
        return one if seen[one.key] == 1 else replace(one, key=f"{one.key}|{seen[one.key]}")

    for i, slices in enumerate(groups):
        first = slices[0]
        if len(slices) == 1 and _has_geometry(first) and first.frame_of_reference_uid and not first.truncated:
            alone[first.study_uid, first.frame_of_reference_uid].append(i)
        else:
            yield from map(with_distinct_key, _split(slices))
    for numbers in alone.values():
        for stack in _stacks(groups[i][0] for i in numbers):
            if len(stack) > _STRAY_SLICES:
                yield from map(with_distinct_key, _part(stack, _frame_key))
            else:
                yield from (with_distinct_key(_named(_series_key, header, [header])) for header in stack)


_series_key, _frame_key = attrgetter("series_key"), attrgetter("frame_key")


def _named(
    key: Callable[[SliceHeader], str], first: SliceHeader, slices: Iterable[SliceHeader], dropped=None
) -> Series:
    return Series(key(first), tuple(slices), dropped or {}, (first,))


def _split(slices: Sequence[SliceHeader]) -> list[Series]:
    """The series of one SeriesInstanceUID; files that end too early stay only where there is nothing else."""
    intact = [header for header in slices if not header.truncated]
    if not intact:
        return [_named(_series_key, slices[0], slices)]
    main, *others = sorted(_stacks(intact), key=len, reverse=True)
    dropped = Counter({"truncated": len(slices) - len(intact)})
    for stack in others:
        if len(stack) <= _STRAY_SLICES:
            dropped[_what_is_odd(stack[0], main[0])] += len(stack)
    first, *more = _part(main)
    series = [replace(first, dropped=dict(+(Counter(first.dropped) + dropped))), *more]
    return series + [one for stack in others if len(stack) > _STRAY_SLICES for one in _part(stack)]


def _stacks(slices: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices that can be stacked: the same kind of image, kernel, size and orientation."""
    stacks, orientations = defaultdict(list), []
    for header in slices:
        turned = next((i for i, one in enumerate(orientations) if _same_orientation(one, header.orientation)), None)
        if turned is None:
            turned = len(orientations)
            orientations.append(header.orientation)
        stacks[turned, header.position is None, _kind(header)].append(header)
    return list(stacks.values())


def _kind(header: SliceHeader) -> tuple:
    spacing = header.pixel_spacing_mm and tuple(round(mm, 3) for mm in header.pixel_spacing_mm)
    size = header.rows, header.columns, header.num_frames
    return header.sop_class_uid, is_localiser(header), header.kernel, size, spacing


def _same_orientation(one, other) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other)) < _SAME_DIRECTION


def _what_is_odd(header: SliceHeader, main: SliceHeader) -> str:
    if not _has_geometry(header):
        return "without geometry"
    if not _same_orientation(header.orientation, main.orientation):
        return "stray orientation"
    return "stray size" if (header.rows, header.columns) != (main.rows, main.columns) else "stray kind"


def _part(stack: list[SliceHeader], key: Callable[[SliceHeader], str] = _series_key) -> list[Series]:
    """One series, or one for each scan that took the same positions; slices in the order of position."""
    if not _has_geometry(stack[0]):
        return [_named(key, stack[0], sorted(stack, key=_order_in_time))]
    at_position = _by_position(stack)
    copies = len(stack) - sum(map(len, at_position))
    num_repeats = sum(len(slices) - 1 for slices in at_position)
    scans = [[slices[0] for slices in at_position]]
    if num_repeats > _STRAY_SLICES:
        scans = _by_acquisition(at_position)
        num_repeats = 0
    dropped = {why: count for why, count in (("copies", copies), ("duplicate position", num_repeats)) if count}
    return [_named(key, scan[0], scan, {} if i else dropped) for i, scan in enumerate(scans)]


def _by_position(stack: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices that lie at the same place, in the order of time and without copies; places in ascending order."""
    normal = _normal(stack[0])
    positions = np.array([header.position for header in stack]) @ normal
    places, last = [], -math.inf
    for i in positions.argsort(kind="stable"):
        if positions[i] - last > _SAME_POSITION_MM:
            places.append([])
            last = positions[i]
        places[-1].append(stack[i])
    for slices in places:
        slices.sort(key=_order_in_time)
        slices[:] = [one for i, one in enumerate(slices) if not any(_is_copy(one, other) for other in slices[:i])]
    return places


def _is_copy(one: SliceHeader, other: SliceHeader) -> bool:
    """The same object sent twice, or once more under a new UID."""
    return one.sop_instance_uid == other.sop_instance_uid or _order_in_time(one) == _order_in_time(other)


def _order_in_time(header: SliceHeader) -> tuple:
    return header.acquisition or 0, header.acquisition_time, header.instance or 0


def _by_acquisition(at_position: list[list[SliceHeader]]) -> list[list[SliceHeader]]:
    """Several scans of the same places: parted by AcquisitionNumber if that parts them, else by turns."""
    scans = defaultdict(list)
    for slices in at_position:
        for header in slices:
            scans[header.acquisition].append(header)
    clean = all(len({header.acquisition for header in slices}) == len(slices) for slices in at_position)
    if not clean or min(map(len, scans.values())) <= _STRAY_SLICES:
        scans = defaultdict(list)
        for slices in at_position:
            for turn, header in enumerate(slices):
                scans[turn].append(header)
    return list(scans.values())


def merge_split(series: Sequence[Series]) -> list[Series]:
    """Join base and vault of the skull where they were scanned apart and follow each other.

    Joined are parts that do not cover a head alone, of one study, frame of reference, orientation, size and kernel,
    on one line, and at most one and a half steps apart. Where they overlap, the lower part's slices are kept.
    """
    merged, parts = [], defaultdict(list)
    for one in series:
        neighbours = parts_to_join(one)
        (merged if neighbours is None else parts[neighbours]).append(one)
    return merged + [joined for same in parts.values() for joined in join_parts(same)]


def parts_to_join(one: Series) -> tuple | None:
    """What the parts that this one may be joined with have in common with it; None if it is not a part of a head."""
    first = one.slices[0]
    if not one.has_geometry or not first.frame_of_reference_uid or len(one.slices) <= _STRAY_SLICES:
        return None
    if one.coverage_mm >= WHOLE_HEAD_MM or first.truncated:
        return None
    return one.study_uid, first.frame_of_reference_uid, _kind(first)


def join_parts(parts: Sequence[Series]) -> Iterator[Series]:
    """Parts with the same `parts_to_join`, from below; those that follow each other as one."""
    left = sorted(parts, key=lambda part: part.positions_mm[0])
    while left:
        lower = left.pop(0)
        while follows := [(part, joined) for part in left if (joined := _join(lower, part))]:
            part, lower = follows[0]
            left.remove(part)
        yield lower


def _join(lower: Series, upper: Series) -> Series | None:
    """Both as one series, None if they are not neighbours."""
    if not _same_orientation(lower.slices[0].orientation, upper.slices[0].orientation):
        return None
    start, end = lower.positions_mm[-1], upper.positions_mm[-1]
    gap = upper.positions_mm[0] - start
    step = max(np.median(lower.spacings_mm), np.median(upper.spacings_mm))
    overlap_allowed = min(lower.coverage_mm, upper.coverage_mm) / 2  # more is the same part, scanned twice
    if gap > 1.5 * step or gap < -overlap_allowed or end <= start:
        return None
    kept = [header for header, at in zip(upper.slices, upper.positions_mm) if at > start + _SAME_POSITION_MM]
    dropped = Counter(lower.dropped) + Counter(upper.dropped) + Counter(overlap=len(upper.slices) - len(kept))
    named_by = lower.named_by + upper.named_by
    joined = Series(f"{lower.key}+{upper.key}", (*lower.slices, *kept), dict(+dropped), named_by)
    return joined if joined.off_line_mm < MAX_OFF_LINE_MM else None


def _has_geometry(header: SliceHeader) -> bool:
    return None not in (header.orientation, header.position, header.pixel_spacing_mm)


def _normal(header: SliceHeader) -> np.ndarray:
    if header.orientation is None:  # `_has_geometry` has been asked
        raise ValueError(f"{header.path} does not say how its slice lies.")
    normal = np.cross(header.orientation[:3], header.orientation[3:])
    normal = normal / np.linalg.norm(normal)
    return normal if normal[np.abs(normal).argmax()] > 0 else -normal
