"""What `stripemeter doctor` asks of the database: reachable, durable, migrated, in time, understood by Dagster.

Belongs here: one function per check. Does not: changing anything; what a stack's processes do (`runtime.checkup`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from stripemeter.errors import StripeMeterError
from stripemeter.runtime import dagster_home
from stripemeter.runtime.findings import Finding, failed, ok, warned
from stripemeter.runtime.preflight import MINIMUM_SERVER_VERSION, check_database_url, masked
from stripemeter.store.migrations import migration_status
from stripemeter.store.postgres import Tx, connect
from stripemeter.store.push_epochs import find_refusal
from stripemeter.store.sql import load_queries

ENOUGH_CONNECTIONS = 60
"""What two API workers, the code server, its runs, the webserver and the daemon open at their busiest."""
_SKEW_WARNED_SECONDS = 1.0
_SKEW_FAILED_SECONDS = 30.0
_HEARTBEAT_SECONDS = 90
"""Dagster's daemons write one every 30 s."""


def examine_database(database_url: str | None) -> Iterator[Finding]:
    """Every check of the database in order; a single warning when there is none to ask."""
    if database_url is None:
        yield warned("database", "embedded, not running: nothing could be asked of it", fix="stripemeter up -d --wait")
        return
    try:
        check_database_url(database_url)
    except StripeMeterError as error:
        yield failed("database", str(error), fix="unset DATABASE_URL")
        return
    yield ok("database", masked(database_url))
    with connect(database_url, application_name="stripemeter-doctor", autocommit=True) as connection:
        connection.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
        yield from _settings(connection)
        yield from _cursors(connection)
        connection.row_factory = psycopg.rows.tuple_row
        yield from _push_fence(connection)
    yield _migrations(database_url)
    yield _dagster_storage(database_url)
    yield _heartbeat(database_url)


def _settings(connection: Tx) -> Iterator[Finding]:
    asked_at = time.time()
    row: dict[str, Any] = _rows(connection, "load_server_settings")[0]
    skew = abs(row["clock_epoch"] - (asked_at + time.time()) / 2)
    version = row["server_version_num"]
    if version < MINIMUM_SERVER_VERSION:
        yield failed("postgres version", f"{version // 10000}: 14 or later is needed", fix="unset DATABASE_URL")
    else:
        yield ok("postgres version", str(version // 10000))
    unsafe = [name for name in ("synchronous_commit", "fsync", "full_page_writes") if row[name] in ("off", "local")]
    if unsafe:
        fix = f'psql "$DATABASE_URL" -c "alter system set {unsafe[0]} = on" -c "select pg_reload_conf()"'
        yield failed("durability", f"a 2xx answer may be lost in a crash: {', '.join(unsafe)} off", fix=fix)
    else:
        yield ok("durability", "synchronous_commit, fsync and full_page_writes are on")
    if row["max_connections"] < ENOUGH_CONNECTIONS:
        fix = f'psql "$DATABASE_URL" -c "alter system set max_connections = {ENOUGH_CONNECTIONS}"  # then restart it'
        yield warned("connections", f"max_connections is {row['max_connections']}", fix=fix)
    else:
        yield ok("connections", f"max_connections is {row['max_connections']}")
    yield _clock(skew)


def _clock(skew_seconds: float) -> Finding:
    found = f"{skew_seconds:.2f} s apart from the database's"
    fix = "timedatectl set-ntp true"
    if skew_seconds >= _SKEW_FAILED_SECONDS:
        return failed("clock", found, fix=fix)
    return warned("clock", found, fix=fix) if skew_seconds >= _SKEW_WARNED_SECONDS else ok("clock", found)


def _cursors(connection: Tx) -> Iterator[Finding]:
    if not next(iter(_rows(connection, "has_fold_cursors")[0].values())):
        return  # the pending migrations are a finding of their own
    cursors = _rows(connection, "load_fold_cursor_epochs")
    strange = [row["name"] for row in cursors if not row["is_ours"]]
    if strange:
        yield failed(
            "fold cursor",
            f"{', '.join(strange)} was written in another PostgreSQL cluster (a restore?): its position means nothing",
            fix="stripemeter logs code-server",
        )
    else:
        yield ok("fold cursor", f"{len(cursors)} of this cluster" if cursors else "nothing folded yet")


def _push_fence(connection: Tx) -> Iterator[Finding]:
    (is_here,) = connection.execute(load_queries("runtime")["has_push_fence"]).fetchone() or (False,)
    if not is_here:
        return  # a replica, or the pending migrations are a finding of their own
    refusal = find_refusal(connection)
    if refusal:
        yield failed("push fence", refusal, fix="stripemeter restore-fence")
    else:
        yield ok("push fence", "open: this is the database usage is pushed from")


def _rows(connection: Tx, query: str) -> list[dict[str, Any]]:
    return connection.execute(load_queries("runtime")[query]).fetchall()  # type: ignore[return-value]


def _migrations(database_url: str) -> Finding:
    try:
        found = migration_status(database_url)
    except StripeMeterError as error:
        return failed("migrations", str(error), fix="pip install --upgrade stripemeter")
    if found.pending:
        names = ", ".join(migration.name for migration in found.pending)
        return failed("migrations", f"pending: {names}", fix="stripemeter migrate")
    return ok("migrations", f"{len(found.applied)} applied")


def _dagster_storage(database_url: str) -> Finding:
    fix = "pip install 'stripemeter[server]'"
    if importlib.util.find_spec("psycopg2") is None or importlib.util.find_spec("dagster_postgres") is None:
        return failed("dagster storage", "dagster-postgres or its driver psycopg2 is not installed", fix=fix)
    url = dagster_home.dagster_pg_url(database_url)
    version = importlib.metadata.version("sqlalchemy")
    return ok("dagster storage", f"{url.partition(':')[0]}, schema dagster, SQLAlchemy {version}")


def _heartbeat(database_url: str) -> Finding:
    age = dagster_home.daemon_heartbeat_age_seconds(database_url)
    fix = "stripemeter logs dagster-daemon"
    if age is None:
        return warned("dagster daemon", "never seen in this database", fix="stripemeter up -d --wait")
    if age > _HEARTBEAT_SECONDS:
        return failed("dagster daemon", f"last heartbeat {age:.0f} s ago: nothing is folded or pushed", fix=fix)
    return ok("dagster daemon", f"last heartbeat {max(age, 0):.0f} s ago")
