"""Folding: add what is newly committed to the counters, exactly once.

Belongs here: the window, the locks, the order of things in the one transaction. Does not: aggregation
(`metering.aggregation`), SQL, when to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl
from psycopg_pool import ConnectionPool

from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.days import LATENESS_WINDOW
from stripemeter.store import counter_days, counters, ledger
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.scan import open_scanner


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedDay:
    """What one fold did to one UTC day."""

    day: date
    events: int
    late_events: int
    counters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldReport:
    """What one fold did. `has_more` says that committed events were left for the next."""

    events: int
    days: tuple[FoldedDay, ...]
    has_more: bool


NOTHING = FoldReport(events=0, days=(), has_more=False)


def fold(pool: ConnectionPool, *, max_events: int = 200_000) -> FoldReport:
    """Add about `max_events` committed, unfolded events to the counters; commits before it returns.

    The cursor moves in the transaction that writes the counters: whoever crashes when, an event is folded once.
    Concurrent folds wait for each other on the cursor's row.

    Raises:
        Unavailable: Postgres does not answer; nothing changed.
        InvariantBroken: the database was restored into another cluster.
    """
    with transaction(pool) as tx:
        if not _has_work(tx):
            return NOTHING
        cursor = ledger.lock_cursor(tx)
        cut, _ = ledger.load_cut(tx)
        if cut <= cursor.folded_below:  # another fold was quicker
            return NOTHING
        upper = ledger.bound_window(tx, lower=cursor.folded_below, upper=cut, max_events=max_events)
        with open_scanner(pool) as scanner:
            events = scanner.scan_window(lower=cursor.folded_below, upper=upper)
        days = _write(tx, events)
        ledger.advance_cursor(tx, upper)
        return FoldReport(
            events=events.height,
            days=days,
            has_more=upper < cut and ledger.has_events(tx, lower=upper, upper=cut),
        )


def _has_work(tx: Tx) -> bool:
    """Asked without locking: an idle tick writes nothing."""
    cut, _ = ledger.load_cut(tx)
    return ledger.has_events(tx, lower=ledger.load_cursor(tx), upper=cut)


def _write(tx: Tx, events: pl.DataFrame) -> tuple[FoldedDay, ...]:
    states = aggregate(events)
    days = _summarize(events, states)
    counters.lock_days(tx, [day.day for day in days])
    counters.merge_counters(tx, states)
    counter_days.touch_days(tx, {day.day: day.late_events > 0 for day in days})
    return days


def _summarize(events: pl.DataFrame, states: pl.DataFrame) -> tuple[FoldedDay, ...]:
    late = pl.col("received_at") - (pl.col("ts").dt.truncate("1d") + pl.duration(days=1)) > LATENESS_WINDOW
    per_day = events.group_by(pl.col("ts").dt.date().alias("day")).agg(events=pl.len(), late=late.sum())
    touched = states.group_by("day").agg(counters=pl.len())
    return tuple(
        FoldedDay(day=row["day"], events=row["events"], late_events=row["late"], counters=row["counters"])
        for row in per_day.join(touched, on="day").sort("day").iter_rows(named=True)
    )
