"""What the group commit answers, and that the tables say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.ingest import MAX_QUEUED_EVENTS, GroupCommit
from stripemeter.pipeline.prove import conservation
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW, Fact, Ingest, ingest_into, ledger_rows, outcomes, parse, stored_counters


@pytest.fixture
def ingest(database_url: str) -> Iterator[Ingest]:
    """A group commit on this test's database."""
    with ingest_into(database_url) as opened:
        yield opened


def quarantined(pool: ConnectionPool) -> list[tuple[object, ...]]:
    """(tenant, key, quantity, times) of every conflict kept."""
    with transaction(pool) as tx:
        return tx.execute(
            "select tenant_id, idempotency_key, quantity, times_received from event_conflicts order by 1, 2, 3"
        ).fetchall()


def test_a_retry_is_a_duplicate_for_ever(pool: ConnectionPool, ingest: Ingest) -> None:
    """Law 1: the same request again, after folds and across processes, changes nothing."""
    facts = [Fact(key=str(n), quantity="2.5") for n in range(3)]
    assert outcomes(ingest.accept(facts)) == ["accepted"] * 3
    fold(pool)
    assert outcomes(ingest.accept(facts)) == ["duplicate"] * 3
    assert fold(pool).events == 0
    (row,) = conservation(pool)
    assert (row.received, row.accepted, row.duplicates, row.counted, row.holds) == (6, 3, 3, 3, True)


def test_a_retry_recognises_itself_in_another_process(database_url: str, ingest: Ingest) -> None:
    """Keys live in Postgres, not in a process."""
    ingest.accept([Fact(key="k")])
    with ingest_into(database_url) as other:
        assert outcomes(other.accept([Fact(key="k")])) == ["duplicate"]


def test_the_same_event_twice_in_one_request_is_stored_once(pool: ConnectionPool, ingest: Ingest) -> None:
    """The first bearer is accepted, the second a duplicate; results in input order."""
    results = ingest.accept([Fact(key="b"), Fact(key="a"), Fact(key="b"), Fact(key="c"), Fact(key="a")])
    assert [(result.idempotency_key, result.outcome.value) for result in results] == [
        ("b", "accepted"),
        ("a", "accepted"),
        ("b", "duplicate"),
        ("c", "accepted"),
        ("a", "duplicate"),
    ]
    assert len(ledger_rows(pool, ["acme"])) == 3


def test_one_key_with_two_payloads_in_one_request_is_a_conflict(pool: ConnectionPool, ingest: Ingest) -> None:
    """A17: the first stands, the others are kept in quarantine, equal ones as one row, and are never counted."""
    results = ingest.accept([Fact(key="k", quantity=quantity) for quantity in ["1", "2", "1", "2", "3"]])
    assert outcomes(results) == ["accepted", "conflict", "duplicate", "conflict", "conflict"]
    assert results[1].code == "idempotency_conflict"
    assert quarantined(pool) == [("acme", "k", Decimal(2), 2), ("acme", "k", Decimal(3), 1)]
    fold(pool)
    (state,) = stored_counters(pool, ["acme"]).values()
    assert (state.count, state.total) == (1, Decimal(1))
    (row,) = conservation(pool)
    assert (row.accepted, row.duplicates, row.conflicts, row.quarantined, row.holds) == (1, 1, 3, 3, True)


def test_requests_of_one_batch_are_told_apart(pool: ConnectionPool, ingest: Ingest) -> None:
    """Whichever requests share a flush, the earlier one is the first bearer."""
    answers = ingest.send_together([[Fact(key="k", quantity=q)] for q in ["1", "1", "2"]])
    assert [outcomes(answer) for answer in answers if not isinstance(answer, BaseException)] == [
        ["accepted"],
        ["duplicate"],
        ["conflict"],
    ]
    assert quarantined(pool) == [("acme", "k", Decimal(2), 1)]


@pytest.mark.parametrize(
    "changed",
    [
        {"ts": datetime(2025, 1, 31, 23, 59, 59, 999999, tzinfo=UTC)},
        {"ts": datetime(1999, 12, 31, tzinfo=UTC)},
        {"ts": NOW + timedelta(microseconds=1)},
        {"quantity": "1.000000000001"},
        {"customer": "other"},
        {"metric": "other"},
        {"resource": "r"},
        {"resource": ""},
        {"meta": {}},
    ],
    ids=[
        "another month",
        "another century",
        "a microsecond",
        "quantity",
        "customer",
        "metric",
        "resource",
        "none",
        "meta",
    ],
)
def test_a_key_is_taken_across_months_and_fields(
    pool: ConnectionPool, ingest: Ingest, changed: dict[str, object]
) -> None:
    """The key alone decides who was first: no storage partition forgets it, every billable field is compared."""
    fact = Fact(key="k")
    ingest.accept([fact])
    assert outcomes(ingest.accept([replace(fact, **changed)])) == ["conflict"]  # type: ignore[arg-type]
    assert outcomes(ingest.accept([fact])) == ["duplicate"]
    assert len(ledger_rows(pool, ["acme"])) == 1


