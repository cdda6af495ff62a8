"""recount-lake: a recount beside DuckDB counting the same events of the lake, and a recount of the lake alone.

Belongs here: this bench, the lake of the big ledger. Does not: archiving (`pipeline.archive`).
"""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
from psycopg_pool import ConnectionPool

from bench.context import Context, say
from bench.ledger import LAST_DAY
from bench.measure import Row, at_least, at_most, interleave, seconds_of, series
from bench.recounting import read_all, recount_all, settle, sizes
from stripemeter.errors import Unavailable
from stripemeter.pipeline.archive import FailedArchive, archive_days, recount_from_lake, unarchived_days
from stripemeter.store.lake import PART, LocalLake, folder, open_lake
from stripemeter.store.postgres import open_pool

_COUNT = (Path(__file__).parent / "sql" / "count_lake.sql").read_text(encoding="utf-8")
_MOST_DAYS = 10_000


def recount_lake(context: Context) -> list[Row]:
    """Recount the whole ledger; what a query engine and the reading alone would take; recount its lake."""
    scale = context.scale
    url, days = context.ledger(), scale.ledger.days
    with open_pool(url) as pool:
        settle(pool, days)
        lake = _archive(pool, context.scratch / f"lake_{scale.ledger.name}")
        events, counters = sizes(url, days)
        if _count_by_duckdb(lake) != (events, counters):
            raise AssertionError(f"DuckDB does not find {events} events of {counters} counters in the lake")
        counted, read, recounted = interleave(
            scale.slow_rounds,
            lambda: seconds_of(lambda: _count_by_duckdb(lake)),
            lambda: seconds_of(lambda: read_all(pool, days)),
            lambda: seconds_of(lambda: recount_all(pool, days)),
        )
    say(f"recount-lake: DuckDB {counted[-1]:.1f} s, read {read[-1]:.1f} s, recount {recounted[-1]:.1f} s")
    rows = _decode(lake, context)
    decoded, from_lake = interleave(
        scale.slow_rounds,
        lambda: rows / seconds_of(lambda: _decode(lake, context)),
        lambda: rows / seconds_of(lambda: _recount_lake(lake, context, rows)),
    )
    what = f"{events:,} events, {counters:,} counters, {len(days)} days"
    return [
        Row(
            bench="recount-lake",
            what=f"recount of the whole ledger from Postgres: {what}",
            unit="s",
            system=series(recounted),
            limit=series([counting + reading for counting, reading in zip(counted, read, strict=True)]),
            limit_name="DuckDB counting the same events of the lake, plus reading them from Postgres (ADBC)",
            budget=at_most(2),
            note="DuckDB with all cores, one query over all files, the day from the file's name; both sides on warm "
            "caches",
        ),
        Row(bench="recount-lake", what="of that, DuckDB counting the lake", unit="s", system=series(counted)),
        Row(bench="recount-lake", what="of that, reading from Postgres", unit="s", system=series(read)),
        Row(
            bench="recount-lake",
            what="recount from the lake alone, day by day",
            unit="events/s",
            system=series(from_lake),
            limit=series(decoded),
            limit_name="decoding the same Parquet files",
            budget=at_least(0.2),
            note="the recount checks hashes, counts by the archived rules and compares with the archived counters; the "
            "limit decodes every column of the events and does nothing else",
        ),
    ]


def _archive(pool: ConnectionPool, root: Path) -> LocalLake:
    """The lake of the ledger, brought up to date: benches add late events."""
    lake = open_lake(str(root))
    long_after = datetime(LAST_DAY.year, LAST_DAY.month, LAST_DAY.day, tzinfo=UTC) + timedelta(days=30)
    wanted = unarchived_days(pool, now=long_after, limit=_MOST_DAYS)
    if wanted:
        say(f"archiving {len(wanted)} days")
    for archived in archive_days(pool, lake, wanted):
        if isinstance(archived, FailedArchive):
            raise Unavailable(f"not archived: {archived}")
    return lake


def _count_by_duckdb(lake: LocalLake) -> tuple[int, int]:
    """Counts into a table, as a recount does; returns how many events and counters it found."""
    with duckdb.connect(":memory:") as connection:
        connection.execute(_COUNT, {"files": str(lake.root / "events" / "*" / "*" / PART)})
        row = connection.execute("select sum(event_count)::bigint, count(*) from counted").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _decode(lake: LocalLake, context: Context) -> int:
    """Reads every day's events; returns how many there are, those that wait for approval included."""
    rows = 0
    for day in context.scale.ledger.days:
        content = lake.read(folder("events", day), PART)
        assert content is not None
        rows += pl.read_parquet(io.BytesIO(content)).height  # noqa: TID251 - the limit is the library alone
    return rows


def _recount_lake(lake: LocalLake, context: Context, rows: int) -> None:
    found = 0
    for day in context.scale.ledger.days:
        recounted = recount_from_lake(lake, day)
        if recounted.different:
            raise AssertionError(f"{recounted.different} counters of {day} are not those archived")
        found += recounted.events
    if found != rows:
        raise AssertionError(f"the lake has {found} of {rows} events")
