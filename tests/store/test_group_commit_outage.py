"""The database goes away: waiters are told, the flusher comes back, what was acknowledged is there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.ingest import GroupCommit
from stripemeter.pipeline.prove import conservation
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres, find_bin_directory
from stripemeter.store.migrations import migrate
from stripemeter.store.postgres import connect, open_pool, transaction
from tests.laws.worlds import NOW, Fact, ledger_rows, outcomes, parse
from tests.store.test_group_commit_poison import poisoned

KILL = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'stripemeter-ingest'"
SESSIONS = """
select pid from pg_stat_activity
where application_name = 'stripemeter-ingest' and datname = current_database()
"""
WAITING = """
select count(*) from pg_stat_activity
where application_name = 'stripemeter-ingest' and wait_event_type = 'Lock' and datname = current_database()
"""


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition of another process; the test's own timeout bounds it."""
    while not await holds():  # noqa: ASYNC110 - what is waited for happens in Postgres
        await asyncio.sleep(0.01)


def test_a_killed_session_is_unavailable_and_a_resend_is_safe(pool: ConnectionPool, database_url: str) -> None:
    """Terminated inside its statement: every waiter gets Unavailable, the next request opens a new session."""

    async def run() -> None:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        assert outcomes(await group.accept(parse([Fact(key="before")]))) == ["accepted"]
        # A foreign transaction holds one of the keys, so the flusher hangs inside its statement.
        (held,) = parse([Fact(key="1")])
        with connect(database_url) as blocker:
            blocker.execute(
                "insert into event_keys (key_hash, payload_hash, ts) values (%(hash)s, 0, now())",
                {"hash": held.key_hash.hex()},
            )
            waiters = [asyncio.ensure_future(group.accept(parse([Fact(key=str(n))]))) for n in range(3)]
            with psycopg.connect(database_url, autocommit=True) as observer:

                async def is_stuck() -> bool:
                    return observer.execute(WAITING).fetchone() == (1,)

                await until(is_stuck)
                observer.execute(KILL + " and datname = current_database()")
            answers = await asyncio.gather(*waiters, return_exceptions=True)
            assert [type(answer) for answer in answers] == [Unavailable] * 3
            blocker.rollback()
        results = await asyncio.gather(*(group.accept(parse([Fact(key=str(n))])) for n in range(3)))
        assert [outcomes(result) for result in results] == [["accepted"]] * 3
        await group.stop()

    asyncio.run(run())
    assert set(ledger_rows(pool, ["acme"])) == {("acme", key) for key in ["before", "0", "1", "2"]}
    assert all(row.holds for row in conservation(pool))


@pytest.mark.parametrize(
    ("raised", "answered"), [(asyncpg.InternalClientError, Unavailable), (ZeroDivisionError, ZeroDivisionError)]
)
def test_a_driver_that_lost_its_way_is_left_and_another_session_opened(
    pool: ConnectionPool,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    raised: type[Exception],
    answered: type[Exception],
) -> None:
    """A server that dies between two of the driver's steps makes it fail in its own words: an outage like any other.

    Whatever failed, the session in its unknown state is not used again.
    """

    async def run() -> None:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        assert outcomes(await group.accept(parse([Fact(key="before")]))) == ["accepted"]
        with psycopg.connect(database_url, autocommit=True) as observer:
            (first,) = observer.execute(SESSIONS).fetchall()
            with monkeypatch.context() as patched:

                async def fail(*_: object, **__: object) -> None:
                    raise raised("cannot switch to state 12; another operation (2) is in progress")

                patched.setattr(asyncpg.Connection, "fetch", fail)
                with pytest.raises(answered):
                    await group.accept(parse([Fact(key="lost")]))
            assert outcomes(await group.accept(parse([Fact(key="lost")]))) == ["accepted"]

            async def is_left() -> bool:
                return first not in observer.execute(SESSIONS).fetchall()

            # The server ends a session it was left by in its own time.
            await until(is_left)
        await group.stop()

    asyncio.run(run())
    assert set(ledger_rows(pool, ["acme"])) == {("acme", "before"), ("acme", "lost")}