def test_tenants_do_not_share_keys(pool: ConnectionPool, ingest: Ingest) -> None:
    """A14: the same key in two tenants is two events."""
    assert outcomes(ingest.accept([Fact(tenant=tenant, key="k") for tenant in "abc"])) == ["accepted"] * 3
    assert len(ledger_rows(pool, list("abc"))) == 3


def test_a_header_key_stores_every_event_of_a_batch(pool: ConnectionPool, ingest: Ingest) -> None:
    """A16: n events under one header are n events, and the retry is n duplicates."""
    facts = [Fact(quantity=str(n)) for n in range(5)]
    assert outcomes(ingest.accept(facts, header_key="h")) == ["accepted"] * 5
    assert outcomes(ingest.accept(facts, header_key="h")) == ["duplicate"] * 5
    assert set(ledger_rows(pool, ["acme"])) == {("acme", f"h:{n}") for n in range(5)}


def test_quick_calls_without_keys_are_all_stored(pool: ConnectionPool, ingest: Ingest) -> None:
    """A15: events a microsecond apart, or of another quantity, have derived keys of their own."""
    facts = [Fact(ts=NOW + timedelta(microseconds=n)) for n in range(50)] + [
        Fact(quantity=str(n)) for n in range(2, 12)
    ]
    assert set(outcomes(ingest.accept(facts))) == {"accepted"}
    assert len(ledger_rows(pool, ["acme"])) == 60


def test_rejected_events_are_tallied_and_not_stored(pool: ConnectionPool, ingest: Ingest) -> None:
    """An event too far ahead is a value among the results; its neighbours are stored, the tally conserves."""
    results = ingest.accept([Fact(key="1"), Fact(key="2", ts=NOW + timedelta(hours=1, seconds=1)), Fact(key="3")])
    assert outcomes(results) == ["accepted", "error", "accepted"]
    assert results[1].code == "ts_too_far_ahead"
    (row,) = conservation(pool)
    assert (row.received, row.accepted, row.rejected, row.holds) == (3, 2, 1, True)
    assert outcomes(ingest.accept([Fact(key="2")])) == ["accepted"], "a rejected event's key is still free"


def test_an_empty_request_is_answered(ingest: Ingest) -> None:
    """No events, no results; the flusher lives on."""
    assert ingest.accept_parsed([]) == []
    assert outcomes(ingest.accept([Fact(key="k")])) == ["accepted"]


def test_a_full_queue_refuses_and_stores_nothing_of_it(pool: ConnectionPool, ingest: Ingest) -> None:
    """Beyond the bound a request is Unavailable at once; everything admitted before it is stored."""
    batch = parse([Fact(key=str(n)) for n in range(1000)])
    requests = [batch] * (MAX_QUEUED_EVENTS // 1000) + [parse([Fact(key="one too many")])]
    answers = ingest.accept_together(requests)
    assert isinstance(answers[-1], Unavailable)
    assert not any(isinstance(answer, BaseException) for answer in answers[:-1])
    assert len(ledger_rows(pool, ["acme"])) == 1000
    (row,) = conservation(pool)
    assert (row.received, row.accepted, row.holds) == (MAX_QUEUED_EVENTS, 1000, True)
    assert outcomes(ingest.accept([Fact(key="one too many")])) == ["accepted"]


def test_stopping_answers_what_is_queued(pool: ConnectionPool, database_url: str) -> None:
    """`stop` stores everything admitted before it, and nothing is admitted after."""

    async def run() -> None:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        queued = [asyncio.ensure_future(group.accept(parse([Fact(key=str(n))]))) for n in range(20)]
        await asyncio.sleep(0)  # lets every request reach the queue
        await group.stop()
        assert [outcomes(await answer) for answer in queued] == [["accepted"]] * 20
        with pytest.raises(Unavailable, match="stopping"):
            await group.accept(parse([Fact(key="late")]))

    asyncio.run(run())
    assert len(ledger_rows(pool, ["acme"])) == 20


def test_an_abandoned_request_is_stored_or_not_but_never_twice(pool: ConnectionPool, database_url: str) -> None:
    """A client that leaves while it waits does not disturb the batch; its retry is recognised."""

    async def run() -> None:
        group = GroupCommit(database_url, clock=lambda: NOW)
        group.start()
        leaver = asyncio.ensure_future(group.accept(parse([Fact(key="left")])))
        stayer = asyncio.ensure_future(group.accept(parse([Fact(key="stayed")])))
        await asyncio.sleep(0)
        leaver.cancel()
        assert outcomes(await stayer) == ["accepted"]
        assert outcomes(await group.accept(parse([Fact(key="left")])))[0] in {"accepted", "duplicate"}
        await group.stop()

    asyncio.run(run())
    assert len(ledger_rows(pool, ["acme"])) == 2


def test_events_of_one_request_keep_its_order_in_the_ledger(pool: ConnectionPool, ingest: Ingest) -> None:
    """seq follows the request: of many events at one instant, `last` is the one that stands last."""
    ingest.accept([Fact(key=f"k{number}", quantity=str(number)) for number in range(50)])
    fold(pool)
    with transaction(pool) as tx:
        assert tx.execute("select quantity_last from counters").fetchall() == [(49,)]
