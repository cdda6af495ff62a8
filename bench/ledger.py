"""Ledgers of a shape: rows written by SQL in batches as the receiver writes them, then folded.

Belongs here: filling `events` and `event_keys` fast, with realistic transactions, order and weights; folding what was
filled. Does not: measuring.

Ten million events through HTTP would take minutes for no gain. The fill writes the same two tables in transactions of
2 000 rows sorted by key hash (as `accept_events` does under load), in order of event time, customers by a power law.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between
from stripemeter.pipeline.fold import FoldReport, fold
from stripemeter.store.postgres import open_pool

TENANT = "bench"
METRICS = ("api_calls", "storage_gb", "seats")
FIRST_DAY = date(2026, 8, 1)
LAST_DAY = date(2026, 10, 31)
ALL_DAYS = tuple(days_between(FIRST_DAY, LAST_DAY))
MONTH = (date(2026, 10, 1), LAST_DAY)
"""The month that is recounted and read: the last third of the ledger."""
HEAVY_DAY = date(2026, 9, 15)
BATCH = 2_000

_FILL = (Path(__file__).parent / "sql" / "fill.sql").read_text(encoding="utf-8")
_COUNT_LATE = """
insert into tenant_policies (tenant_id, late_approval, updated_at) values (%s, 'always', now())
on conflict (tenant_id) do nothing
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a ledger looks like.

    Args:
        rows: how many events it has in all.
        days: the UTC days they lie on.
        customers: how many customers they are of, by a power law.
        heavy_rows: how many of them lie on HEAVY_DAY; 0 for its even share.
    """

    rows: int
    days: tuple[date, ...]
    customers: int
    heavy_rows: int = 0

    @property
    def name(self) -> str:
        """A database's name for it."""
        parts = [f"ledger_{self.rows}"]
        if len(self.days) != len(ALL_DAYS):
            parts.append(f"{len(self.days)}_days")
        if self.heavy_rows:
            parts.append(f"heavy_{self.heavy_rows}")
        return "_".join(parts)


def build_ledger(url: str, shape: Shape) -> None:
    """Fill an empty migrated database in this shape, in order of event time; fold all; vacuum."""
    for rows, days in parts(shape):
        fill(url, rows=rows, customers=shape.customers, first=days[0], days=len(days))
    let_late_count(url)
    with open_pool(url) as pool:
        fold_rest(pool)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum (analyze) events, event_keys, counters")
        connection.execute("checkpoint")


def parts(shape: Shape) -> list[tuple[int, tuple[date, ...]]]:
    """How many events on which days, in order of time: out of order, the fold would find them late."""
    if not shape.heavy_rows:
        return [(shape.rows, shape.days)]
    before = tuple(day for day in shape.days if day < HEAVY_DAY)
    after = tuple(day for day in shape.days if day > HEAVY_DAY)
    even = shape.rows - shape.heavy_rows
    earlier = even * len(before) // (len(before) + len(after))
    return [(earlier, before), (shape.heavy_rows, (HEAVY_DAY,)), (even - earlier, after)]


def fill(url: str, *, rows: int, customers: int, first: date, days: int, is_order_random: bool = False) -> None:
    """Add `rows` events of `days` days from `first` to the ledger, in time order unless told otherwise; no fold."""
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        connection.execute(_FILL)
        for month in sorted({day.replace(day=1) for day in days_between(first, first + timedelta(days=days - 1))}):
            connection.execute("select ensure_events_month(%s)", (month,))
        connection.execute(
            "call bench_fill(%s, %s, %s, make_interval(days => %s), %s, %s)",
            (rows, BATCH, start, days, customers, is_order_random),
        )


def add_late(url: str, *, events: int, counters: int) -> None:
    """Commit `events` new events that touch `counters` existing counters of MONTH, evenly; no fold."""
    let_late_count(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_FILL)
        connection.execute("call bench_add_late(%s, %s, %s, %s)", (events, counters, *MONTH))


def let_late_count(url: str) -> None:
    """Late events count at once: by default those of closed months wait for a person, and would be left out."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_COUNT_LATE, (TENANT,))


def fold_exactly(pool: ConnectionPool, events: int) -> FoldReport:
    """One fold, which must take as many events and leave none."""
    report = fold(pool)
    if report.events != events or report.has_more:
        raise AssertionError(f"one fold took {report.events} of {events} events")
    return report


def fold_rest(pool: ConnectionPool) -> None:
    """Fold until nothing is left."""
    while fold(pool).has_more:
        pass