def test_a_commit_whose_answer_was_lost_is_a_duplicate_on_resend(pool: ConnectionPool, database_url: str) -> None:
    """The batch commits, the quarantine that follows is killed: all are told Unavailable, none is stored twice."""

    async def run() -> None:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        await group.accept(parse([Fact(key="taken")]))
        request = parse([Fact(key="new"), Fact(key="taken", quantity="2")])
        with connect(database_url) as blocker:
            blocker.execute("lock table event_conflicts in exclusive mode")
            waiter = asyncio.ensure_future(group.accept(request))
            with psycopg.connect(database_url, autocommit=True) as observer:

                async def is_stuck() -> bool:
                    return observer.execute(WAITING).fetchone() == (1,)

                await until(is_stuck)
                observer.execute(KILL + " and datname = current_database()")
            with pytest.raises(Unavailable):
                await waiter
            blocker.rollback()
        assert outcomes(await group.accept(request)) == ["duplicate", "conflict"]
        await group.stop()

    asyncio.run(run())
    assert len(ledger_rows(pool, ["acme"])) == 2
    assert all(row.holds for row in conservation(pool))


def test_poison_met_while_the_database_goes_is_unavailable_not_an_internal_error(database_url: str) -> None:
    """An isolation that loses its session answers Unavailable like any other flush."""

    async def run() -> None:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        (good,) = parse([Fact(key="good")])
        with connect(database_url) as blocker:
            await group.accept(parse([Fact(key="warm")]))
            blocker.execute(
                "insert into event_keys (key_hash, payload_hash, ts) values (%(hash)s, 0, now())",
                {"hash": good.key_hash.hex()},
            )
            waiter = asyncio.ensure_future(group.accept([poisoned("acme", "bad", metric="\x00"), good]))
            with psycopg.connect(database_url, autocommit=True) as observer:

                async def is_stuck() -> bool:
                    return observer.execute(WAITING).fetchone() == (1,)

                await until(is_stuck)
                observer.execute(KILL + " and datname = current_database()")
            with pytest.raises(Unavailable):
                await waiter
            blocker.rollback()
        await group.stop()

    asyncio.run(run())


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedPostgres:
    """A server of this test's own that really syncs."""
    server = EmbeddedPostgres(
        directory=tmp_path_factory.mktemp("durable"), bin_directory=find_bin_directory(), shared_buffers_mb=32
    )
    server.prepare()
    return server


def test_every_acknowledged_event_survives_kill_9_of_postgres(own_server: EmbeddedPostgres) -> None:
    """Law 2: the whole server is killed under load, twice; what was answered `accepted` is in the ledger, once."""
    acknowledged: set[str] = set()
    process = own_server.start()
    try:
        migrate(own_server.database_url())

        async def run() -> None:
            nonlocal process
            group = GroupCommit(own_server.database_url(), clock=lambda: NOW)
            group.start()
            for life in "ab":
                await _load_until_killed(group, life, acknowledged, process)
                with pytest.raises(Unavailable):
                    await group.accept(parse([Fact(key="while down")]))
                process = own_server.start()  # in this thread: the server is told to stop when its starter ends
                assert outcomes(await group.accept(parse([Fact(key=f"after {life}")]))) == ["accepted"]
            await group.stop()

        asyncio.run(run())
        _check_durable(own_server.database_url(), acknowledged)
    finally:
        own_server.stop(process)


async def _load_until_killed(
    group: GroupCommit, life: str, acknowledged: set[str], process: subprocess.Popen[bytes]
) -> None:
    clients = [asyncio.ensure_future(_client(group, f"{life}-{n}", acknowledged)) for n in range(8)]
    enough = len(acknowledged) + 400

    async def is_busy() -> bool:
        return len(acknowledged) >= enough

    await until(is_busy)
    _kill_9(process.pid)
    process.wait()
    await asyncio.gather(*clients)  # each ends with its first Unavailable


def _check_durable(database_url: str, acknowledged: set[str]) -> None:
    with open_pool(database_url, max_size=2) as pool:
        stored = {key for _, key in ledger_rows(pool, ["acme"])}
        assert acknowledged <= stored
        with transaction(pool) as tx:
            keys = tx.execute("select count(*) from event_keys").fetchone()
        assert keys == (len(stored),)
        fold(pool)
        (row,) = conservation(pool)
        assert (row.counted, row.holds) == (len(stored), True)


async def _client(group: GroupCommit, name: str, acknowledged: set[str]) -> None:
    number = 0
    while True:
        keys = [f"{name}-{number}-{n}" for n in range(5)]
        try:
            results = await group.accept(parse([Fact(key=key) for key in keys]))
        except Unavailable:
            return
        assert outcomes(results) == ["accepted"] * 5
        acknowledged.update(keys)
        number += 1


def _kill_9(postmaster: int) -> None:
    """The postmaster and all it started, at once, as a power cut would."""
    os.kill(postmaster, signal.SIGSTOP)  # or it would tidy up after its children
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == postmaster:
            os.kill(int(status.parent.name), signal.SIGKILL)
    os.kill(postmaster, signal.SIGKILL)
