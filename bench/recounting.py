"""late and recount: what late events cost, and how near a recount comes to only reading.

Belongs here: these two benches on the big ledger. Does not: filling it (`ledger`).
"""

from __future__ import annotations

from contextlib import closing
from datetime import date

import polars as pl
import psycopg
from adbc_driver_postgresql import dbapi
from psycopg_pool import ConnectionPool

from bench.context import Context, say
from bench.ledger import LAST_DAY, MONTH, add_late
from bench.measure import Row, Series, at_least, at_most, seconds_of, series
from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.days import day_bounds, days_between
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.pipeline.fold import fold
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
        fold(pool)
        for _ in range(scale.slow_rounds):
            add_late(url, events=scale.late_events, counters=scale.late_counters)
            folds.append(seconds_of(lambda: _fold_all(pool, scale.late_events)))
            months.append(seconds_of(lambda: _recount(pool, _DAYS)))
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
            note="totals are right after the fold; the recount of touched days that follows only proves it",
        )
    ]


def recount(context: Context) -> list[Row]:
    """Recount a whole month day by day, against only reading the same rows over ADBC."""
    scale = context.scale
    url = context.ledger()
    with open_pool(url) as pool:
        while fold(pool).has_more:
            pass
        events, groups = _sizes(url)
        _recount(pool, _DAYS[:3])
        reads: list[float] = []
        recounts: list[float] = []
        parts: list[dict[str, float]] = []
        for _ in range(scale.slow_rounds):
            reads.append(seconds_of(lambda: _read(pool, _DAYS)))
            recounts.append(seconds_of(lambda: _recount(pool, _DAYS)))
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


def _part(name: str, seconds: Series) -> Row:
    return Row(bench="recount", what=f"one day's share: {name}", unit="ms", system=seconds)


def _parts(pool: ConnectionPool) -> dict[str, float]:
    """Where one day's recount goes, in milliseconds, each part measured alone."""
    below = _cursor(pool)
    read = seconds_of(lambda: _read(pool, [LAST_DAY]))
    with open_scanner(pool) as scanner:
        scanner.scan_day(LAST_DAY, below=below)  # the first read connects; a recount of many days does that once
        scan = seconds_of(lambda: scanner.scan_day(LAST_DAY, below=below))
        events = scanner.scan_day(LAST_DAY, below=below)
    aggregated = seconds_of(lambda: aggregate(read_meters(events, Rulebook())))
    whole = seconds_of(lambda: _recount(pool, [LAST_DAY]))
    return {
        "connect and read (ADBC)": read * 1000,
        "to decimals, validate": max(0.0, scan - read) * 1000,
        "aggregate": aggregated * 1000,
        "stage and compare with stored": max(0.0, whole - scan - aggregated) * 1000,
    }


def _read(pool: ConnectionPool, days: list[date]) -> None:
    below = str(_cursor(pool))
    query = load_queries("scan")["scan_day"]
    with closing(dbapi.connect(database_url_of(pool))) as connection, closing(connection.cursor()) as cursor:
        for day in days:
            cursor.execute(query, (*day_bounds(day), below, day))
            pl.DataFrame(cursor.fetch_arrow())


def _recount(pool: ConnectionPool, days: list[date]) -> None:
    for recounted in recount_days(pool, days):
        if isinstance(recounted, FailedDay) or recounted.changed:
            raise AssertionError(f"not what the fold left: {recounted}")


def _fold_all(pool: ConnectionPool, expected: int) -> None:
    report = fold(pool)
    if report.events != expected or report.has_more:
        raise AssertionError(f"one fold took {report.events} of {expected} events")


def _cursor(pool: ConnectionPool) -> int:
    with transaction(pool) as tx:
        return ledger.load_cursor(tx)


def _sizes(url: str) -> tuple[int, int]:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select sum(event_count)::bigint, count(*) from counters where day between %s and %s", MONTH
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
