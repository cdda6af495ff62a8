"""backtest: a year of past months priced by three plans beside DuckDB reading and grouping the same files.

Belongs here: this bench. Does not: the lake (`backtest_lake`), the process that is measured (`backtest_process`).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from psycopg_pool import ConnectionPool

from bench.backtest_lake import METRICS, TENANT, write_lake
from bench.context import Context, say
from bench.measure import Row, seconds_of, series, value_at_most
from stripemeter.errors import Unavailable
from stripemeter.pipeline.prices import say_price
from stripemeter.store.lake import PART, LocalLake
from stripemeter.store.postgres import open_pool

_ROOT = Path(__file__).resolve().parents[1]
_SQL = _ROOT / "bench" / "sql"
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What one backtest took and found."""

    seconds: float
    processor_seconds: float
    peak_bytes: int
    customers: int
    totals: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Took:
    """What a query of DuckDB took."""

    seconds: float
    processor_seconds: float


def backtest(context: Context) -> list[Row]:
    """Backtest the lake in a process of its own; DuckDB alone over its counters, and over its events."""
    scale = context.scale
    lake = LocalLake(root=context.scratch / "lake_backtest")
    with context.database("backtest") as url:
        with open_pool(url) as pool:
            say(f"writing {scale.ledger_rows:,} events into a lake")
            counters = write_lake(
                pool, lake, events=scale.ledger_rows, customers=scale.customers, months=scale.backtest_months
            )
            _say_prices(pool)
        rounds = [
            (_timed(lambda: _group(lake)), _timed(lambda: _count_events(lake)), _backtest(context, url, lake))
            for _ in range(scale.slow_rounds)
        ]
        used = _group(lake)
    grouped, counted, runs = zip(*rounds, strict=True)
    for run in runs:
        # A cent a unit of whole quantities, by every plan that says so: revenue is usage.
        if run.totals != runs[0].totals or run.totals["flat"] != used or run.totals["today"] != used:
            raise AssertionError(f"the backtest charges {run.totals}, and DuckDB finds usage of {used}")
    what = (
        f"{scale.backtest_months} months, {runs[0].customers:,} customers, {scale.ledger_rows:,} events"
        f" ({counters:,} counters), prices in force and 3 plans, all reports written"
    )
    say(f"backtest: {runs[-1].seconds:.1f} s, DuckDB {grouped[-1].seconds:.1f} s, {runs[-1].peak_bytes / _GIB:.2f} GiB")
    seconds = series([run.seconds for run in runs])
    note = (
        "the lake is written day by day by the archive's own `stage_day`, of events made here and counted by the "
        "product's counting, without a ledger; system: a process of its own, after its imports; every file's hash is "
        "checked; DuckDB with all cores, one query over all files; both sides on warm caches"
    )
    return [
        Row(
            bench="backtest",
            what=what,
            unit="s",
            system=seconds,
            limit=series([each.seconds for each in grouped]),
            limit_name="DuckDB reading and grouping the same counters' files",
            budget=value_at_most(60),
            note=note,
        ),
        Row(
            bench="backtest",
            what="the same",
            unit="s",
            system=seconds,
            limit=series([each.seconds for each in counted]),
            limit_name="DuckDB reading and grouping the events' files behind them",
        ),
        Row(
            bench="backtest",
            what="the same in processor time of all threads, which hardly depends on who else uses the machine",
            unit="s",
            system=series([run.processor_seconds for run in runs]),
            limit=series([each.processor_seconds for each in grouped]),
            limit_name="DuckDB reading and grouping the same counters' files",
        ),
        Row(
            bench="backtest",
            what="peak memory",
            unit="GiB",
            system=series([run.peak_bytes / _GIB for run in runs]),
            note="greatest resident set (VmHWM) of that process, DuckDB's part included",
        ),
    ]


def _say_prices(pool: ConnectionPool) -> None:
    price = {"model": "flat", "currency": "USD", "unitPrice": "0.01"}
    now = datetime.now(UTC)
    for metric in METRICS:
        say_price(pool, price, tenant_id=TENANT, meter=metric, effective_from=now, now=now)
    time.sleep(0.01)  # a price holds from the instant after it was said


def _timed(work: Callable[[], object]) -> _Took:
    worked = time.process_time()
    seconds = seconds_of(work)
    return _Took(seconds=seconds, processor_seconds=time.process_time() - worked)


def _group(lake: LocalLake) -> int:
    """Groups counters into a table, as a backtest does; returns the sum of what was used."""
    with duckdb.connect(":memory:") as connection:
        files = str(lake.root / "counters" / "*" / "*" / PART)
        query = (_SQL / "group_lake.sql").read_text(encoding="utf-8")
        connection.execute(query, {"files": files, "tenant_id": TENANT})
        row = connection.execute("select sum(sum_whole) from grouped").fetchone()
    assert row is not None
    return int(row[0])


def _count_events(lake: LocalLake) -> None:
    with duckdb.connect(":memory:") as connection:
        query = (_SQL / "count_lake.sql").read_text(encoding="utf-8")
        connection.execute(query, {"files": str(lake.root / "events" / "*" / "*" / PART)})


def _backtest(context: Context, url: str, lake: LocalLake) -> _Run:
    finished = subprocess.run(
        [context.python, "-m", "bench.backtest_process", url, str(lake.root), str(context.scale.backtest_months)],
        check=False,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    if finished.returncode != 0:
        raise Unavailable(f"the backtest failed:\n{finished.stderr[-4000:]}")
    return _Run(**json.loads(finished.stdout.splitlines()[-1]))
