"""Segments: how a customer's time is cut into billing windows.

Belongs here: phases (a cadence counted from an anchor), the segment that holds an instant, validating a phase. Does
not: whose phases they are (`store.customers`), time zones (segments are UTC), the windows of reports (`windows`).

Boundaries lie a whole number of cadences before or after the anchor, each counted from the anchor itself: an anchor on
31 January makes 28 February and then 31 March.
Source: Stripe, billing cycle anchor: a month without the anchor's day bills on its last day, always in UTC.

A phase holds until the next one starts. Its start is always a boundary: it cuts the segment before it. Before the first
phase the UTC month applies. Time itself ends with the years 1 and 9999: there a segment is cut short.
"""

from __future__ import annotations

import bisect
import calendar
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Literal, get_args

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import day_bounds

Cadence = Literal["day", "week", "month", "quarter", "year"]
BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
"""The first instant there is, a Monday: a phase that starts here always held, and counts calendar windows from it."""
END = datetime.max.replace(tzinfo=UTC)
"""The last instant there is: the end of the last segment, which holds it as well."""
MOST_CADENCES = 366
"""Cadences one segment may span."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingPhase:
    """How segments are cut from an instant on.

    Args:
        starts_at: first instant the phase holds, UTC, whole seconds; BEGINNING: always.
        cadence: what a segment spans.
        cadence_count: how many of them, 1 to MOST_CADENCES.
        anchor_at: a boundary that all others are counted from, both ways; whole seconds. It need not lie in the phase.
    """

    starts_at: datetime
    cadence: Cadence
    cadence_count: int
    anchor_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A billing window `[start, end)`, UTC."""

    start: datetime
    end: datetime


DEFAULT_PHASES: tuple[BillingPhase, ...] = (
    BillingPhase(starts_at=BEGINNING, cadence="month", cadence_count=1, anchor_at=BEGINNING),
)
"""The UTC calendar month: how a customer is cut of whom nothing else is known."""

_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_STARTS_AT = attrgetter("starts_at")


def segment_at(phases: Sequence[BillingPhase], at: datetime) -> Segment:
    """The segment that holds an aware instant.

    Args:
        phases: by `starts_at`, ascending, no two the same; none: the UTC month.
        at: any instant.
    """
    following = bisect.bisect_right(phases, at, key=_STARTS_AT)
    phase = phases[following - 1] if following else DEFAULT_PHASES[0]
    start, end = _around(phase, at.astimezone(UTC))
    if following:
        start = max(start, phase.starts_at)
    if following < len(phases):
        end = min(end, phases[following].starts_at)
    return Segment(start=start, end=end)


def day_segment(phases: Sequence[BillingPhase], day: date, start: datetime) -> Segment:
    """The segment that a counter's part of a day begins in, given the start the counter was counted under.

    Its start is another than the counter's when the phases have changed and the counter is from before.
    """
    return segment_at(phases, max(day_bounds(day)[0], start))


def segment_starts(phases: Sequence[BillingPhase], first: datetime, last: datetime) -> list[datetime]:
    """Where every segment begins that has an instant of `[first, last]` in it, ascending; empty when last < first.

    The first of them is the start of the segment that holds `first`, so it is not after it.
    """
    starts: list[datetime] = []
    at = first
    while at <= last:
        segment = segment_at(phases, at)
        starts.append(segment.start)
        if segment.end == END:
            break
        at = segment.end
    return starts


def parse_phase(
    *,
    cadence: str,
    count: int = 1,
    anchor_at: datetime | None = None,
    starts_at: datetime | None = None,
    field: str = "billing",
) -> BillingPhase:
    """A phase as a person describes it.

    Args:
        cadence: one of Cadence.
        count: how many cadences a segment spans.
        anchor_at: a boundary, aware; None: the start of the phase, so calendar windows when it always held.
        starts_at: first instant it holds, aware; None: it always held.
        field: JSON path of the description, for complaints about its members.

    Raises:
        InvalidInput: something is none of these, or a fraction of a second; `field` names the member.
    """
    if cadence not in get_args(Cadence):
        allowed = ", ".join(get_args(Cadence))
        raise InvalidInput(f"{field}.cadence must be one of {allowed}, not {cadence!r}", field=f"{field}.cadence")
    if not 1 <= count <= MOST_CADENCES:
        raise InvalidInput(f"{field}.count must be from 1 to {MOST_CADENCES}, not {count}", field=f"{field}.count")
    start = BEGINNING if starts_at is None else parse_boundary(starts_at, field=f"{field}.startsAt")
    anchor = start if anchor_at is None else parse_boundary(anchor_at, field=f"{field}.anchorAt")
    # The literal was checked above; mypy cannot see that a member of get_args is one.
    return BillingPhase(starts_at=start, cadence=cadence, cadence_count=count, anchor_at=anchor)  # type: ignore[arg-type]


def parse_boundary(at: datetime, *, field: str) -> datetime:
    """An instant segments can begin at, in UTC.

    Raises:
        InvalidInput: it has no zone, lies outside the years 1 to 9999, or has a fraction of a second.
    """
    if at.tzinfo is None:
        raise InvalidInput(f"{field} needs a time zone, like 2026-01-31T12:00:00Z", field=field)
    try:
        boundary = at.astimezone(UTC)
    except OverflowError as error:
        raise InvalidInput(f"{field} is outside the years 0001 to 9999 in UTC", field=field) from error
    if boundary.microsecond:
        # Source: Stripe API 2026-10-28, SubscriptionItem.current_period_start: seconds since the epoch.
        raise InvalidInput(f"{field} must be a whole second: Stripe knows no finer boundary", field=field)
    return boundary


def _around(phase: BillingPhase, at: datetime) -> tuple[datetime, datetime]:
    """The boundaries `[start, end)` around an instant, as if the phase held for ever."""
    anchor = phase.anchor_at.astimezone(UTC)
    days = _DAYS.get(phase.cadence)
    if days is not None:
        step = timedelta(days=phase.cadence_count * days)
        start = (at - anchor) // step * step
        return _moved(anchor, start), _moved(anchor, start + step)
    months = phase.cadence_count * _MONTHS[phase.cadence]
    passed = (_month_number(at) - _month_number(anchor)) // months * months
    if _months_later(anchor, passed) > at:  # later in the instant's own month
        passed -= months
    return _months_later(anchor, passed), _months_later(anchor, passed + months)


def _moved(anchor: datetime, by: timedelta) -> datetime:
    if by < BEGINNING - anchor:
        return BEGINNING
    return anchor + by if by < END - anchor else END


def _months_later(anchor: datetime, months: int) -> datetime:
    """The anchor's day and time that many months later, or the last day of a month that lacks the day."""
    year, month0 = divmod(_month_number(anchor) + months, 12)
    if year < BEGINNING.year:
        return BEGINNING
    if year > END.year:
        return END
    day = min(anchor.day, calendar.monthrange(year, month0 + 1)[1])
    return anchor.replace(year=year, month=month0 + 1, day=day)


def _month_number(at: datetime) -> int:
    return at.year * 12 + at.month - 1
