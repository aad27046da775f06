"""Slices into series: which files are one scan, and in which order (thesis Sec. 3.4.4, step 1).

A *series* is a stack of slices of one patient, orientation, size and kernel. Often that is all files of a
SeriesInstanceUID, but hospitals also put two scans under one UID, or every slice under its own, and de-identification
leaves the same one, or none, to several patients. Headers decide (`headers.py`, `acquisitions.py`): slices are one
scan only where they say so. Pixels are asked whether two slices of one place are copies.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter, itemgetter

import numpy as np
from pydicom.uid import UID

from .acquisitions import (
    STRAY_SLICES,
    WHOLE_HEAD_MM,
    Placed,
    is_in_order,
    is_numbered_twice,
    order_in_time,
    reach_as_far,
    tell_apart,
)
from .contents import MAP, PROJECTION
from .headers import SliceHeader, read_headers
from .pixels import same_pixels
from .walk import find_files

__all__ = ["Series", "SliceHeader", "find_files", "group_series", "is_localiser", "merge_split", "read_headers"]

MAX_OFF_LINE_MM = 1.0  # of slice positions from one straight line
LOCALISER = "LOCALI[SZ]ER|SURVIEW|SCOUT|TOPOGRAM|PILOT"
_SAME_POSITION_MM = 0.1
_SAME_DIRECTION = 0.02  # of a cosine: about one degree
MIXED, REPEATED, DYNAMIC = "mixed", "repeated", "dynamic"  # what is wrong with slices that have been put together
_SLICES_PER_SESSION = 4  # on average, at least
_MANY_SCANS = 3  # of the same places, one after the other: contrast is followed on its way

Same = Callable[[SliceHeader, SliceHeader], bool]


@dataclass(frozen=True, eq=False)
class Series:
    """Slices of one orientation, size and kernel, inferior to superior.

    `key` names the series: the same whenever the same scan is read. It is put together from the keys of the slices
    `named_by`. `dropped` counts files left out, and why. `problem`: `MIXED` where the headers leave open which slices
    belong together, `REPEATED` for a part that was scanned again, `DYNAMIC` for one of many scans of the same places.
    """

    key: str
    slices: tuple[SliceHeader, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    named_by: tuple[SliceHeader, ...] = ()
    problem: str = ""

    @property
    def series_uids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(header.series_uid for header in self.slices))

    @property
    def study_uid(self) -> str:
        return self.slices[0].study_uid

    @property
    def patient_id(self) -> str:
        """What is left of the patient's identifiers."""
        return self.slices[0].patient_id or self.slices[0].owner

    @property
    def content(self) -> str:
        """16 hexadecimal digits of the slices' identifiers and places; others where a slice comes, goes or changes."""
        digest = hashlib.blake2b(digest_size=8)
        for one in self.slices:
            digest.update(repr((one.owner, one.sop_instance_uid, one.frame, one.position, one.instance)).encode())
        return digest.hexdigest()

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
    """Sort slices into series: by patient, study and SeriesInstanceUID, then by kind, then by acquisition.

    Without a SeriesInstanceUID, the folder counts as well. One or two slices beside a larger stack of their UID are
    strays and are dropped, as are copies of a slice. Scans of the same places, and scans that interleave, are parted
    by their numbers and times (`tell_apart`), or stay together with a `problem`. Slices that each have a UID of their
    own are put together by frame of reference and geometry.
    """
    groups = defaultdict(list)
    for header in headers:
        folder = None if header.series_uid else header.path.parent
        groups[header.owner, header.study_uid, header.series_uid, folder].append(header)
    return list(series_of(list(groups.values())))


def series_of(groups: Sequence[Sequence[SliceHeader]], same: Same = same_pixels) -> Iterator[Series]:
    """The series of slices that have been grouped by patient, study and SeriesInstanceUID, as `group_series` does.

    A group is looked at when its turn comes, and once more if it is a single slice: `groups` may load it then. `same`
    says whether two slices show the same.
    """
    alone, seen = defaultdict(list), Counter()

    def with_distinct_key(one):
        seen[one.key] += 1
        return one if seen[one.key] == 1 else replace(one, key=f"{one.key}|{seen[one.key]}")

    for i, slices in enumerate(groups):
        first = slices[0]
        if len(slices) == 1 and _has_geometry(first) and first.frame_of_reference_uid and not first.truncated:
            alone[first.owner, first.study_uid, first.frame_of_reference_uid].append(i)
        else:
            yield from map(with_distinct_key, _split(slices, same))
    for numbers in alone.values():
        for stack in _stacks([groups[i][0] for i in numbers]):
            if len(stack) > STRAY_SLICES:
                yield from map(with_distinct_key, _part(stack, same, _frame_key))
            else:
                yield from (with_distinct_key(_named(_series_key, header, [header])) for header in stack)


