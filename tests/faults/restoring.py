"""Ways to lose what a database wrote: restored from a dump, copied, put back from a snapshot of its disk.

Belongs here: making the earlier database serve again, what is typed then, whether the books balance afterwards. Does
not: what is to happen.
"""

from __future__ import annotations

import dataclasses
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.restore_fence import FenceOrder, FenceReport, find_contradiction, restore_fence
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from stripemeter.store.postgres import open_pool, transaction
from tests.conftest import own_push_epoch
from tests.emulator import RunningEmulator
from tests.stripe_bench import NO_PAUSE, NOW, TODAY, StripeBench, open_bench

YESTERDAY = TODAY - timedelta(days=1)
SETTLED = NOW + timedelta(hours=1, minutes=2)
"""When Stripe has summed up what was sent at NOW."""

Way = Literal["dump", "dump-into-the-same-database", "copy", "disk-snapshot"]
SEEN: tuple[Way, ...] = ("dump", "dump-into-the-same-database", "copy")
"""Ways the database itself shows."""


class Backup:
    """A database as it was when this was made."""

    def __init__(self, postgres: EmbeddedPostgres, database_url: str, directory: Path) -> None:
        self._postgres = postgres
        self._source = database_url
        self._dump = directory / f"{uuid.uuid4().hex}.dump"
        self._copies: list[str] = []
        self._run("pg_dump", "--format=custom", f"--file={self._dump}", database_url)
        self._kept = self._copy(database_url.rpartition("/")[2])

    @contextmanager
    def restored(self, bench: StripeBench, way: Way) -> Iterator[StripeBench]:
        """The bench on the database as it was."""
        with open_pool(self._restore(way)) as pool:
            yield dataclasses.replace(bench, pool=pool)

    def drop(self) -> None:
        """Remove every database made here."""
        with self._admin() as connection:
            for name in self._copies:
                connection.execute(f"drop database if exists {name} with (force)")

    def _restore(self, way: Way) -> str:
        if way == "dump-into-the-same-database":
            self._run("pg_restore", "--clean", f"--dbname={self._source}", str(self._dump))
            return self._source
        if way == "dump":
            name = self._named()
            with self._admin() as connection:
                connection.execute(f"create database {name} template template0")
            self._run("pg_restore", f"--dbname={self._postgres.database_url(name)}", str(self._dump))
            return self._postgres.database_url(name)
        url = self._postgres.database_url(self._copy(self._kept))
        if way == "disk-snapshot":
            own_push_epoch(url)  # of a snapshot put back every identifier is the old one
        return url

    def _copy(self, source: str) -> str:
        name = self._named()
        with self._admin() as connection:
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (source,))
            connection.execute(f"create database {name} template {source}")
        return name

    def _named(self) -> str:
        self._copies.append(f"backup_{uuid.uuid4().hex[:12]}")
        return self._copies[-1]

    def _admin(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self._postgres.database_url("postgres"), autocommit=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._postgres.bin_directory / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True)


TakeBackup = Callable[[], Backup]


@pytest.fixture
def take_backup(postgres: EmbeddedPostgres, database_url: str, tmp_path: Path) -> Iterator[TakeBackup]:
    """Keep this test's database as it is now."""
    taken: list[Backup] = []

    def take() -> Backup:
        taken.append(Backup(postgres, database_url, tmp_path))
        return taken[-1]

    yield take
    for backup in taken:
        backup.drop()


def open_pushed_bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday, and Stripe knows."""
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("5", YESTERDAY)
    push(opened, NOW)
    return opened


def push(bench: StripeBench, now: datetime, witnesses: Path | None = None) -> None:
    """A push in which nothing goes wrong, Stripe's clock with it."""
    bench.emulator.freeze(now)
    report = push_usage(bench.pool, bench.sink, now=now, retries=NO_PAUSE, witnesses=witnesses)
    assert report.stopped == ""


def fence(
    bench: StripeBench,
    *,
    now: datetime = SETTLED,
    stopped_at: datetime | None = NOW,
    witnesses: Path | None = None,
) -> FenceReport:
    """What an operator types after a restore: the old database is known to have stopped at NOW."""
    bench.emulator.freeze(now)
    order = FenceOrder(actor="ann", reason="disk lost", stopped_at=stopped_at)
    gone_back = find_contradiction(bench.pool, [bench.sink], witnesses) if witnesses is not None else ""
    return restore_fence(bench.pool, [bench.sink], order=order, gone_back=gone_back, now=now)


def write_at_stripe(bench: StripeBench, at: datetime, value: str, stripe_customer_id: str) -> None:
    """Usage that is not from our outbox."""
    bench.emulator.client().v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "timestamp": int(at.timestamp()),
            "payload": {"stripe_customer_id": stripe_customer_id, "value": value},
        }
    )


def assert_books_balance(bench: StripeBench) -> None:
    """The totals are the rows and the approved corrections; per day they are what Stripe holds."""
    with transaction(bench.pool) as tx:
        differences = tx.execute(
            """
            with known as (
                select stripe_customer_id, day, sum(delta) as quantity from push_entries
                where state in ('accepted', 'confirmed') group by 1, 2
                union all
                select stripe_customer_id, day, sum(surplus) from stripe_corrections
                where status = 'approved' group by 1, 2
            ),
            summed as (select stripe_customer_id, day, sum(quantity) as quantity from known group by 1, 2),
            kept as (
                select stripe_customer_id, day, sum(accepted_total) as accepted, sum(planned_total) as planned
                from push_totals group by 1, 2
            )
            select * from summed full join kept using (stripe_customer_id, day)
            where quantity is distinct from accepted or planned is distinct from accepted
            """
        ).fetchall()
        totals = tx.execute(
            "select b.customer_ref, t.day, sum(t.accepted_total) from push_totals as t"
            " join customer_bindings as b using (stripe_customer_id) group by 1, 2"
        ).fetchall()
    assert differences == []
    for customer, day, quantity in totals:
        assert bench.at_stripe(day, customer) == quantity
