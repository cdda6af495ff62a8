"""Voids: an event counts nowhere from the commit on, folded or not; nothing is deleted."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotFound
from stripemeter.metering.events import UsageEvent
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.pipeline.void import VoidedEvent, void_event
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW, Fact, ingest_into, outcomes, parse, stored_counters

DAY = NOW.date()
KEY = ("acme", "cust_1", "api_calls", DAY)


def send(database_url: str, *facts: Fact) -> list[str]:
    """One request; its outcomes."""
    with ingest_into(database_url) as ingest:
        return outcomes(ingest.accept(facts))


def void(pool: ConnectionPool, key: str, replacement: Fact | None = None) -> VoidedEvent:
    """Void one of acme's events."""
    event: UsageEvent | None = None
    if replacement is not None:
        (parsed,) = parse([replacement])
        assert isinstance(parsed, UsageEvent)
        event = parsed
    return void_event(pool, "acme", key, reason="test", actor="tester", now=NOW, replacement=event)


def holds(pool: ConnectionPool) -> bool:
    """Laws 2 and 4."""
    return all(row.holds for row in conservation(pool)) and counters_equal_ledger(pool, [DAY]) == ()


@pytest.mark.parametrize("is_folded", [True, False], ids=["folded", "unfolded"])
def test_totals_follow_at_once(pool: ConnectionPool, database_url: str, *, is_folded: bool) -> None:
    """Sum, count, minimum, maximum and last are those of the events that are left."""
    facts = [
        Fact(key=quantity, quantity=quantity, ts=NOW - timedelta(minutes=age))
        for quantity, age in (("1", 3), ("9", 2), ("5", 1))
    ]
    send(database_url, *facts)
    if is_folded:
        fold(pool)
    assert void(pool, "9").is_new
    assert void(pool, "5").is_new
    fold(pool)
    state = stored_counters(pool, ["acme"])[KEY]
    assert (state.count, state.total, state.least, state.greatest, state.last) == (1, 1, 1, 1, 1)
    (tenant,) = conservation(pool)
    assert (tenant.accepted, tenant.counted, tenant.voided) == (3, 1, 2)
    assert holds(pool)


def test_the_last_event_of_a_counter_takes_it_away(pool: ConnectionPool, database_url: str) -> None:
    """No row stands for nothing; a recount finds the same."""
    send(database_url, Fact(key="k"))
    fold(pool)
    void(pool, "k")
    assert stored_counters(pool, ["acme"]) == {}
    assert recount_day(pool, DAY).changed == 0


def test_voiding_again_changes_nothing_and_the_key_stays_taken(pool: ConnectionPool, database_url: str) -> None:
    """A second call answers the first void; the event sent again is a duplicate and does not come back."""
    send(database_url, Fact(key="k"))
    fold(pool)
    first, second = void(pool, "k"), void(pool, "k")
    assert (first.is_new, second.is_new) == (True, False)
    assert second.void == first.void
    assert send(database_url, Fact(key="k")) == ["duplicate"]
    fold(pool)
    assert stored_counters(pool, ["acme"]) == {}
    assert holds(pool)


def test_a_replacement_is_stored_with_the_void_or_not_at_all(pool: ConnectionPool, database_url: str) -> None:
    """The successor counts once; a retry is the same; another one, or one under a taken key, is refused whole."""
    send(database_url, Fact(key="k", quantity="9"), Fact(key="taken"))
    fold(pool)
    with pytest.raises(Conflict):
        void(pool, "k", Fact(key="taken", quantity="7"))
    assert stored_counters(pool, ["acme"])[KEY].count == 2, "nothing may be half-done"
    for _ in range(2):
        void(pool, "k", Fact(key="k2", quantity="4"))
    fold(pool)
    assert stored_counters(pool, ["acme"])[KEY].total == 5
    with pytest.raises(Conflict):
        void(pool, "k", Fact(key="k3"))
    with pytest.raises(InvalidInput):
        void(pool, "k2", Fact(key="k2"))
    assert holds(pool)


def test_a_key_nobody_sent_is_not_found(pool: ConnectionPool, database_url: str) -> None:
    """Nor is another tenant's."""
    send(database_url, Fact(tenant="other", key="k"))
    with pytest.raises(NotFound):
        void(pool, "k")


def test_voids_are_never_changed(pool: ConnectionPool, database_url: str) -> None:
    """The table refuses updates and deletes."""
    send(database_url, Fact(key="k"))
    void(pool, "k")
    for statement in ("update event_voids set reason = 'x'", "delete from event_voids"):
        with pytest.raises(psycopg.errors.RestrictViolation), transaction(pool) as tx:
            tx.execute(statement)


def test_a_late_event_that_is_voided_leaves_its_lane(pool: ConnectionPool, database_url: str) -> None:
    """Approved or waiting: it counts nowhere, and the law of conservation counts it once."""
    send(database_url, Fact(key="now"))
    fold(pool, now=NOW)
    send(database_url, Fact(key="open", ts=NOW - timedelta(days=5)), Fact(key="closed", ts=NOW - timedelta(days=90)))
    fold(pool, now=NOW)
    void(pool, "open")
    void(pool, "closed")
    (tenant,) = conservation(pool)
    assert (tenant.counted, tenant.withheld, tenant.voided) == (1, 0, 2)
    days = [(NOW - timedelta(days=age)).date() for age in (5, 90)]
    assert counters_equal_ledger(pool, days) == ()


def test_folds_recounts_and_voids_beside_each_other(pool: ConnectionPool, database_url: str) -> None:
    """Whoever comes first: in the end exactly what was not voided is counted."""
    send(database_url, *[Fact(key=str(number)) for number in range(40)])
    with ThreadPoolExecutor(6) as threads:
        work: list[Future[Any]] = [threads.submit(fold, pool, max_events=5) for _ in range(6)]
        work += [threads.submit(void, pool, str(number)) for number in range(0, 40, 2)]
        work += [threads.submit(recount_day, pool, DAY) for _ in range(4)]
        for done in work:
            done.result(timeout=60)
    while fold(pool).events:
        pass
    assert stored_counters(pool, ["acme"])[KEY].count == 20
    assert holds(pool)
