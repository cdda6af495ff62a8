"""Fold and recount beside each other, beside themselves and beside ingest: every total is right at every moment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from decimal import Decimal

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.metering.aggregation import aggregate
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store import counters, ledger
from stripemeter.store.postgres import connect, transaction
from stripemeter.store.scan import open_scanner
from tests.laws.worlds import Fact, ingest_into, stored_counters

DAY = date(2026, 11, 23)
WAITERS = """
select count(*) from pg_stat_activity
where datname = current_database() and wait_event_type = 'Lock' and application_name = 'stripemeter'
"""


def counted(pool: ConnectionPool) -> int:
    """Events in the counters."""
    return sum(state.count for state in stored_counters(pool, ["acme"]).values())


def wait_for_waiters(database_url: str, number: int, running: list[Future[object]]) -> None:
    """Until so many sessions wait for a lock; fails when what should wait has ended instead."""
    with psycopg.connect(database_url, autocommit=True) as observer:
        while observer.execute(WAITERS).fetchone() != (number,):
            for future in running:
                assert not future.done(), future.result()
            threading.Event().wait(0.01)


def blocked(database_url: str, verbs: list[Callable[[], object]]) -> list[object]:
    """Results of the verbs, all started while the day is locked and let go together."""
    with ThreadPoolExecutor(len(verbs)) as executor:
        with connect(database_url, application_name="blocker") as blocker:
            counters.lock_days(blocker, [DAY])
            running = [executor.submit(verb) for verb in verbs]
            wait_for_waiters(database_url, len(verbs), running)
        return [future.result(timeout=60) for future in running]


def test_two_folds_at_once_fold_each_event_once(pool: ConnectionPool, database_url: str) -> None:
    """The second waits for the first's cursor, then finds nothing left."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key=str(n)) for n in range(20)])
    reports = blocked(database_url, [lambda: fold(pool).events, lambda: fold(pool).events])
    assert sorted(map(str, reports)) == ["0", "20"]
    assert counted(pool) == 20


@pytest.mark.parametrize("recounts", [1, 2])
def test_a_recount_beside_a_fold_moves_no_total(pool: ConnectionPool, database_url: str, recounts: int) -> None:
    """Both wanted the day at once; whoever is first, they agree which events are in."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key=str(n)) for n in range(10)])
        fold(pool)
        ingest.accept([Fact(key=str(n)) for n in range(10, 17)])
    blocked(database_url, [lambda: fold(pool), *[lambda: recount_day(pool, DAY)] * recounts])
    assert counted(pool) == 17
    assert counters_equal_ledger(pool, [DAY]) == ()
    assert recount_day(pool, DAY).changed == 0


def test_a_recount_during_ingest_leaves_what_is_not_folded_to_the_fold(pool: ConnectionPool, database_url: str) -> None:
    """Committed but unfolded, and still uncommitted events are not counted by a recount, and lost by nobody."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key=str(n)) for n in range(5)])
        fold(pool)
        with connect(database_url) as slow:
            slow.execute(
                "insert into events"
                " (ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key, source) values"
                " ('2026-11-23T01:00:00Z', now(), 1, 'acme', 'api_calls', 'cust_1', 'slow', 'http')"
            )
            ingest.accept([Fact(key=str(n)) for n in range(5, 8)])
            recounted = recount_day(pool, DAY)
            assert (recounted.events, recounted.changed) == (5, 0)
            fold(pool)
            assert recount_day(pool, DAY).changed == 0
            assert counters_equal_ledger(pool, [DAY]) == ()
    assert fold(pool).events == 4
    assert counted(pool) == 9
    assert recount_day(pool, DAY).changed == 0


def test_counting_beside_a_running_ingest_never_shows_a_wrong_state(pool: ConnectionPool, database_url: str) -> None:
    """Folds, recounts and proofs run freely while requests arrive; laws 2 and 4 hold at every look."""
    is_done = threading.Event()

    def send() -> int:
        with ingest_into(database_url) as ingest:
            for batch in range(15):
                ingest.accept([Fact(key=f"{batch}-{n}", quantity="0.1") for n in range(20)])
        is_done.set()
        return 300

    def count(verb: Callable[[], object]) -> None:
        while not is_done.is_set():
            verb()

    with ThreadPoolExecutor(4) as executor:
        sender = executor.submit(send)
        counting = [
            executor.submit(count, lambda: fold(pool, max_events=30)),
            executor.submit(count, lambda: fold(pool)),
            executor.submit(count, lambda: recount_day(pool, DAY)),
        ]
        while not is_done.is_set():
            assert counters_equal_ledger(pool, [DAY]) == ()
            assert all(row.holds for row in conservation(pool) if row.received == row.accepted)
        sent = sender.result(timeout=60)
        for future in counting:
            future.result(timeout=60)
    while fold(pool).has_more:
        pass
    (state,) = stored_counters(pool, ["acme"]).values()
    assert (state.count, state.total) == (sent, Decimal(30))


def test_a_fold_whose_session_is_killed_changes_nothing(pool: ConnectionPool, database_url: str) -> None:
    """Terminated while it waits for the day: Unavailable, and the next fold does all of it."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key=str(n)) for n in range(6)])
    with ThreadPoolExecutor(1) as executor, connect(database_url, application_name="blocker") as blocker:
        counters.lock_days(blocker, [DAY])
        running = executor.submit(fold, pool)
        wait_for_waiters(database_url, 1, [running])  # type: ignore[list-item]
        blocker.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database()"
        )
        with pytest.raises(Unavailable):
            running.result(timeout=60)
    assert counted(pool) == 0
    assert fold(pool).events == 6
    assert counted(pool) == 6


def test_a_naive_reader_beside_the_proof_would_differ(pool: ConnectionPool, database_url: str) -> None:
    """The proof counts what lies below the cursor: an unfolded event is no mismatch, a touched counter is one."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="1")])
        fold(pool)
        ingest.accept([Fact(key="2")])
    assert counters_equal_ledger(pool, [DAY]) == ()
    with transaction(pool) as tx:
        cut, _ = ledger.load_cut(tx)
    with open_scanner(pool) as scanner:
        everything = aggregate(read_meters(scanner.scan_day(DAY, below=cut), Rulebook()))
    with transaction(pool) as tx:
        assert len(counters.compare_day(tx, DAY, everything)) == 1
