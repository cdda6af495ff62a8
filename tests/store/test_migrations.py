"""The migrations runner on a real server: once, in order, unedited, beside running writers."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from stripemeter.errors import Conflict, Unavailable
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from stripemeter.store import migrations
from stripemeter.store.migrations import load_migrations, migrate, migration_status

CREATE = "-- migrate:up\ncreate table notes (id bigint primary key, body text);\n-- migrate:down\ndrop table notes;\n"
INDEX = (
    "-- migrate:up transaction:false\n"
    "create index concurrently if not exists notes_by_body on notes (body);\n"
    "comment on index notes_by_body is 'Finds a note.';\n"
    "-- migrate:down\ndrop index notes_by_body;\n"
)


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database that was never migrated."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    yield postgres.database_url(name)
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


def write(folder: Path, **files: str) -> Path:
    """Write migration files by name without suffix; `_` stands before the digits."""
    for name, text in files.items():
        (folder / f"{name.removeprefix('_')}.sql").write_text(text, encoding="utf-8")
    return folder


def ask(database_url: str, query: str) -> object:
    """The first column of the first row."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query).fetchone()
        return row and row[0]


def relations(database_url: str) -> object:
    """How many tables and indexes are the database's own."""
    return ask(database_url, "select count(*) from pg_class where relnamespace = 'public'::regnamespace")


def test_every_migration_runs_once(empty_url: str) -> None:
    """A fresh database gets every file in order; a second run finds nothing to do."""
    names = [migration.name for migration in load_migrations()]
    assert names
    assert migrate(empty_url) == names
    assert migrate(empty_url) == []
    status = migration_status(empty_url)
    assert (list(status.applied), status.pending) == (names, ())


def test_a_file_that_came_late_is_applied_after_later_ones(empty_url: str) -> None:
    """A database that has 0021 is not past 0020: what it lacks runs, in order."""
    known = load_migrations()
    migrate(empty_url, migrations=[each for each in known if each.version <= "0021" and each.version != "0020"])
    lacking = [each.name for each in known if each.version == "0020" or each.version > "0021"]
    assert migrate(empty_url) == lacking
    assert migration_status(empty_url).pending == ()


def test_a_dry_run_changes_nothing(empty_url: str) -> None:
    """--dry-run names what would run and leaves a database without even the runner's own table."""
    names = [migration.name for migration in load_migrations()]
    assert migrate(empty_url, dry_run=True) == names
    assert relations(empty_url) == 0
    assert [migration.name for migration in migration_status(empty_url).pending] == names


def test_an_edited_file_is_refused(empty_url: str, tmp_path: Path) -> None:
    """One changed byte in an applied file stops everything, what is pending included."""
    migrate(empty_url, migrations=load_migrations(write(tmp_path, _0001_notes=CREATE)))
    write(tmp_path, _0001_notes=CREATE + "\n", _0002_index=INDEX)
    with pytest.raises(Conflict, match=r"0001_notes\.sql was edited"):
        migrate(empty_url, migrations=load_migrations(tmp_path))
    with pytest.raises(Conflict, match=r"0001_notes\.sql was edited"):
        migrate(empty_url, dry_run=True, migrations=load_migrations(tmp_path))
    assert ask(empty_url, "select to_regclass('notes_by_body')") is None


def test_a_vanished_file_is_refused(empty_url: str, tmp_path: Path) -> None:
    """A database ahead of the release (a rollback of the code) is left alone."""
    migrate(empty_url, migrations=load_migrations(write(tmp_path, _0001_notes=CREATE)))
    with pytest.raises(Conflict, match="not in this release"):
        migrate(empty_url, migrations=[])


def test_migrators_at_once_work_as_one(empty_url: str, tmp_path: Path) -> None:
    """Four replicas that start together: one does the work, the others wait and find it done."""
    known = load_migrations(write(tmp_path, _0001_notes=CREATE, _0002_index=INDEX))
    barrier = threading.Barrier(4)

    def run(_: int) -> list[str]:
        barrier.wait(timeout=30)
        return migrate(empty_url, migrations=known)

    with ThreadPoolExecutor(4) as executor:
        results = list(executor.map(run, range(4)))
    assert sorted(results) == [[], [], [], ["0001_notes.sql", "0002_index.sql"]]
    assert ask(empty_url, "select count(*) from schema_migrations") == 2


def test_an_index_is_built_concurrently(empty_url: str, tmp_path: Path) -> None:
    """`transaction:false` runs statement by statement, so an index can be built beside the writers."""
    known = load_migrations(write(tmp_path, _0001_notes=CREATE, _0002_index=INDEX))
    migrate(empty_url, migrations=known)
    assert ask(empty_url, "select indisvalid from pg_index where indexrelid = 'notes_by_body'::regclass") is True
    assert ask(empty_url, "select obj_description('notes_by_body'::regclass)") == "Finds a note."


