"""Windows: stretches of time as a wall clock in some place shows them.

Belongs here: cutting `[start, end)` at the minutes, hours, days, weeks and months of an IANA time zone. Does not: what
happened in a window, clocks, the UTC days of counters (`days`).

A window is a stretch of absolute time, so windows never overlap and leave no gap, whatever a clock does: each begins
where the one before it ends. A day begins when its date first shows on the clock; where daylight saving skips midnight
that is after midnight, and a date a place skipped altogether has no window. An hour (or minute) ends when the clock's
hour (or minute) changes or the clock is put forward or back: the hour an autumn night repeats is two windows.
"""

from __future__ import annotations

import functools
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import next_month

Window = Literal["minute", "hour", "day", "week", "month"]
EARLIEST = datetime(2, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
"""What can be cut: a year short of Python's calendar, so that no local time and no next month lies outside it."""

_TICK = timedelta(microseconds=1)
_MIDNIGHT = time()
_SPANS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1)}
_LONGEST = {**_SPANS, "day": timedelta(days=2), "week": timedelta(days=8), "month": timedelta(days=32)}
"""No window is longer: tells a range that is far too long before it is cut."""


def parse_time_zone(name: str, *, field: str = "timeZone") -> ZoneInfo:
    """The IANA time zone of that name, spelt as there.

    Raises:
        InvalidInput: there is none.
    """
    if name not in _zone_names():
        raise InvalidInput(f"{field} must be an IANA time zone like Europe/Berlin, not {name!r}", field=field)
    return ZoneInfo(name)


def window_edges(start: datetime, end: datetime, *, window: Window, zone: ZoneInfo, most: int) -> list[datetime]:
    """The instants (UTC, ascending) that cut `[start, end)`: window `i` is `[edges[i], edges[i + 1])`.

    The first edge is `start` and the last is `end`, so the first and the last window may be cut short.

    Args:
        start: first instant, aware.
        end: first instant no longer asked for, aware.
        window: how long a window is on the zone's clock; weeks begin on Monday.
        zone: whose clock.
        most: windows allowed.

    Raises:
        InvalidInput: `end` is not after `start`, either lies outside `[EARLIEST, LATEST]`, or there are too many
            windows.
    """
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    for field, at in (("from", start), ("to", end)):
        if not EARLIEST <= at <= LATEST:
            raise InvalidInput(f"{field} must lie between {EARLIEST:%Y-%m-%d} and {LATEST:%Y-%m-%d}", field=field)
    if end <= start:
        raise InvalidInput("to must be after from", field="to")
    too_many = InvalidInput(
        f"the range holds more than {most} windows of a {window}: ask for a shorter range or longer windows", field="to"
    )
    if (end - start) // _LONGEST[window] > most:
        raise too_many
    edges = [start]
    for edge in _edges_after(start, window, zone):
        if edge >= end:
            break
        edges.append(edge)
        if len(edges) > most:
            raise too_many
    return [*edges, end]


def _edges_after(start: datetime, window: Window, zone: ZoneInfo) -> Iterator[datetime]:
    match window:
        case "minute" | "hour":
            return _clock_edges(start, _SPANS[window], zone)
        case "day" | "week" | "month":
            return _calendar_edges(start, window, zone)


def _clock_edges(start: datetime, span: timedelta, zone: ZoneInfo) -> Iterator[datetime]:
    at = start
    while True:
        local = at.astimezone(zone)
        passed = timedelta(
            minutes=local.minute if span == _SPANS["hour"] else 0, seconds=local.second, microseconds=local.microsecond
        )
        following = at + span - passed
        if _offset(following, zone) != _offset(at, zone):
            following = _clock_change(at, following, zone)
        yield following
        at = following


def _calendar_edges(start: datetime, window: Literal["day", "week", "month"], zone: ZoneInfo) -> Iterator[datetime]:
    local_on = start.astimezone(zone).date()
    reached = start
    while True:
        local_on = _next_start(local_on, window)
        edge = _day_start(local_on, zone)
        # Not after it: a date the place skipped, or a date that shows again when the clock goes back over midnight.
        if edge > reached:
            yield edge
            reached = edge


def _next_start(day: date, window: Literal["day", "week", "month"]) -> date:
    match window:
        case "day":
            return day + timedelta(days=1)
        case "week":
            return day + timedelta(days=7 - day.weekday())
        case "month":
            return next_month(day)


def _day_start(day: date, zone: ZoneInfo) -> datetime:
    """When the date first shows on the clock, or would have."""
    start = datetime.combine(day, _MIDNIGHT, zone).astimezone(UTC)
    # A clock that skips midnight reads later here by what it skipped: the date began with the change before.
    skipped = start.astimezone(zone).replace(tzinfo=None) - datetime.combine(day, _MIDNIGHT)
    return _clock_change(start - skipped, start, zone) if skipped else start


def _clock_change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first instant in `(before, after]` whose offset is not that of `before`; they differ at the ends."""
    offset = _offset(before, zone)
    while after - before > _TICK:
        middle = before + (after - before) // 2
        if _offset(middle, zone) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset(at: datetime, zone: ZoneInfo) -> timedelta | None:
    return at.astimezone(zone).utcoffset()


@functools.cache
def _zone_names() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
