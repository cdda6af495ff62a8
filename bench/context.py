"""What every bench borrows: sizes, a scratch directory, a server, databases.

Belongs here: starting and ending the embedded server of a run, the big ledger built once per run. Does not: measuring.
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

from bench.ledger import build_ledger
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
    customers: int = 10_000
    late_events: int = 10_000
    late_counters: int = 1_000
    tail_events: int = 10_000
    reads: int = 2_000
    fresh_events: int = 30
    fresh_pause_seconds: float = 2.0
    pushed_events: int = 20
    idle_settle_seconds: float = 45.0
    idle_seconds: float = 90.0
    starts: int = 3
    shared_buffers_mb: int = 2048


QUICK = Scale(
    rounds=2,
    slow_rounds=1,
    slot_seconds=1.0,
    warmup_seconds=0.5,
    growth_rows=20_000,
    growth_warmup_rows=2_000,
    copy_rows=10_000,
    ledger_rows=40_000,
    customers=100,
    late_events=500,
    late_counters=50,
    tail_events=500,
    reads=30,
    fresh_events=2,
    fresh_pause_seconds=0.5,
    pushed_events=2,
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

    def ledger(self) -> str:
        """The URL of the database whose ledger has `ledger_rows` events, all folded; built once per scratch."""
        name = f"ledger_{self.scale.ledger_rows}"
        with self.admin() as connection:
            found = connection.execute(
                "select shobj_description(oid, 'pg_database') from pg_database where datname = %s", (name,)
            ).fetchone()
        url = self.server.database_url(name)
        if found is not None and found[0] == "complete":
            return url
        if found is not None:
            self._drop(name)
        say(f"building a ledger of {self.scale.ledger_rows:,} events")
        self._create(name, template=_EMPTY)
        build_ledger(url, rows=self.scale.ledger_rows, customers=self.scale.customers)
        with self.admin() as connection:
            connection.execute(sql.SQL("comment on database {} is 'complete'").format(sql.Identifier(name)))
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

    def _create(self, name: str, template: str = "template0") -> None:
        with self.admin() as connection:
            connection.execute(
                sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
            )

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
