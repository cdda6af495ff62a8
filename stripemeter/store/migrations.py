"""The migrations runner: plain SQL files, in order, once, unedited.

Belongs here: reading `sql/migrations/NNNN_name.sql` (dbmate's format), checksums, the lock, the record of what ran.
Does not: the SQL itself.

A file holds `-- migrate:up [transaction:false]` and `-- migrate:down` sections. A `transaction:false` section runs
statement by statement outside a transaction (for `create index concurrently`); statements end with `;` at line end.
Applied files are recorded with the sha256 of the whole file: an edited or vanished file is refused, because the
database it describes no longer exists anywhere.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString, cast

import psycopg

from stripemeter.errors import Conflict, Unavailable
from stripemeter.store.postgres import connect
from stripemeter.store.sql import load_queries, shipped

# Any constant works; this one spells "stripemeter migrations" to whoever looks at pg_locks.
ADVISORY_LOCK = 0x5354_4D52_4D49_4752
LOCK_TIMEOUT_SECONDS = 5
"""How long one statement may wait for a table lock: beyond it, writers would queue behind the migration."""
LOCK_ATTEMPTS = 12
TURN_POLL_SECONDS = 0.1  # allow-float: seconds

_UP = re.compile(r"^-- migrate:up(?P<options>[^\n]*)\n", re.MULTILINE)
_DOWN = re.compile(r"^-- migrate:down[^\n]*\n", re.MULTILINE)
_FILE_NAME = re.compile(r"^(?P<version>\d{4})_[a-z0-9_]+\.sql$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `sql/migrations`."""

    version: str
    name: str
    checksum: str
    statements: tuple[LiteralString, ...]
    is_transactional: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStatus:
    """What a database has and lacks. `pending` is in the order it would run."""

    applied: tuple[str, ...]
    pending: tuple[Migration, ...]


def load_migrations(folder: Path | None = None) -> list[Migration]:
    """Every migration of the distribution (or of `folder`), by version.

    Raises:
        ValueError: a file name, a header or a version is not as it must be.
    """
    migrations = [_parse(path) for path in sorted((folder or shipped("sql/migrations")).glob("*.sql"))]
    versions = [migration.version for migration in migrations]
    if len(set(versions)) != len(versions):
        raise ValueError(f"sql/migrations: a version is used twice: {versions}")
    return migrations


def migrate(database_url: str, *, dry_run: bool = False, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is pending, under an advisory lock; returns the file names applied (or that would be).

    Safe to call from every replica at once: one works, the others wait and then find nothing to do.

    Raises:
        Conflict: an applied file was edited or is gone.
        Unavailable: the database cannot be reached, or a table stayed locked by somebody else.
    """
    known = list(migrations if migrations is not None else load_migrations())
    queries = load_queries("migrations")
    with connect(database_url, application_name="stripemeter-migrate", autocommit=True) as connection:
        if dry_run:
            return [migration.name for migration in _status(connection, known).pending]
        _wait_for_turn(connection)
        try:
            connection.execute(queries["create_table"])
            pending = _status(connection, known).pending
            for migration in pending:
                _apply(connection, migration)
            return [migration.name for migration in pending]
        finally:
            connection.execute(queries["unlock"], {"key": ADVISORY_LOCK})


def migration_status(database_url: str) -> MigrationStatus:
    """What the database has and lacks, without changing it.

    Raises:
        Conflict: an applied file was edited or is gone.
        Unavailable: the database cannot be reached.
    """
    with connect(database_url, application_name="stripemeter-migrate", autocommit=True) as connection:
        return _status(connection, load_migrations())


def _wait_for_turn(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    # Asked again and again: a session that waits inside pg_advisory_lock holds a snapshot, `create index concurrently`
    # waits for every snapshot, and so the replica that migrates and those that wait would deadlock.
    query = load_queries("migrations")["try_lock"]
    while connection.execute(query, {"key": ADVISORY_LOCK}).fetchone() != (True,):
        time.sleep(TURN_POLL_SECONDS)


def _status(connection: psycopg.Connection[tuple[object, ...]], known: Sequence[Migration]) -> MigrationStatus:
    queries = load_queries("migrations")
    (exists,) = connection.execute(queries["has_table"]).fetchone() or (False,)
    rows = connection.execute(queries["load_applied"]).fetchall() if exists else []
    applied = {str(version): (str(name), str(checksum)) for version, name, checksum in rows}
    by_version = {migration.version: migration for migration in known}
    for version, (name, checksum) in applied.items():
        migration = by_version.get(version)
        if migration is None:
            raise Conflict(f"migration {name} was applied to this database but is not in this release: upgrade first")
        if migration.checksum != checksum:
            raise Conflict(
                f"migration {migration.name} was edited after it was applied: restore the file and write a new one"
            )
    return MigrationStatus(
        applied=tuple(name for name, _ in applied.values()),
        pending=tuple(migration for migration in known if migration.version not in applied),
    )


def _apply(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            _run(connection, migration)
        except psycopg.errors.LockNotAvailable as error:
            if attempt == LOCK_ATTEMPTS:
                raise Unavailable(
                    f"migration {migration.name}: a table stayed locked {LOCK_ATTEMPTS * LOCK_TIMEOUT_SECONDS} s; "
                    "nothing of it was applied. Find the blocker in pg_stat_activity, run `stripemeter migrate` again"
                ) from error
        else:
            return


def _run(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    queries = load_queries("migrations")
    record = {"version": migration.version, "name": migration.name, "checksum": migration.checksum}
    connection.execute(queries["set_lock_timeout"], {"timeout": f"{LOCK_TIMEOUT_SECONDS}s"})
    if migration.is_transactional:
        with connection.transaction():
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute(queries["record"], record)
        return
    for statement in migration.statements:
        connection.execute(statement)
    connection.execute(queries["record"], record)


def _parse(path: Path) -> Migration:
    # Files of the distribution are as literal as a string in this module: hence the casts.
    text = path.read_text(encoding="utf-8")
    matched = _FILE_NAME.match(path.name)
    up = _UP.search(text)
    if matched is None or up is None:
        raise ValueError(f"{path.name}: expected NNNN_name.sql with a '-- migrate:up' line")
    down = _DOWN.search(text, up.end())
    body = text[up.end() : down.start() if down else len(text)].strip()
    is_transactional = "transaction:false" not in up["options"]
    parts = [body] if is_transactional else [part for part in re.split(r"(?<=;)\s*\n", body) if part]
    return Migration(
        version=matched["version"],
        name=path.name,
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        statements=tuple(cast("LiteralString", part) for part in parts),
        is_transactional=is_transactional,
    )
