"""Counting a day from the ledger in as many shares as memory asks for.

Belongs here: how many shares, putting together what they make. Does not: reading (`store.scan`), counting
(`metering.aggregation`), locks, writing.

Each share holds all events of its customers, so no counter is in two of them and nothing has to be merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

from stripemeter.metering.aggregation import Counted, aggregate
from stripemeter.metering.days import month_start
from stripemeter.metering.frames import COUNTER_ITEMS, COUNTERS, GROUP
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.store.counters import lock_days
from stripemeter.store.dropped_months import load_day, load_dropped_month
from stripemeter.store.postgres import Tx
from stripemeter.store.scan import LedgerScanner

SHARE_EVENTS = 1_000_000
"""About how many events are in memory at once: 0.75 KiB each at the peak, measured, so less than a gibibyte. A customer
with more of them on a day is not taken apart. Every share reads the day's part of the table anew: a few seconds for ten
million rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedDay:
    """What a day's folded events make, and how many they are."""

    events: int
    counted: Counted


def count_day(
    tx: Tx, scanner: LedgerScanner, day: date, rulebook: Rulebook, *, below: int, expected: int, absorbed: int = 0
) -> CountedDay:
    """Count the events of a day with xid below the fold's cursor. The day must be locked.

    Args:
        tx: the transaction that holds the lock.
        scanner: reads the ledger.
        day: the day.
        rulebook: the rules of every tenant.
        below: the fold's cursor.
        expected: about how many events the day has; the counters know. Says how many shares to count it in.
        absorbed: how many late adjustments `tx` has absorbed, which the scanner's own transaction still calls late.

    Raises:
        InvariantBroken: the day was dropped and the lake does not have it.
        Unavailable: Postgres or the lake does not answer.
    """
    shares = -(-expected // SHARE_EVENTS)
    if shares <= 1 or load_dropped_month(tx, month_start(day)) is not None:  # an archived day is one file
        return _count(load_day(tx, scanner, day, below=below), rulebook, absorbed)
    parts: list[CountedDay] = []
    for events in scanner.scan_day_shares(day, below=below, shares=shares):
        parts.append(_count(events, rulebook, absorbed))
        lock_days(tx, [day])  # held already: a transaction that says nothing for a minute is ended
    counted = pl.concat([part.counted.counters for part in parts]).sort(GROUP)
    items = pl.concat([part.counted.items for part in parts]).sort(*GROUP, "item")
    return CountedDay(
        events=sum(part.events for part in parts),
        # Unique by their keys: an alias that changed under us would be in two shares, and must not be written.
        counted=Counted(counters=COUNTERS.validate(counted), items=COUNTER_ITEMS.validate(items)),
    )


def _count(events: pl.DataFrame, rulebook: Rulebook, absorbed: int) -> CountedDay:
    if absorbed:
        events = events.with_columns(is_late=pl.lit(value=False))
    return CountedDay(events=events.height, counted=aggregate(read_meters(events, rulebook)))
