"""The push epoch: each way in which a database is not the one usage was pushed from."""

from __future__ import annotations

import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import NotAllowed
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from stripemeter.store import push_epochs
from stripemeter.store.migrations import load_migrations, migrate
from stripemeter.store.postgres import connect, transaction
from tests.stacks import wait_until
from tests.stripe_bench import NOW


def test_a_migrated_database_is_open(pool: ConnectionPool) -> None:
    """The migration starts the first epoch, in the database it runs in."""
    with transaction(pool) as tx:
        fence = push_epochs.require_open(tx)
        assert (fence.epoch, fence.state, fence.difference) == (1, "open", None)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("system_identifier", "another PostgreSQL cluster"),
        ("timeline", "another timeline of it"),
        ("database_oid", "another database"),
        ("table_oid", "tables made anew"),
    ],
)
def test_every_sign_of_a_restore_is_told(pool: ConnectionPool, column: str, said: str) -> None:
    """Pushing is refused, with what differs and what to run."""
    with transaction(pool) as tx:
        tx.execute(f"update push_epochs set {column} = {column} + 1")
        with pytest.raises(NotAllowed, match=f"{said}.*stripemeter restore-fence"):
            push_epochs.require_open(tx)


def test_without_an_epoch_nothing_is_pushed_or_planned(pool: ConnectionPool) -> None:
    """Tables that did not come from the migrations: refused, not begun in silence."""
    with transaction(pool) as tx:
        tx.execute("delete from push_epochs")
        with pytest.raises(NotAllowed, match=r"no push epoch.*restore-fence"):
            push_epochs.require_open(tx)
        assert push_epochs.start_epoch(tx, reason="none", actor="ann", now=NOW) == 2


def test_a_new_epoch_is_of_this_database_and_closed(pool: ConnectionPool) -> None:
    """It is fenced until it is opened, and opening again changes nothing."""
    with transaction(pool) as tx:
        tx.execute("update push_epochs set timeline = 77")
        epoch = push_epochs.start_epoch(tx, reason="disk lost", actor="ann", now=NOW)
        with pytest.raises(NotAllowed, match=r"fenced since 2026-11-23 12:00:30Z \(disk lost\)"):
            push_epochs.require_open(tx)
        push_epochs.open_epoch(tx, epoch, now=NOW)
        push_epochs.open_epoch(tx, epoch, now=NOW.replace(year=2027))
        assert push_epochs.require_open(tx).epoch == epoch == 2
        assert tx.execute("select opened_at from push_epochs where epoch = 2").fetchone() == (NOW,)


def test_a_recovery_from_a_backup_is_another_timeline(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """A real server, stopped, recovered as from an archive: nothing but its timeline differs, and that is seen."""
    server = EmbeddedPostgres(
        directory=tmp_path / "postgres", bin_directory=postgres.bin_directory, shared_buffers_mb=16, fsync=False
    )
    process = server.start()
    try:
        with psycopg.connect(server.database_url("postgres"), autocommit=True) as connection:
            connection.execute("create database ours")
        migrate(server.database_url("ours"))
        server.stop(process)
        process = server.start()  # a restart, with its crash recovery, is no restore
        with connect(server.database_url("ours")) as tx:
            push_epochs.require_open(tx)
        server.stop(process)
        (server.data / "recovery.signal").touch()
        with (server.data / "postgresql.auto.conf").open("a") as configuration:
            configuration.write("restore_command = 'false'\n")
        process = server.start()
        # It answers readers before its recovery ends.
        wait_until(lambda: not _is_recovering(server.database_url("ours")), "the end of the recovery")
        with connect(server.database_url("ours")) as tx, pytest.raises(NotAllowed, match="another timeline"):
            push_epochs.require_open(tx)
    finally:
        server.stop(process)


def _is_recovering(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("select pg_is_in_recovery()").fetchone() == (True,)


def test_rows_from_before_the_first_epoch_are_of_it(postgres: EmbeddedPostgres) -> None:
    """An outbox with rows is migrated: they were planned, in epoch 1, and say so for ever."""
    name = f"older_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}")
    url = postgres.database_url(name)
    try:
        migrate(url, migrations=[one for one in load_migrations() if one.version < "0014"])
        with psycopg.connect(url) as connection:
            connection.execute(
                """
                insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name,
                    stripe_meter_id, mode, created_at)
                values (gen_random_uuid(), 't', 'calls', 'sum', 'acct_1', 'calls', 'mtr_1', 'shadow', now())
                """
            )
            connection.execute(
                """
                insert into push_entries (id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id,
                    stripe_event_name, stripe_customer_id, segment_start, day, seq, delta, total_before, total_after,
                    stamped_at, identifier, planned_at, state)
                select gen_random_uuid(), id, 't', 'calls', 'ada', 'acct_1', 'calls', 'cus_1', '2026-11-01Z',
                    '2026-11-02', 1, 5, 0, 5, '2026-11-02 12:00Z', 'um1_x', now(), 'planned'
                from price_mappings
                """
            )
        migrate(url)
        with psycopg.connect(url) as connection:
            assert connection.execute("select epoch, origin from push_entries").fetchall() == [(1, "planned")]
            for change in ("epoch = 2", "origin = 'imported'"):
                with (
                    pytest.raises(psycopg.errors.RestrictViolation, match="its epoch and origin stay"),
                    connection.transaction(),
                ):
                    connection.execute(f"update push_entries set {change}")
    finally:
        with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)")
