"""Days and segments: which interval an instant belongs to.

Belongs here: the UTC day and the default segment (the UTC month), as values. Does not: clocks, subscriptions' own
segments (they come from tables), calendars of other time zones.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from stripemeter.errors import InvalidInput

LATENESS_WINDOW = timedelta(hours=48)
"""How long after its day has ended an event is still punctual. Source: the original's LATE_EVENT_WINDOW_HOURS."""


def parse_day(text: str, *, field: str = "day") -> date:
    """The day written `YYYY-MM-DD`.

    Raises:
        InvalidInput: not such a date.
    """
    try:
        day = date.fromisoformat(text)
        if day.isoformat() != text:  # it also reads 20261123 and 2026-W47-1
            raise ValueError(text)
        return day
    except ValueError as error:
        raise InvalidInput(f"{field} must be a date like 2026-11-23, not {text!r}", field=field) from error


def day_of(ts: datetime) -> date:
    """The UTC day an aware instant lies in."""
    return ts.astimezone(UTC).date()


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """`[start, end)` of a UTC day."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def days_between(first: date, last: date) -> list[date]:
    """Every day from first to last, both included; empty when last < first."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


def month_start(day: date) -> date:
    """The first day of the day's month: also the start of its default segment."""
    return day.replace(day=1)


def next_month(day: date) -> date:
    """The first day of the month after the day's."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1)


def month_bounds(day: date) -> tuple[datetime, datetime]:
    """`[start, end)` of the UTC month a day lies in: the default segment."""
    return day_bounds(month_start(day))[0], day_bounds(next_month(day))[0]
