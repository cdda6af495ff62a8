"""Folding: add what is newly committed to the counters, exactly once.

Belongs here: the window, the locks, the order of things in the one transaction. Does not: aggregation
(`metering.aggregation`), judging late events (`pipeline.judge_late`), SQL, when to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl
from psycopg_pool import ConnectionPool

from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.days import LATENESS_WINDOW
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.pipeline.judge_late import judge
from stripemeter.pipeline.recount import recount_slice
from stripemeter.store import counter_days, counters, ledger
from stripemeter.store.lateness import LateEvent, append_late_events
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
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


def fold(pool: ConnectionPool, *, max_events: int = 200_000, now: datetime | None = None) -> FoldReport:
    """Add about `max_events` committed, unfolded events to the counters; commits before it returns.

    The cursor moves in the transaction that writes the counters: whoever crashes when, an event is folded once.
    Concurrent folds wait for each other on the cursor's row. An event too far behind its watermark becomes an
    adjustment in the same transaction, and counts in the late lane as long as that is approved.

    Args:
        pool: the database.
        max_events: about how many.
        now: decides whether a late event's segment is open; the clock's when None.

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
        rulebook = load_rulebook(tx, events["tenant_id"].unique().to_list())
        late = judge(tx, events, rulebook, now=now or datetime.now(UTC))
        days = _write(tx, events, late, rulebook, upper)
        append_late_events(tx, late, lower=cursor.folded_below, upper=upper, now=now or datetime.now(UTC))
        return FoldReport(
            events=events.height,
            days=days,
            has_more=upper < cut and ledger.has_events(tx, lower=upper, upper=cut),
        )


def _has_work(tx: Tx) -> bool:
    """Asked without locking: an idle tick writes nothing."""
    cut, _ = ledger.load_cut(tx)
    return ledger.has_events(tx, lower=ledger.load_cursor(tx), upper=cut)


def _write(
    tx: Tx, events: pl.DataFrame, late: Sequence[LateEvent], rulebook: Rulebook, upper: int
) -> tuple[FoldedDay, ...]:
    counting = _counting(events, late)
    readings = read_meters(counting, rulebook)
    counted = aggregate(readings)
    days = _summarize(events, counted.counters, {event.seq for event in late})
    counters.lock_days(tx, [day.day for day in days])
    again = counters.merge_counters(tx, counted, _bounds(readings))
    counter_days.touch_days(tx, {day.day: day.late_events > 0 for day in days})
    ledger.advance_cursor(tx, upper)
    # After the cursor: a recount reads the ledger below it.
    for tenant, customer, day in sorted(again):
        recount_slice(tx, day, tenant_id=tenant, customer_refs=[customer])
    return days


def _counting(events: pl.DataFrame, late: Sequence[LateEvent]) -> pl.DataFrame:
    """The events that count now: those whose adjustment waits for approval are left out."""
    if not late:
        return events
    approved = [event.seq for event in late if event.status == "approved"]
    pending = [event.seq for event in late if event.status == "pending"]
    return events.filter(~pl.col("seq").is_in(pending)).with_columns(is_late=pl.col("seq").is_in(approved))


def _bounds(readings: pl.DataFrame) -> dict[tuple[str, str], int]:
    bounded = readings.filter(pl.col("max_groups") > 0).group_by("tenant_id", "meter").agg(pl.col("max_groups").min())
    return {(tenant, meter): bound for tenant, meter, bound in bounded.iter_rows()}


def _summarize(events: pl.DataFrame, states: pl.DataFrame, adjusted: set[int]) -> tuple[FoldedDay, ...]:
    is_late = pl.col("received_at") - (pl.col("ts").dt.truncate("1d") + pl.duration(days=1)) > LATENESS_WINDOW
    if adjusted:
        is_late |= pl.col("seq").is_in(list(adjusted))
    per_day = events.group_by(pl.col("ts").dt.date().alias("day")).agg(events=pl.len(), late=is_late.sum())
    touched = states.group_by("day").agg(counters=pl.len())
    return tuple(
        FoldedDay(day=row["day"], events=row["events"], late_events=row["late"], counters=row["counters"] or 0)
        for row in per_day.join(touched, on="day", how="left").sort("day").iter_rows(named=True)
    )
