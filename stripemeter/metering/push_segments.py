"""Push segments: on which days of a billing segment the running number of a gauge may be told to Stripe.

Belongs here: cutting them for one customer and meter. Does not: the segments themselves (`segments`), the running
number (the view `push_days`), storing them (`store.push_segments`).

A gauge here is every meter whose days do not add up: min, max, last, unique. Its deltas must add up over the segment,
so each belongs to a day of the segment that Stripe still takes: what changed on earlier days is told on the first day
that is open, and what lies in a minute that a boundary cuts on the nearest day with a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from stripemeter.metering.days import day_bounds
from stripemeter.metering.deltas import MINUTE, first_open_day
from stripemeter.metering.segments import BillingPhase, Segment, segment_at, segment_starts


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSegment:
    """A billing segment `[start, end)` of a gauge, and the UTC days its deltas lie on.

    Args:
        start: where it begins.
        end: where it ends.
        pushes_from: the first day that takes deltas: days before it stay as they were sent.
        closes_on: the last day with a whole minute in the segment.
    """

    start: datetime
    end: datetime
    pushes_from: date
    closes_on: date


def push_segments(phases: Sequence[BillingPhase], *, since: date, now: datetime) -> list[PushSegment]:
    """The segments that hold an instant from the beginning of `since` until `now`, ascending.

    One without a whole minute is left out: nothing can be stamped in it.
    """
    starts = segment_starts(phases, day_bounds(since)[0], now)
    found = (_push_segment(segment_at(phases, start), first_open_day(now)) for start in starts)
    return [segment for segment in found if segment is not None]


def _push_segment(segment: Segment, first_open: date) -> PushSegment | None:
    first = segment.start.astimezone(UTC).replace(second=0, microsecond=0)
    if first != segment.start:
        first += MINUTE
    last = segment.end.astimezone(UTC).replace(second=0, microsecond=0) - MINUTE
    if last < first:
        return None
    return PushSegment(
        start=segment.start,
        end=segment.end,
        pushes_from=min(max(first.date(), first_open), last.date()),
        closes_on=last.date(),
    )
