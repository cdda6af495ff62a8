"""What every bench borrows: sizes, a scratch directory, a server, databases.

Belongs here: starting and ending the embedded server of a run, the big ledgers built once per scratch. Does not:
measuring.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from bench.ledger import ALL_DAYS, Shape, build_ledger
from bench.proc import family
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres, find_bin_directory
from stripemeter.store.migrations import migrate

_EMPTY = "bench_empty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything. Quick sizes prove that the bench runs; their numbers mean nothing."""

    rounds: int = 5
    slow_rounds: int = 3
    slot_seconds: float = 4.0
    warmup_seconds: float = 2.0
    growth_rows: int = 5_000_000
    growth_warmup_rows: int = 400_000
    copy_rows: int = 300_000
    ledger_rows: int = 10_000_000
    small_ledger_rows: int = 1_000_000
    heavy_ledger_rows: int = 50_000_000
    heavy_day_rows: int = 10_000_000
    customers: int = 10_000
    fold_events: tuple[int, ...] = (10_000, 50_000)
    late_events: int = 10_000
    late_counters: int = 1_000
    late_rounds: int = 3
    tail_events: int = 10_000
    reads: int = 2_000
    fresh_events: int = 30
    fresh_pause_seconds: float = 2.0
    pushed_events: int = 20
    pushed_rows: int = 1_000
    segments: int = 100_000
    changed_segments: int = 1_000
    quotes: int = 20_000
    priced_rows: int = 1_000_000
    backtest_months: int = 12
    idle_settle_seconds: float = 45.0
    idle_seconds: float = 90.0
    starts: int = 3
    shared_buffers_mb: int = 2048

    @property
    def ledger(self) -> Shape:
        """The big ledger."""
        return Shape(rows=self.ledger_rows, days=ALL_DAYS, customers=self.customers)

    @property
    def small_ledger(self) -> Shape:
        """The last days of one like the big ledger: as many events, customers and counters on a day, fewer days."""
        days = max(1, round(len(ALL_DAYS) * self.small_ledger_rows / self.ledger_rows))
        return Shape(rows=self.small_ledger_rows, days=ALL_DAYS[-days:], customers=self.customers)

    @property
    def heavy_ledger(self) -> Shape:
        """A ledger with a day that holds a large share of it."""
        return Shape(
            rows=self.heavy_ledger_rows,
            days=ALL_DAYS,
            customers=self.customers,
            heavy_rows=self.heavy_day_rows,
        )


QUICK = Scale(
    rounds=2,
    slow_rounds=1,
    slot_seconds=1.0,
    warmup_seconds=0.5,
    growth_rows=20_000,
    growth_warmup_rows=2_000,
    copy_rows=10_000,
    ledger_rows=40_000,
    small_ledger_rows=10_000,
    heavy_ledger_rows=60_000,
    heavy_day_rows=20_000,
    customers=100,
    fold_events=(300, 600),
    late_events=500,
    late_counters=50,
    late_rounds=1,
    tail_events=500,
    reads=30,
    fresh_events=2,
    fresh_pause_seconds=0.5,
    pushed_events=2,
    pushed_rows=20,
    segments=600,
    changed_segments=20,
    quotes=200,
    priced_rows=2_000,
    backtest_months=2,
    idle_settle_seconds=1.0,
    idle_seconds=3.0,
    starts=1,
    shared_buffers_mb=128,
)


