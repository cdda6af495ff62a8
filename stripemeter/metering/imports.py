"""Imports: what the outbox must say so that it says what Stripe holds.

Belongs here: the pure rule from minutes to changes. Does not: reading Stripe (`pipeline.read_minutes`), writing the
outbox (`store.push_imports`).

A minute is at most one row's, for ever: also of the rows that a backup lacks. So a minute without a row that holds
something was such a row's, and a minute with a row tells what became of it. Who else writes to the meter cannot be told
from rows that were lost, except as far as approved corrections know of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from stripemeter.metering.days import day_bounds
from stripemeter.metering.deltas import MINUTE
from stripemeter.metering.segments import BillingPhase, segment_at

AT_STRIPE = ("accepted", "confirmed")
IN_FLIGHT = ("planned", "sending")

DayKey = tuple[datetime, date]
"""A segment's start and a UTC day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRow:
    """One row of the outbox, as far as its minute can say something about it."""

    id: UUID
    segment_start: datetime
    day: date
    stamped_at: datetime
    delta: Decimal
    state: str
    last_attempt_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What Stripe holds. `minutes`: of the days that were read, those not known to be as expected."""

    days: frozenset[date]
    minutes: Mapping[datetime, Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMinute:
    """Usage at Stripe that a row is made for."""

    segment_start: datetime
    stamped_at: datetime
    delta: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What makes the outbox say what Stripe holds.

    Args:
        found: minutes to make rows for, by time.
        arrived: rows in flight, or refused, that are there.
        absent: rows in flight that are not there: cancelled, so that their usage is planned anew.
        dropped: rows once acknowledged that are not there, on a day that holds something else: they wait for an
            operator, for what was found may be what was sent in their place.
        doubtful: rows in flight whose minute holds something else: they wait for an operator.
        unexplained: what minutes hold beside their rows: left to the reconciliation.
    """

    found: tuple[FoundMinute, ...]
    arrived: tuple[UUID, ...]
    absent: tuple[UUID, ...]
    dropped: tuple[UUID, ...]
    doubtful: tuple[UUID, ...]
    unexplained: Decimal


def expected_at(row: SentRow) -> Decimal:
    """What the row's minute holds if the outbox is right."""
    return row.delta if row.state in AT_STRIPE else Decimal(0)


def is_in_doubt(row: SentRow) -> bool:
    """Whether the row's minute is to be read whatever its day holds."""
    return row.state in (*IN_FLIGHT, "rejected")


def explain_minutes(
    rows: Sequence[SentRow],
    reading: Reading,
    corrections: Mapping[DayKey, Sequence[Decimal]],
    phases: Sequence[BillingPhase],
) -> Changes:
    """The changes that a reading of one Stripe meter and customer calls for.

    Args:
        rows: the outbox's.
        reading: what Stripe holds; days and minutes left out hold what is said of them.
        corrections: approved surpluses by segment and day: known to be at Stripe beside the rows.
        phases: what cuts the customer's time.
    """
    by_minute = {row.stamped_at: row for row in rows}
    arrived, absent, doubtful, missing = list[UUID](), list[UUID](), list[UUID](), list[SentRow]()
    free: dict[DayKey, dict[datetime, Decimal]] = {}
    beside: dict[DayKey, dict[datetime, Decimal]] = {}
    for minute, held in sorted(reading.minutes.items()):
        row = by_minute.get(minute)
        if row is None:
            key = segment_at(phases, minute).start, minute.date()
            free.setdefault(key, {})[minute] = held
        elif is_in_doubt(row) and held == row.delta:
            arrived.append(row.id)
        elif row.state in IN_FLIGHT:
            (doubtful if held else absent).append(row.id)
        elif row.state == "accepted" and not held:
            missing.append(row)
        else:
            beside.setdefault((row.segment_start, row.day), {})[minute] = held - expected_at(row)
    for key, surpluses in corrections.items():
        if key[1] not in reading.days:
            continue
        here = free.setdefault(key, {})
        left = _take_corrected(surpluses, here, beside.get(key, {}))
        if left:
            minute = max(here, default=None) or _free_minute(key, {*by_minute, *reading.minutes}, phases)
            here[minute] = here.get(minute, Decimal(0)) - left
    found = tuple(
        FoundMinute(segment_start=start, stamped_at=minute, delta=held)
        for (start, _), held_by_minute in free.items()
        for minute, held in held_by_minute.items()
        if held
    )
    days = {minute.stamped_at.date() for minute in found}
    return Changes(
        found=tuple(sorted(found, key=lambda one: one.stamped_at)),
        arrived=tuple(arrived),
        absent=tuple(absent),
        dropped=tuple(row.id for row in missing if row.day in days),
        doubtful=tuple(doubtful),
        unexplained=sum((held for held_by_minute in beside.values() for held in held_by_minute.values()), Decimal(0)),
    )


def _take_corrected(surpluses: Sequence[Decimal], *places: dict[datetime, Decimal]) -> Decimal:
    """Take out of the minutes what corrections know of: of one with just that much, else of the fullest; what is left.

    Something is left when their minutes were not read, as others made up for them.
    """
    total = Decimal(0)
    for surplus in surpluses:
        exact = next(((place, minute) for place in places for minute in place if place[minute] == surplus), None)
        if exact is not None:
            exact[0][exact[1]] = Decimal(0)
            continue
        total += surplus
    fullest = [(held, minute, place) for place in places for minute, held in place.items() if held > 0]
    for held, minute, place in sorted(fullest, key=lambda one: (-one[0], one[1])):
        part = min(total, held)
        place[minute] = held - part
        total -= part
    return total


def _free_minute(key: DayKey, taken: Collection[datetime], phases: Sequence[BillingPhase]) -> datetime:
    """The last minute of the day in the segment that nothing is known of."""
    start, end = day_bounds(key[1])
    minute = end - MINUTE
    while minute > start and (minute in taken or segment_at(phases, minute).start != key[0]):
        minute -= MINUTE
    return minute
