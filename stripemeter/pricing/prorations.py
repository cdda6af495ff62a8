"""Prorations: the part of a fixed amount that a part of its period costs.

Belongs here: time of time. Does not: usage, which is never prorated, and its rounding: prorations are rounded down,
credits of unused time included (`rounding.floor_proration`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stripemeter.errors import InvalidInput
from stripemeter.pricing.rounding import floor_proration

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proration:
    """`amount_minor` is `full_minor * part / whole`, rounded down; `part` and `whole` are microseconds."""

    full_minor: int
    part: int
    whole: int
    amount_minor: int


def prorate(
    full_minor: int, *, period_start: datetime, period_end: datetime, used_from: datetime, used_until: datetime
) -> Proration:
    """The part of `full_minor`, the price of a whole period, that a part of the period costs.

    Args:
        full_minor: minor units; negative for credit of unused time.
        period_start: aware UTC, inclusive.
        period_end: aware UTC, exclusive, after the start.
        used_from: within the period, inclusive.
        used_until: within the period, exclusive; the same as `used_from` costs 0.

    Raises:
        InvalidInput: the period is empty, or the part is not within it.
    """
    instants = {
        "period_start": period_start,
        "period_end": period_end,
        "used_from": used_from,
        "used_until": used_until,
    }
    for name, instant in instants.items():
        if instant.tzinfo is not UTC:
            raise InvalidInput(f"{name}: must be a datetime in UTC", field=name)
    if period_start >= period_end:
        raise InvalidInput("period_end: must be after period_start: nothing is a part of no time", field="period_end")
    if not period_start <= used_from <= used_until <= period_end:
        raise InvalidInput("used_from: the part must be within the period, its start before its end", field="used_from")
    part, whole = (used_until - used_from) // _TICK, (period_end - period_start) // _TICK
    return Proration(
        full_minor=full_minor, part=part, whole=whole, amount_minor=floor_proration(full_minor * part, whole)
    )