def test_a_failing_file_leaves_nothing_behind(empty_url: str, tmp_path: Path) -> None:
    """A file is one transaction: its first statement is undone with its last, and it is not recorded."""
    broken = CREATE.replace(";\n-- migrate:down", ";\ncreate table notes (id bigint);\n-- migrate:down")
    known = load_migrations(write(tmp_path, _0001_notes=broken))
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(empty_url, migrations=known)
    assert ask(empty_url, "select to_regclass('notes')") is None
    assert ask(empty_url, "select count(*) from schema_migrations") == 0
    # The lock went with the failure: the mended file runs.
    assert migrate(empty_url, migrations=load_migrations(write(tmp_path, _0001_notes=CREATE))) == ["0001_notes.sql"]


def test_a_file_is_applied_and_recorded_as_one(empty_url: str, tmp_path: Path) -> None:
    """When the record cannot be written, what the file did is undone: it would run again otherwise."""
    unrecordable = "-- migrate:up\ncreate table more (id bigint);\ndrop table schema_migrations;\n"
    with pytest.raises(psycopg.errors.UndefinedTable):
        migrate(empty_url, migrations=load_migrations(write(tmp_path, _0001_more=unrecordable)))
    assert ask(empty_url, "select to_regclass('more')") is None


def test_a_locked_table_is_given_up(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's long transaction on a table: the runner gives up, undoes the file, and a later run succeeds."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 2)
    migrate(empty_url, migrations=load_migrations(write(tmp_path, _0001_notes=CREATE)))
    write(tmp_path, _0002_more="-- migrate:up\ncreate table more (id bigint);\nalter table notes add column x text;\n")
    with psycopg.connect(empty_url) as somebody:
        somebody.execute("select count(*) from notes")
        with pytest.raises(Unavailable, match=r"0002_more\.sql: a table stayed locked"):
            migrate(empty_url, migrations=load_migrations(tmp_path))
        assert ask(empty_url, "select to_regclass('more')") is None
    assert migrate(empty_url, migrations=load_migrations(tmp_path)) == ["0002_more.sql"]


def test_a_short_lock_is_waited_out(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that comes free between two attempts costs a retry, not a failure."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(migrations, "LOCK_ATTEMPTS", 30)
    migrate(empty_url, migrations=load_migrations(write(tmp_path, _0001_notes=CREATE)))
    write(tmp_path, _0002_more="-- migrate:up\nalter table notes add column x text;\n")
    with psycopg.connect(empty_url) as somebody, ThreadPoolExecutor(1) as executor:
        somebody.execute("select count(*) from notes")
        running = executor.submit(migrate, empty_url, migrations=load_migrations(tmp_path))
        wait_until_blocked(empty_url)
        somebody.rollback()
        assert running.result(timeout=60) == ["0002_more.sql"]


def test_writers_go_on_while_a_migration_runs(empty_url: str, tmp_path: Path) -> None:
    """A column and an index are added beside writers: none of them fails and no row is lost."""
    migrate(empty_url, migrations=load_migrations(write(tmp_path, _0001_notes=CREATE)))
    write(tmp_path, _0002_column="-- migrate:up\nalter table notes add column pinned boolean;\n", _0003_index=INDEX)
    is_migrated = threading.Event()
    barrier = threading.Barrier(4)

    def insert(writer: int) -> int:
        written = 0
        with psycopg.connect(empty_url, autocommit=True) as connection:
            barrier.wait(timeout=30)
            while written < 100_000 and not (is_migrated.is_set() and written):
                identity = writer * 1_000_000 + written
                connection.execute("insert into notes (id, body) values (%s, 'x')", [identity])
                written += 1
        return written

    with ThreadPoolExecutor(3) as executor:
        writers = [executor.submit(insert, writer) for writer in range(3)]
        barrier.wait(timeout=30)
        applied = migrate(empty_url, migrations=load_migrations(tmp_path))
        is_migrated.set()
        written = sum(writer.result(timeout=60) for writer in writers)
    assert applied == ["0002_column.sql", "0003_index.sql"]
    assert ask(empty_url, "select count(*) from notes") == written


def wait_until_blocked(database_url: str) -> None:
    """Return once a migration of this database waits for a lock; the server is asked again and again, never slept on.

    Raises:
        AssertionError: it did not within a hundred thousand looks.
    """
    query = (
        "select exists (select from pg_stat_activity where datname = current_database()"
        " and application_name = 'stripemeter-migrate' and wait_event_type = 'Lock')"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in range(100_000):
            row = connection.execute(query).fetchone()
            if row is not None and row[0]:
                return
    raise AssertionError("no migration came to wait for a lock")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"_1_notes": CREATE}, r"1_notes\.sql: expected NNNN_name\.sql"),
        ({"_0001_notes": "create table notes ();\n"}, "with a '-- migrate:up' line"),
        ({"_0001_notes": CREATE, "_0001_index": INDEX}, "a version is used twice"),
    ],
)
def test_a_malformed_folder_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    """A name, a header or a version that is not as it must be is an error before any connection."""
    with pytest.raises(ValueError, match=message):
        load_migrations(write(tmp_path, **files))


def test_an_unreachable_server_is_unavailable() -> None:
    """Nobody listens: the error says so and may be retried."""
    with pytest.raises(Unavailable, match="cannot connect"):
        migrate("postgresql://stripemeter@127.0.0.1:1/stripemeter")
