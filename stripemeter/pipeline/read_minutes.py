"""Reading minutes: where Stripe holds something else than the outbox says, to the minute.

Belongs here: which summaries are asked for. Does not: what a difference means (`metering.imports`).

Days first, in one request; only of a day that differs its hours; of an hour that differs its halves, down to the
minute, for Stripe knows no finer grain. A part whose sum is right is not read any further, whatever it is made of: sums
are what is pushed and billed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from operator import attrgetter

from stripemeter.billing.sink import BillingSink
from stripemeter.metering.days import day_bounds, days_between
from stripemeter.metering.deltas import MINUTE
from stripemeter.metering.imports import DayKey, Reading, SentRow, expected_at, is_in_doubt
from stripemeter.store.push_entries import PushTarget

HOUR = timedelta(hours=1)
_STAMPED_AT = attrgetter("stamped_at")


def read_differences(
    sink: BillingSink,
    target: PushTarget,
    rows: Sequence[SentRow],
    corrections: Mapping[DayKey, Sequence[Decimal]],
    *,
    first: date,
    last: date,
) -> Reading:
    """What Stripe holds in each minute that differs from the rows or has one in doubt.

    Args:
        sink: the account.
        target: whose usage.
        rows: the outbox's of these days, by their minutes.
        corrections: what is known to be at Stripe beside them.
        first: the first day.
        last: the last day.

    Raises:
        StripeRejected, Unavailable, OutcomeUnknown: Stripe could not be read.
    """
    daily = sink.read_daily_quantities(
        stripe_meter_id=target.stripe_meter_id, stripe_customer_id=target.stripe_customer_id, first=first, last=last
    )
    corrected: dict[date, Decimal] = {}
    for (_, day), surpluses in corrections.items():
        corrected[day] = corrected.get(day, Decimal(0)) + sum(surpluses)
    reader = _Reader(sink=sink, target=target, rows=rows)
    found: dict[datetime, Decimal] = {}
    read: set[date] = set()
    for day in days_between(first, last):
        start, end = day_bounds(day)
        held = daily.get(day, Decimal(0))
        if reader.is_as_expected(start, end, held - corrected.get(day, Decimal(0))):
            continue
        read.add(day)
        hours = sink.read_hourly_quantities(
            stripe_meter_id=target.stripe_meter_id, stripe_customer_id=target.stripe_customer_id, day=day
        )
        for hour in range(24):
            begin = start + hour * HOUR
            reader.read(begin, begin + HOUR, hours.get(begin, Decimal(0)), found)
    return Reading(days=frozenset(read), minutes=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    sink: BillingSink
    target: PushTarget
    rows: Sequence[SentRow]

    def is_as_expected(self, start: datetime, end: datetime, held: Decimal) -> bool:
        """Whether `[start, end)` holds what its rows say, and none of them is in doubt."""
        begin, until = (bisect_left(self.rows, at, key=_STAMPED_AT) for at in (start, end))
        inside = self.rows[begin:until]
        expected = sum((expected_at(row) for row in inside), Decimal(0))
        return held == expected and not any(is_in_doubt(row) for row in inside)

    def read(self, start: datetime, end: datetime, held: Decimal, found: dict[datetime, Decimal]) -> None:
        """Put the minutes of `[start, end)` that are not as expected into `found`; it holds `held`."""
        if self.is_as_expected(start, end, held):
            return
        if end - start == MINUTE:
            found[start] = held
            return
        middle = start + (end - start) // MINUTE // 2 * MINUTE
        left = self.sink.read_quantity(
            stripe_meter_id=self.target.stripe_meter_id,
            stripe_customer_id=self.target.stripe_customer_id,
            start=start,
            end=middle,
        )
        self.read(start, middle, left, found)
        self.read(middle, end, held - left, found)
