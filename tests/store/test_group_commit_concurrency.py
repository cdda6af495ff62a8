"""Several writers at once: overlapping batches never deadlock, each key is accepted by exactly one of them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.ingest import GroupCommit
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW, Fact, ingest_into, ledger_rows, parse, stored_counters

WRITERS = 3
KEYS = 120
Answers = list[tuple[str, str, str]]
"""(tenant, key, outcome) of each event sent."""


def _send_overlapping(database_url: str, seed: int) -> Answers:
    """One flusher's worth of requests: the same keys as every other's, in an order of its own, some twice."""
    order = random.Random(seed)

    async def run() -> Answers:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        requests = []
        for _ in range(6):
            facts = [Fact(tenant=order.choice("ab"), key=str(key)) for key in order.sample(range(KEYS), 60)]
            requests.append([*facts, *facts[:5]])
        answers = await asyncio.gather(*(group.accept(parse(request)) for request in requests))
        await group.stop()
        return [
            (fact.tenant, result.idempotency_key, result.outcome.value)
            for request, answer in zip(requests, answers, strict=True)
            for fact, result in zip(request, answer, strict=True)
            if fact.key == result.idempotency_key
        ]

    return asyncio.run(run())


def _send_month(database_url: str, writer: int) -> Answers:
    """Events of months nobody created yet, the same for every writer, under keys of its own."""
    instants = [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2000, 1, 1, tzinfo=UTC),
        *(datetime(2003, month, 1, tzinfo=UTC) for month in range(1, 13)),
        datetime(2026, 11, 23, tzinfo=UTC),
    ]

    async def run() -> Answers:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        facts = [Fact(key=f"{writer}-{ts.isoformat()}", ts=ts) for ts in instants]
        results = await group.accept(parse(facts))
        await group.stop()
        return [("acme", result.idempotency_key, result.outcome.value) for result in results]

    return asyncio.run(run())


def test_overlapping_batches_accept_each_key_once(pool: ConnectionPool, database_url: str) -> None:
    """Three flushers send the same keys in different orders: no deadlock, one acceptance per key, in input order."""
    with ThreadPoolExecutor(WRITERS) as executor:
        futures = [executor.submit(_send_overlapping, database_url, seed) for seed in range(WRITERS)]
        answers = [answer for future in futures for answer in future.result(timeout=120)]
    assert len(answers) == WRITERS * 6 * 65, "every result stands where its event stood"
    accepted = Counter((tenant, key) for tenant, key, outcome in answers if outcome == "accepted")
    assert set(accepted.values()) == {1}
    assert {outcome for _, _, outcome in answers} == {"accepted", "duplicate"}
    assert set(ledger_rows(pool, ["a", "b"])) == set(accepted) == {(tenant, key) for tenant, key, _ in answers}
    fold(pool)
    rows = conservation(pool)
    assert sum(row.received for row in rows) == len(answers)
    assert sum(row.counted for row in rows) == len(accepted)
    assert all(row.holds for row in rows)


def test_new_months_are_created_by_several_workers_at_once(pool: ConnectionPool, database_url: str) -> None:
    """From year 0001 on: no worker fails on another's partition, every event lands and is counted on its day."""
    with ThreadPoolExecutor(WRITERS) as executor:
        futures = [executor.submit(_send_month, database_url, writer) for writer in range(WRITERS)]
        answers = [answer for future in futures for answer in future.result(timeout=120)]
    assert {outcome for _, _, outcome in answers} == {"accepted"}
    with transaction(pool) as tx:
        months = tx.execute("select count(*) from pg_inherits where inhparent = 'events'::regclass").fetchone()
        placed = tx.execute("select count(*) from events where tableoid = 'events_before_2000'::regclass").fetchone()
    assert months == (1 + 1 + 12 + 1,)
    assert placed == (2 * WRITERS,)
    fold(pool)
    counted = {key[3]: state.count for key, state in stored_counters(pool, ["acme"]).items()}
    assert len(counted) == 16
    assert set(counted.values()) == {WRITERS}
    assert counters_equal_ledger(pool, sorted(counted)) == ()


def test_keys_are_taken_in_one_order_by_everybody(pool: ConnectionPool, database_url: str) -> None:
    """Ascending within a batch, whatever the order of arrival: batches that wait for each other cannot form a ring."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key=str(n)) for n in range(200)])
    with transaction(pool) as tx:
        taken = [row[0] for row in tx.execute("select key_hash from event_keys order by ctid")]
    assert len(taken) == 200
    assert taken == sorted(taken)
