"""Billing periods: where one ends and the next begins.

Belongs here: anchors, intervals, the clamping of month ends; all UTC, all whole seconds. Does not: what happens there.
Rule P13 of `RULES.md`: Jan 31 -> Feb 28 or 29 -> Mar 31, always counted from the anchor, never from the last period.
"""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

from stripe_emulator.wire import Json

_SECONDS = {"day": 86_400, "week": 7 * 86_400}
_MONTHS = {"month": 1, "year": 12}


def boundary(anchor: int, recurring: Json, number: int, *, day: int | None = None) -> int:
    """The boundary `number` intervals after the anchor (before it when negative).

    Args:
        anchor: the billing cycle anchor.
        recurring: `interval` and `interval_count`.
        number: how many intervals.
        day: the day of the month that is meant, when the anchor itself had to be clamped.
    """
    steps: int = number * recurring["interval_count"]
    if recurring["interval"] in _SECONDS:
        return anchor + steps * _SECONDS[recurring["interval"]]
    start = datetime.fromtimestamp(anchor, UTC)
    months = start.year * 12 + start.month - 1 + steps * _MONTHS[recurring["interval"]]
    return _on_day(start, months // 12, months % 12 + 1, day or start.day)


def period_around(anchor: int, recurring: Json, instant: int, *, day: int | None = None) -> tuple[int, int]:
    """`[start, end)` of the period an instant lies in."""
    number = 0
    if recurring["interval"] in _SECONDS:
        number = (instant - anchor) // (_SECONDS[recurring["interval"]] * recurring["interval_count"])
    while boundary(anchor, recurring, number, day=day) > instant:
        number -= 1
    while boundary(anchor, recurring, number + 1, day=day) <= instant:
        number += 1
    return boundary(anchor, recurring, number, day=day), boundary(anchor, recurring, number + 1, day=day)


def next_anchor(config: Json, now: int) -> int:
    """The first instant after `now` that fits a `billing_cycle_anchor_config`; what it leaves out is as of `now`."""
    start = datetime.fromtimestamp(now, UTC)
    moment = start.replace(
        day=1,
        hour=_given(config, "hour", start.hour),
        minute=_given(config, "minute", start.minute),
        second=_given(config, "second", start.second),
    )
    months = start.year * 12 + start.month - 1
    while True:
        found = _on_day(moment, months // 12, months % 12 + 1, config["day_of_month"])
        if found > now and config.get("month") in (None, months % 12 + 1):
            return found
        months += 1


def _given(config: Json, name: str, otherwise: int) -> int:
    given: int | None = config.get(name)
    return otherwise if given is None else given


def _on_day(moment: datetime, year: int, month: int, day: int) -> int:
    last = calendar.monthrange(year, month)[1]
    return int(moment.replace(year=year, month=month, day=min(day, last)).timestamp())