_series_key, _frame_key = attrgetter("series_key"), attrgetter("frame_key")


def _named(
    key: Callable[[SliceHeader], str], first: SliceHeader, slices: Iterable[SliceHeader], dropped=None, problem=""
) -> Series:
    return Series(key(first), tuple(slices), dropped or {}, (first,), problem)


def _split(slices: Sequence[SliceHeader], same: Same) -> list[Series]:
    """The series of one SeriesInstanceUID; files that end too early stay only where there is nothing else."""
    intact = [header for header in slices if not header.truncated]
    if not intact:
        return [_named(_series_key, slices[0], slices)]
    main, *others = sorted(_stacks(intact), key=len, reverse=True)
    dropped = Counter({"truncated": len(slices) - len(intact)})
    for stack in others:
        if len(stack) <= STRAY_SLICES:
            dropped[_what_is_odd(stack[0], main[0])] += len(stack)
    first, *more = _part(main, same)
    series = [replace(first, dropped=dict(+(Counter(first.dropped) + dropped))), *more]
    return series + [one for stack in others if len(stack) > STRAY_SLICES for one in _part(stack, same)]


def _stacks(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices that can be stacked: the same session, kind of image, kernel, size and orientation."""
    stacks, orientations = defaultdict(list), []
    sessions = len({header.session for header in slices})
    by_session = _SLICES_PER_SESSION * sessions <= len(slices)  # else each slice or rotation has one of its own
    for header in slices:
        turned = next((i for i, one in enumerate(orientations) if _same_orientation(one, header.orientation)), None)
        if turned is None:
            turned = len(orientations)
            orientations.append(header.orientation)
        session = header.session if by_session else ""
        stacks[turned, header.position is None, session, _kind(header)].append(header)
    return list(stacks.values())


def _kind(header: SliceHeader) -> tuple:
    spacing = header.pixel_spacing_mm and tuple(round(mm, 3) for mm in header.pixel_spacing_mm)
    size = header.rows, header.columns, 1 if _has_geometry(header) else header.num_frames
    private = UID(header.transfer_syntax).is_private
    shows = private, header.contrast, header.derivation in (PROJECTION, MAP), is_localiser(header)
    return header.sop_class_uid, shows, header.kernel, size, spacing


def _same_orientation(one, other) -> bool:
    if one is None or other is None:
        return one is other
    return max(abs(a - b) for a, b in zip(one, other)) < _SAME_DIRECTION


def _what_is_odd(header: SliceHeader, main: SliceHeader) -> str:
    if not _has_geometry(header):
        return "without geometry"
    if not _same_orientation(header.orientation, main.orientation):
        return "stray orientation"
    if (header.rows, header.columns) != (main.rows, main.columns):
        return "stray size"
    return "stray session" if header.session != main.session else "stray kind"


def _part(stack: list[SliceHeader], same: Same, key: Callable[[SliceHeader], str] = _series_key) -> list[Series]:
    """One series, or one for each scan that the stack holds; slices in the order of position."""
    if not _has_geometry(stack[0]):
        return [_named(key, stack[0], sorted(stack, key=order_in_time))]
    placed = _placed(stack, same)
    dropped = Counter(copies=len(stack) - len(placed))
    scans = tell_apart(placed)
    if scans is None:
        taken = Counter(place for _, place in placed)
        clear = [one for one in placed if taken[one[1]] == 1]
        if sum(count > 1 for count in taken.values()) <= STRAY_SLICES < len(clear):
            dropped["of one place, untold"] = len(placed) - len(clear)
            scans = tell_apart(clear)
            placed = clear
    if scans is None:
        return [_named(key, placed[0][0], _headers(placed), dict(+dropped), MIXED)]
    longest = max(map(len, scans))
    if longest > STRAY_SLICES:
        dropped["duplicate position"] = sum(len(scan) for scan in scans if len(scan) <= STRAY_SLICES)
        scans = [scan for scan in scans if len(scan) > STRAY_SLICES]
    scans = [sorted(scan, key=itemgetter(1)) for scan in scans]
    many = len(scans) >= _MANY_SCANS and reach_as_far(scans)
    series = []
    for scan in scans:
        headers, others = _headers(scan), [other for other in scans if len(other) > len(scan)]
        problem = MIXED if not _belong_together(headers, key) else DYNAMIC if many else ""
        if not problem and any(_within(scan, other) for other in others):
            problem = REPEATED
        series.append(_named(key, headers[0], headers, dict(+dropped), problem))
        dropped.clear()
    return series


def _placed(stack: list[SliceHeader], same: Same) -> list[Placed]:
    """Slices with their places along the normal, ascending, then in the order of time; without copies."""
    normal = _normal(stack[0])
    positions = np.array([header.position for header in stack]) @ normal
    places, last = defaultdict(list), -math.inf
    for i in positions.argsort(kind="stable"):
        if positions[i] - last > _SAME_POSITION_MM:
            last = float(positions[i])
        places[last].append(stack[i])
    placed = []
    for place, slices in places.items():
        slices.sort(key=order_in_time)
        kept: list[SliceHeader] = []
        for one in slices:
            if not any(_may_be_copy(one, other) and same(one, other) for other in kept):
                kept.append(one)
        placed += [(one, place) for one in kept]
    return placed


def _may_be_copy(one: SliceHeader, other: SliceHeader) -> bool:
    """The same object sent twice, or once more under a new UID: what their pixels have to confirm."""
    return one.sop_instance_uid == other.sop_instance_uid or order_in_time(one) == order_in_time(other)


def _headers(scan: Iterable[Placed]) -> list[SliceHeader]:
    return [header for header, _ in scan]


def _within(scan: list[Placed], other: list[Placed]) -> bool:
    """Whether a scan that is no head by itself lies in the range of another one."""
    (low, high), length = (scan[0][1], scan[-1][1]), scan[-1][1] - scan[0][1]
    step = (other[-1][1] - other[0][1]) / (len(other) - 1)
    return length < WHOLE_HEAD_MM and low > other[0][1] - step and high < other[-1][1] + step


def _belong_together(headers: list[SliceHeader], key: Callable[[SliceHeader], str]) -> bool:
    """Whether a scan's identifiers and numbers, in the order of position, are those of one scan.

    Where the identifier of the series is missing, another one has to be there, and the numbers have to run on.
    """
    first = headers[0]
    if is_numbered_twice(headers):
        return False
    if key is _frame_key or first.series_uid or len(headers) == 1:
        return True
    identified = first.patient_id or first.study_uid or first.frame_of_reference_uid
    return bool(identified) and is_in_order(headers)


def merge_split(series: Sequence[Series]) -> list[Series]:
    """Join base and vault of the skull where they were scanned apart and follow each other.

    Joined are parts that do not cover a head alone, of one patient, study, frame of reference, orientation, size and
    kernel, on one line, and at most one and a half steps apart. Where they overlap, the lower part's slices are kept.
    Two parts that would both follow, and lie beside each other, are scans of the same place: none is joined.
    """
    merged, parts = [], defaultdict(list)
    for one in series:
        neighbours = parts_to_join(one)
        (merged if neighbours is None else parts[neighbours]).append(one)
    return merged + [joined for same in parts.values() for joined in join_parts(same)]


def parts_to_join(one: Series) -> tuple | None:
    """What the parts that this one may be joined with have in common with it; None if it is not a part of a head."""
    first = one.slices[0]
    if one.problem or not one.has_geometry or not first.frame_of_reference_uid or len(one.slices) <= STRAY_SLICES:
        return None
    if one.coverage_mm >= WHOLE_HEAD_MM or first.truncated:
        return None
    return first.owner, one.study_uid, first.frame_of_reference_uid, _kind(first)


def join_parts(parts: Sequence[Series]) -> Iterator[Series]:
    """Parts with the same `parts_to_join`, from below; those that follow each other as one."""
    left = sorted(parts, key=lambda part: part.positions_mm[0])
    while left:
        lower = left.pop(0)
        while follows := [(part, joined) for part in left if (joined := _join(lower, part))]:
            part, joined = follows[0]
            rivals = [other for other in left if other is not part]
            if any(_beside(part, other) and _join(lower, other) for other in rivals):
                break
            if any(_beside(lower, other) and _join(other, part) for other in rivals):
                break
            left.remove(part)
            lower = joined
        yield lower


def _beside(one: Series, other: Series) -> bool:
    """Whether more than half of one lies where the other one does."""
    overlap = min(one.positions_mm[-1], other.positions_mm[-1]) - max(one.positions_mm[0], other.positions_mm[0])
    return overlap > min(one.coverage_mm, other.coverage_mm) / 2


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
