"""Ledgers of a size: rows written by SQL in batches as the receiver writes them, then folded.

Belongs here: filling `events` and `event_keys` fast, with realistic transactions, order and weights. Does not:
measuring.

Ten million events through HTTP would take minutes for no gain. The fill writes the same two tables in transactions of
2 000 rows sorted by key hash (as `accept_events` does under load), in order of event time, customers by a power law.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import psycopg

from stripemeter.metering.days import days_between
from stripemeter.pipeline.fold import fold
from stripemeter.store.postgres import open_pool

TENANT = "bench"
METRICS = ("api_calls", "storage_gb", "seats")
FIRST_DAY = date(2026, 8, 1)
LAST_DAY = date(2026, 10, 31)
MONTH = (date(2026, 10, 1), LAST_DAY)
"""The month that is recounted and read: the last third of the ledger."""
BATCH = 2_000

_FILL = (Path(__file__).parent / "sql" / "fill.sql").read_text(encoding="utf-8")


def build_ledger(url: str, *, rows: int, customers: int) -> None:
    """Fill an empty migrated database with `rows` events over three months, fold them all, vacuum."""
    fill(url, rows=rows, customers=customers, first=FIRST_DAY, days=len(days_between(FIRST_DAY, LAST_DAY)))
    with open_pool(url) as pool:
        while fold(pool).has_more:
            pass
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum (analyze) events, event_keys, counters")
        connection.execute("checkpoint")


def fill(url: str, *, rows: int, customers: int, first: date, days: int, is_order_random: bool = False) -> None:
    """Add `rows` events of `days` days from `first` to the ledger, in time order unless told otherwise; no fold."""
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        connection.execute(_FILL)
        for month in sorted({day.replace(day=1) for day in _days(first, days)}):
            connection.execute("select ensure_events_month(%s)", (month,))
        connection.execute(
            "call bench_fill(%s, %s, %s, make_interval(days => %s), %s, %s)",
            (rows, BATCH, start, days, customers, is_order_random),
        )


def add_late(url: str, *, events: int, counters: int) -> None:
    """Commit `events` new events that touch `counters` existing counters of MONTH, evenly; no fold."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_FILL)
        connection.execute("call bench_add_late(%s, %s, %s, %s)", (events, counters, *MONTH))


def _days(first: date, days: int) -> list[date]:
    return [date.fromordinal(first.toordinal() + offset) for offset in range(days)]
