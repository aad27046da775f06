"""Several scans under one identifier: which slices are one acquisition, by what the headers prove and not by a guess.

Numbers and times put slices into an order. A scanner runs through a head from one end to the other, so a scan ends
where that order turns back or comes to a place again (`sweeps`). Slices that no number, time or identifier tells
apart stay together as a mixture, which nobody may use.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from operator import itemgetter

from .headers import SliceHeader

WHOLE_HEAD_MM = 100.0  # between the first and the last slice; less is a part of the head
STRAY_SLICES = 2  # so few slices beside a larger stack are strays, not a scan
_LONG_SWEEP = 8  # blocks, on average: numbers in no order give two or three

Placed = tuple[SliceHeader, float]  # a slice and where it lies along the normal, in mm; equal for slices of one place
Block = list[Placed]  # slices with the same number


def tell_apart(slices: Sequence[Placed]) -> list[list[Placed]] | None:
    """The scans that these slices belong to, in the order of time; None if the headers leave it open.

    `AcquisitionNumber` is asked first, then the time, then the slice's own number: the first that never names two
    slices of one place, and gives sweeps that can be told (`_proven`).
    """
    repeated = _repeats(slices)
    for depth in (1, 2, 3):
        blocks = _blocks(slices, depth)
        if any(map(_repeats, blocks)):
            continue
        found = sweeps(blocks)
        if len(found) == 1:
            continue  # a finer number may show two scans that interleave
        in_order = len(blocks) >= _LONG_SWEEP * len(found)
        if _proven(found, repeated or in_order):
            return [sum(sweep, []) for sweep in found]
        if in_order:
            return None
    return None if repeated else [list(slices)]


def sweeps(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks in their order, parted where the next one does not go on beyond the last in the same direction, and
    between two that are whole heads."""
    found, ends, direction = [], (0.0, 0.0), 0
    for block in blocks:
        low, high = _range(block)
        step = (low > ends[1]) - (high < ends[0])
        both_whole = min(high - low, ends[1] - ends[0]) >= WHOLE_HEAD_MM
        if found and step and direction in (0, step) and not both_whole:
            found[-1].append(block)
            ends, direction = (min(low, ends[0]), max(high, ends[1])), step
        else:
            found.append([block])
            ends, direction = (low, high), 0
    ranges = sorted(_range(sum(sweep, [])) for sweep in found)
    apart = all(before[1] < after[0] for before, after in zip(ranges, ranges[1:]))
    if apart and sum(high - low >= WHOLE_HEAD_MM for low, high in ranges) < 2:
        return [list(blocks)]  # parts of one scan, in whatever order
    return found


def is_numbered_twice(headers: Sequence[SliceHeader]) -> bool:
    """Whether slices of different places bear one number or identifier, as slices of two scans do.

    A number that all share says nothing: some exports write 1 everywhere.
    """
    numbers = [(one.acquisition, one.instance) for one in headers if one.instance is not None]
    objects = [(one.sop_instance_uid, one.frame) for one in headers if one.sop_instance_uid]
    same_everywhere = len({one.instance for one in headers}) == 1, len({one.sop_instance_uid for one in headers}) == 1
    return any(
        not same and max(Counter(values).values(), default=1) > 1
        for values, same in zip((numbers, objects), same_everywhere)
    )


def is_in_order(headers: Sequence[SliceHeader]) -> bool:
    """Whether slices, given by their place, are numbered up or down without a repetition."""
    numbers = [one.instance for one in headers if one.instance is not None]
    if len(numbers) < len(headers):
        return False
    steps = {(after > before) - (after < before) for before, after in zip(numbers, numbers[1:])}
    return len(steps) == 1 and 0 not in steps


def order_in_time(header: SliceHeader) -> tuple:
    return header.acquisition or 0, header.acquisition_time, header.instance or 0


def _blocks(slices: Iterable[Placed], depth: int) -> list[Block]:
    blocks: dict[Hashable, Block] = defaultdict(list)
    for one in slices:
        blocks[order_in_time(one[0])[:depth]].append(one)
    return [block for _, block in sorted(blocks.items(), key=itemgetter(0))]


def _proven(found: list[list[Block]], told: bool) -> bool:
    """Whether sweeps can only be scans, and not bases and vaults that an order has paired by chance.

    They are if each is of one number; if there are two long ones; if all reach as far and are `told` by repeated
    places or a long order; or if one covers all places of the others, which were scanned again either all before or
    all after it.
    """
    if all(len(sweep) == 1 and len(sweep[0]) > STRAY_SLICES for sweep in found):
        return True
    flat = [sum(sweep, []) for sweep in found]
    long = all(len(sweep) > STRAY_SLICES for sweep in flat)
    if len(found) == 2 and long and sum(map(len, found)) >= 2 * _LONG_SWEEP:
        return True
    if long and told and reach_as_far(flat):
        return True
    main = max(range(len(flat)), key=lambda i: len(flat[i]))
    places = {place for _, place in flat[main]}
    inside = all(place in places for sweep in flat for _, place in sweep)
    return inside and main in (0, len(flat) - 1)


def reach_as_far(scans: list[Block]) -> bool:
    ends = [_range(scan) for scan in scans]
    step = max((high - low) / (len(scan) - 1) for (low, high), scan in zip(ends, scans))
    lows, highs = zip(*ends)
    return max(lows) - min(lows) <= step and max(highs) - min(highs) <= step


def _repeats(slices: Sequence[Placed]) -> bool:
    return len({place for _, place in slices}) < len(slices)


def _range(block: Block) -> tuple[float, float]:
    places = [place for _, place in block]
    return min(places), max(places)