@dataclass(slots=True, kw_only=True)
class Context:
    """One run of the bench; open it with `open_context`."""

    scale: Scale
    scratch: Path
    python: str = sys.executable
    _closing: ExitStack = field(default_factory=ExitStack)
    _server: EmbeddedPostgres | None = None
    _postmaster: int = 0

    @property
    def server(self) -> EmbeddedPostgres:
        """The run's PostgreSQL (fsync on), started at first use."""
        if self._server is None:
            server = EmbeddedPostgres(
                directory=self.scratch / "postgres",
                bin_directory=find_bin_directory(_configured_bin()),
                shared_buffers_mb=self.scale.shared_buffers_mb,
                fsync=True,
            )
            process = server.start()
            self._closing.callback(server.stop, process)
            self._server, self._postmaster = server, process.pid
            self._drop_leftovers()
            self._create(_EMPTY)
            migrate(server.database_url(_EMPTY))
        return self._server

    @property
    def postgres_pids(self) -> set[int]:
        """The server's processes."""
        return family([self._postmaster])

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """The URL of an empty migrated database, dropped afterwards."""
        full = f"bench_{name}"
        self._create(full, template=_EMPTY)
        try:
            yield self.server.database_url(full)
        finally:
            self._drop(full)

    @contextmanager
    def copied(self, shape: Shape) -> Iterator[str]:
        """The URL of a copy of the ledger of a shape, dropped afterwards: for benches that would make it another."""
        self.ledger(shape)
        name = f"bench_copy_of_{shape.name}"
        self._create(name, template=shape.name, strategy="file_copy")
        try:
            yield self.server.database_url(name)
        finally:
            self._drop(name)

    def ledger(self, shape: Shape | None = None) -> str:
        """The URL of the database with a ledger of this shape (the big one's), all folded; built once per scratch."""
        shape = shape or self.scale.ledger
        with self.admin() as connection:
            found = connection.execute(
                "select shobj_description(oid, 'pg_database') from pg_database where datname = %s", (shape.name,)
            ).fetchone()
        url = self.server.database_url(shape.name)
        if found is not None and found[0] == "complete":
            migrate(url)  # a kept scratch may be older than this tree
            return url
        if found is not None:
            self._drop(shape.name)
        say(f"building a ledger of {shape.rows:,} events on {len(shape.days)} days")
        self._create(shape.name, template=_EMPTY)
        build_ledger(url, shape)
        with self.admin() as connection:
            connection.execute(sql.SQL("comment on database {} is 'complete'").format(sql.Identifier(shape.name)))
        return url

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        """A connection that may create databases and see the WAL position."""
        with psycopg.connect(self.server.database_url("postgres"), autocommit=True) as connection:
            yield connection

    def close(self) -> None:
        """End whatever this run started."""
        self._closing.close()
        self._server = None

    def _create(self, name: str, template: str = "template0", strategy: str = "wal_log") -> None:
        with self.admin() as connection:
            connection.execute(
                sql.SQL("create database {} template {} strategy {}").format(
                    sql.Identifier(name), sql.Identifier(template), sql.Identifier(strategy)
                )
            )
        if template != "template0":
            with psycopg.connect(self.server.database_url(name)) as connection:
                # A copy of a database is fenced: nothing would be pushed from it.
                connection.execute("update push_epochs set database_oid = (select database_oid from push_place)")

    def _drop(self, name: str) -> None:
        with self.admin() as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _drop_leftovers(self) -> None:
        with self.admin() as connection:
            names = connection.execute("select datname from pg_database where datname like 'bench\\_%'").fetchall()
        for (name,) in names:
            self._drop(str(name))


@contextmanager
def open_context(scale: Scale, scratch: Path | None) -> Iterator[Context]:
    """A run on `scratch`, which is kept with its ledger; without one, on a temporary directory removed afterwards."""
    directory = scratch or Path(tempfile.mkdtemp(prefix="stripemeter-bench-"))
    directory.mkdir(parents=True, exist_ok=True)
    context = Context(scale=scale, scratch=directory.resolve())
    try:
        yield context
    finally:
        context.close()
        if scratch is None:
            shutil.rmtree(directory, ignore_errors=True)


def say(text: str) -> None:
    """Tell whoever waits what is happening."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def _configured_bin() -> Path | None:
    configured = os.environ.get("STRIPEMETER_POSTGRES_BIN")
    return Path(configured) if configured else None
