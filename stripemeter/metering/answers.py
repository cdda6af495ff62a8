"""Answers: counters' states over windows of time, finished as numbers.

Belongs here: merging the states of days, segments, dimensions and lanes, and the one number an aggregation makes of
them. Does not: making states of events (`aggregation`), reading them (`store.metered_usage`), adjustments.

The number of a time-weighted meter is in unit-seconds: level times seconds. A level holds from its reading until the
next one, across days and segments; before the first reading ever it is 0. A window counts until its end, or until now
when that is earlier, or until its last reading when that is ahead of now.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import ROUND_CEILING, Context, Decimal
from itertools import pairwise

from stripemeter.metering.averages import average
from stripemeter.metering.meters import Aggregation

_EXACT = Context(prec=200)
_MICROSECOND = timedelta(microseconds=1)
_Track = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The state of one counter: a customer's readings by a meter on one day in one segment, of one combination.

    Args:
        customer_ref: whose.
        meter: by which.
        day: when.
        segment_start: in which segment.
        dimensions: of which values.
        event_count: how many.
        quantity_sum: their sum.
        quantity_min: the least.
        quantity_max: the greatest.
        quantity_last: that of the greatest (ts, seq).
        last_ts: that ts.
        last_seq: that seq.
        first_ts: of time-weighted meters the first.
        unit_microseconds: of time-weighted meters the level times microseconds between first and last.
        items: of unique and percentile meters how often each value came.
    """

    customer_ref: str
    meter: str
    day: date
    segment_start: datetime
    dimensions: str
    event_count: int
    quantity_sum: Decimal
    quantity_min: Decimal
    quantity_max: Decimal
    quantity_last: Decimal
    last_ts: datetime
    last_seq: int
    first_ts: datetime | None = None
    unit_microseconds: Decimal | None = None
    items: Mapping[str, int] = field(default_factory=dict)

    @property
    def start(self) -> datetime:
        """When its first reading was, as far as it is known."""
        return self.first_ts or self.last_ts


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One window. `number` is what the aggregation makes of it: None where it has no event to speak of."""

    event_count: int
    quantity_sum: Decimal
    quantity_min: Decimal | None
    quantity_max: Decimal | None
    quantity_last: Decimal | None
    number: Decimal | None


def answer(
    parts: Iterable[Part],
    edges: Sequence[datetime],
    *,
    aggregation: Aggregation,
    percentile: Decimal | None = None,
    level_ends: Sequence[datetime] = (),
    now: datetime,
) -> list[Answer]:
    """One answer for each window that the edges cut.

    Args:
        parts: states by one meter, any order. Each lies within one window. Those before the first edge say the levels
            that a time-weighted meter begins with; those after the last one are ignored.
        edges: instants, ascending, at least two.
        aggregation: how the meter counts.
        percentile: which one, with the aggregation of that name.
        level_ends: where every level of a time-weighted meter ends, ascending; no part lies on both sides of one.
        now: until when a level is known to hold.
    """
    slots: list[list[Part]] = [[] for _ in range(len(edges) + 1)]
    for part in sorted(parts, key=lambda part: (part.start, part.last_ts, part.last_seq)):
        slots[bisect_right(edges, part.last_ts)].append(part)
    before, *windows, _ = slots
    if aggregation == "time_weighted":
        numbers = _weighted_numbers(before, windows, edges, level_ends, now)
        return [_answer(inside, number) for inside, number in zip(windows, numbers, strict=True)]
    return [_answer(inside, _number(aggregation, percentile, inside)) for inside in windows]


def overlap(one: Part, other: Part) -> bool:
    """Whether two states of a time-weighted counter cannot be put one after the other."""
    return one.start < other.last_ts and other.start < one.last_ts


def _answer(inside: Sequence[Part], number: Decimal | None) -> Answer:
    if not inside:
        return Answer(
            event_count=0,
            quantity_sum=Decimal(0),
            quantity_min=None,
            quantity_max=None,
            quantity_last=None,
            number=number,
        )
    return Answer(
        event_count=_count(inside),
        quantity_sum=_sum(inside),
        quantity_min=min(part.quantity_min for part in inside),
        quantity_max=max(part.quantity_max for part in inside),
        quantity_last=_newest(inside).quantity_last,
        number=number,
    )


def _number(aggregation: Aggregation, percentile: Decimal | None, inside: Sequence[Part]) -> Decimal | None:
    if aggregation == "sum":
        return _sum(inside)
    if aggregation in ("count", "unique"):
        items = {item for part in inside for item in part.items}
        return Decimal(len(items) if aggregation == "unique" else _count(inside))
    if not inside:
        return None
    match aggregation:
        case "min":
            return min(part.quantity_min for part in inside)
        case "max":
            return max(part.quantity_max for part in inside)
        case "avg":
            return average(_sum(inside), _count(inside))
        case "percentile":
            return _percentile(inside, percentile or Decimal(100))
        case _:
            return _newest(inside).quantity_last


def _percentile(inside: Sequence[Part], percentile: Decimal) -> Decimal | None:
    """The nearest rank: the least value that so many percent of all values do not exceed. Never between two."""
    counts: Counter[Decimal] = Counter()
    for part in inside:
        for item, count in part.items.items():
            counts[Decimal(item)] += count
    share = _EXACT.scaleb(_EXACT.multiply(percentile, Decimal(counts.total())), -2)
    rank = share.to_integral_value(ROUND_CEILING)
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= rank:
            return value
    return None  # counted before the meter kept its values


def _weighted_numbers(
    before: Sequence[Part],
    windows: Sequence[Sequence[Part]],
    edges: Sequence[datetime],
    ends: Sequence[datetime],
    now: datetime,
) -> list[Decimal]:
    known = bisect_right(ends, edges[0])
    levels = _levels(part for part in before if not known or part.last_ts >= ends[known - 1])
    numbers = []
    for (start, end), inside in zip(pairwise(edges), windows, strict=True):
        number = Decimal(0)
        inner = ends[bisect_right(ends, start) : bisect_left(ends, end)]
        for piece in pairwise([start, *inner, end]):
            if piece[0] in ends:
                levels = {}
            readings = [part for part in inside if piece[0] <= part.last_ts < piece[1]]
            number = _EXACT.add(number, _unit_seconds(readings, piece, levels, now))
            levels |= _levels(readings)
        numbers.append(number)
    return numbers


def _unit_seconds(
    inside: Sequence[Part], bounds: tuple[datetime, datetime], levels: Mapping[_Track, Decimal], now: datetime
) -> Decimal:
    start, end = bounds
    tracks: dict[_Track, list[Part]] = {track: [] for track in levels}
    for part in inside:
        tracks.setdefault(_track(part), []).append(part)
    until = min(end, max([now, start, *(part.last_ts for part in inside)]))
    total = Decimal(0)
    for track, parts in tracks.items():
        at, level = start, levels.get(track, Decimal(0))
        for part in parts:
            total = _EXACT.add(total, _held(level, at, part.start))
            total = _EXACT.add(total, part.unit_microseconds or Decimal(0))
            at, level = part.last_ts, part.quantity_last
        total = _EXACT.add(total, _held(level, at, until))
    return _EXACT.scaleb(total, -6)


def _held(level: Decimal, since: datetime, until: datetime) -> Decimal:
    return _EXACT.multiply(level, Decimal(max(until - since, timedelta()) // _MICROSECOND))


def _levels(parts: Iterable[Part]) -> dict[_Track, Decimal]:
    newest: dict[_Track, Part] = {}
    for part in parts:
        known = newest.get(_track(part))
        if known is None or (part.last_ts, part.last_seq) > (known.last_ts, known.last_seq):
            newest[_track(part)] = part
    return {track: part.quantity_last for track, part in newest.items()}


def _track(part: Part) -> _Track:
    return part.customer_ref, part.dimensions


def _count(inside: Sequence[Part]) -> int:
    return sum(part.event_count for part in inside)


def _sum(inside: Sequence[Part]) -> Decimal:
    total = Decimal(0)
    for part in inside:
        total = _EXACT.add(total, part.quantity_sum)
    return total


def _newest(inside: Sequence[Part]) -> Part:
    return max(inside, key=lambda part: (part.last_ts, part.last_seq))
