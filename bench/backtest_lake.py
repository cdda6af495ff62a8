"""A year of usage in a lake, written as the archive writes it but without a ledger: for the bench of backtests.

Belongs here: the events, their files and the manifest. Does not: measuring (`backtest`).

Each day's events are made here, counted by the product's own counting and written by `stage_day` and `publish_day`, so
the files have the archive's schema, order, compression and hashes; the manifest is the archive's own row.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time

import polars as pl
from psycopg_pool import ConnectionPool

from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.days import days_between, next_month
from stripemeter.metering.frames import ARCHIVED_EVENTS
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.store import archived_days
from stripemeter.store.dropped_months import counting
from stripemeter.store.lake import LocalLake, publish_day, stage_day
from stripemeter.store.postgres import transaction

TENANT = "bench"
FIRST = date(2025, 1, 1)
METRICS = ("calls", "jobs", "gigabytes")
_MICROSECONDS = 24 * 60 * 60 * 10**6


def last_month(months: int) -> date:
    """The first day of the last of so many months from FIRST."""
    month = FIRST
    for _ in range(months - 1):
        month = next_month(month)
    return month


def write_lake(pool: ConnectionPool, lake: LocalLake, *, events: int, customers: int, months: int) -> int:
    """Write so many events of so many customers over the months; returns how many counters they make.

    Customers are drawn by a power law, quantities are whole and up to 1 000; the same arguments make the same events.
    """
    days = days_between(FIRST, next_month(last_month(months)))[:-1]
    counters = 0
    for number, day in enumerate(days):
        first, beyond = events * number // len(days), events * (number + 1) // len(days)
        frame = _events(day, first, beyond - first, customers)
        counted = aggregate(read_meters(counting(frame), Rulebook()))
        with transaction(pool) as tx:
            archived = archived_days.replace_archived_day(
                tx,
                day,
                events=frame.height,
                counters=counted.counters.height,
                items=counted.items.height,
                files=stage_day(lake, day, events=frame, counted=counted, rulebook=Rulebook()),
                folded_below=1,
            )
            publish_day(lake, day, archived.files)
        counters += counted.counters.height
    return counters


def _events(day: date, first: int, count: int, customers: int) -> pl.DataFrame:
    """The day's events, shape ARCHIVED_EVENTS; numbers are drawn from the hash of the event's own number."""
    start = datetime.combine(day, time(), UTC)
    number = pl.int_range(first, first + count, dtype=pl.Int64)
    share = (number.hash(1) % 1_000_000).cast(pl.Float64) / 1_000_000
    customer = (share.pow(2) * customers).cast(pl.Int64)
    at = pl.lit(start) + pl.duration(microseconds=(number.hash(2) % _MICROSECONDS).cast(pl.Int64))
    kinds = {name: column.dtype.type for name, column in ARCHIVED_EVENTS.columns.items()}
    return pl.select(
        tenant_id=pl.repeat(TENANT, count),
        metric=pl.lit(pl.Series(METRICS)).gather(number.hash(3) % len(METRICS)),
        customer_ref=pl.format("customer-{}", customer),
        ts=at,
        seq=number + 1,
        quantity=(number.hash(4) % 1_000 + 1).cast(pl.Int64).cast(kinds["quantity"]),
        received_at=at,
        source=pl.lit("http"),
        idempotency_key=pl.format("key-{}", number),
        resource_id=pl.lit(None, pl.String),
        meta=pl.lit(None, pl.String),
        backfill_id=pl.lit(None, pl.String),
        state=pl.lit("counted"),
    ).cast(kinds)
