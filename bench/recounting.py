"""late and recount: what late events cost, and how near a recount comes to only reading.

Belongs here: these two benches on the big ledger; reading and recounting its days, which others compare with. Does
not: filling it (`ledger`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import date

import polars as pl
import psycopg
from adbc_driver_postgresql import dbapi
from psycopg_pool import ConnectionPool

from bench.context import Context, say
from bench.ledger import LAST_DAY, MONTH, add_late, fold_exactly, fold_rest
from bench.measure import Row, Series, at_least, at_most, seconds_of, series
from stripemeter.errors import Unavailable
from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.days import day_bounds, days_between
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.pipeline.recount_days import FailedDay, recount_days
from stripemeter.store import ledger
from stripemeter.store.postgres import database_url_of, open_pool, transaction
from stripemeter.store.scan import open_scanner
from stripemeter.store.sql import load_queries

_DAYS = days_between(*MONTH)


def late(context: Context) -> list[Row]:
    """Fold late events that touch some counters of a month, against recounting that month."""
    scale = context.scale
    url = context.ledger()
    folds: list[float] = []
    months: list[float] = []
    with open_pool(url) as pool:
        settle(pool, _DAYS)
        for _ in range(scale.slow_rounds):
            add_late(url, events=scale.late_events, counters=scale.late_counters)
            folds.append(seconds_of(lambda: fold_exactly(pool, scale.late_events)))
            settle(pool, _DAYS)
            months.append(seconds_of(lambda: recount_all(pool, _DAYS)))
            say(f"late: fold {folds[-1] * 1000:.0f} ms, month {months[-1]:.2f} s")
    return [
        Row(
            bench="late",
            what=f"fold {scale.late_events:,} late events touching {scale.late_counters:,} counters of a month",
            unit="s",
            system=series(folds),
            limit=series(months),
            limit_name=f"recount of their month, {len(_DAYS)} days, in a ledger of {scale.ledger_rows:,}",
            budget=at_most(1 / 50),
            note="totals are right after the fold: each late event is judged, adjusted and counted in the late lane; "
            "the limit is a recount that finds nothing to change",
        )
    ]


def recount(context: Context) -> list[Row]:
    """Recount a whole month day by day, against only reading the same rows over ADBC."""
    scale = context.scale
    url = context.ledger()
    with open_pool(url) as pool:
        settle(pool, _DAYS)
        events, groups = sizes(url, _DAYS)
        reads: list[float] = []
        recounts: list[float] = []
        parts: list[dict[str, float]] = []
        for _ in range(scale.slow_rounds):
            reads.append(seconds_of(lambda: read_all(pool, _DAYS)))
            recounts.append(seconds_of(lambda: recount_all(pool, _DAYS)))
            parts.append(_parts(pool))
            say(f"recount: read {events / reads[-1]:,.0f}/s, recount {events / recounts[-1]:,.0f}/s")
    explained = {name: series([part[name] for part in parts]) for name in parts[0]}
    return [
        Row(
            bench="recount",
            what=f"recount of a month from Postgres: {events:,} events, {groups:,} counters, {len(_DAYS)} days",
            unit="events/s",
            system=series([events / seconds for seconds in recounts]),
            limit=series([events / seconds for seconds in reads]),
            limit_name="reading the same rows over ADBC, nothing else",
            budget=at_least(0.7),
        ),
        *[_part(name, seconds) for name, seconds in explained.items()],
    ]


def settle(pool: ConnectionPool, days: Sequence[date]) -> None:
    """Fold what is left, and absorb what was late: the next recount of the days finds nothing to change."""
    fold_rest(pool)
    for recounted in recount_days(pool, days):
        if isinstance(recounted, FailedDay):
            raise Unavailable(f"not recounted: {recounted}")


def recount_all(pool: ConnectionPool, days: Sequence[date]) -> None:
    """Recount settled days: nothing may change."""
    for recounted in recount_days(pool, days):
        if isinstance(recounted, FailedDay) or recounted.changed:
            raise AssertionError(f"not what the fold left: {recounted}")


def read_all(pool: ConnectionPool, days: Sequence[date]) -> None:
    """Read what a recount of the days reads, as it does, and nothing else."""
    below = str(_cursor(pool))
    query = load_queries("scan")["scan_day"]
    with closing(dbapi.connect(database_url_of(pool))) as connection, closing(connection.cursor()) as cursor:
        for day in days:
            cursor.execute(query, (*day_bounds(day), below, day, 1, 0))
            pl.DataFrame(cursor.fetch_arrow())


def sizes(url: str, days: Sequence[date]) -> tuple[int, int]:
    """How many counted events and how many counters the days have."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select sum(event_count)::bigint, count(*) from counters where day between %s and %s", (days[0], days[-1])
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _part(name: str, seconds: Series) -> Row:
    return Row(bench="recount", what=f"one day's share: {name}", unit="ms", system=seconds)


def _parts(pool: ConnectionPool) -> dict[str, float]:
    """Where one day's recount goes, in milliseconds, each part measured alone."""
    below = _cursor(pool)
    read = seconds_of(lambda: read_all(pool, [LAST_DAY]))
    with open_scanner(pool) as scanner:
        scanner.scan_day(LAST_DAY, below=below)  # the first read connects; a recount of many days does that once
        scan = seconds_of(lambda: scanner.scan_day(LAST_DAY, below=below))
        events = scanner.scan_day(LAST_DAY, below=below)
    aggregated = seconds_of(lambda: aggregate(read_meters(events, Rulebook())))
    whole = seconds_of(lambda: recount_all(pool, [LAST_DAY]))
    return {
        "connect and read (ADBC)": read * 1000,
        "to decimals, validate": max(0.0, scan - read) * 1000,
        "aggregate": aggregated * 1000,
        "stage and compare with stored": max(0.0, whole - scan - aggregated) * 1000,
    }


def _cursor(pool: ConnectionPool) -> int:
    with transaction(pool) as tx:
        return ledger.load_cursor(tx)
