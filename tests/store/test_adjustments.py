"""Adjustments in the store: allowed transitions, an audit nobody changes, late events that move counters at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotAllowed, NotFound
from stripemeter.pipeline.adjustments import Decision, PolicyChange, create_adjustment, decide, find, put_policy
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.adjustments import Adjustment, NewAdjustment
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW, Fact, ingest_into

MAX_DELTA = Decimal(1_000_000)
LATE = NOW - timedelta(days=60)  # its segment closed: the adjustment waits
NEW = NewAdjustment(
    tenant_id="acme",
    metric="api_calls",
    customer_ref="cust_1",
    period="day",
    day=date(2026, 1, 5),
    effective_at=datetime(2026, 1, 5, tzinfo=UTC),
    delta=Decimal("-2.5"),
    reason="credit",
    request_id="r1",
    note=None,
    actor="ann",
)


def create(pool: ConnectionPool, new: NewAdjustment = NEW) -> tuple[Adjustment, bool]:
    """As asked for, and whether it is new."""
    return create_adjustment(pool, new, now=NOW, max_delta=MAX_DELTA)


def take(pool: ConnectionPool, adjustment_id: UUID, *decisions: Decision) -> None:
    """Decide, one after the other, as somebody else than the creator."""
    for decision in decisions:
        assert not decide(pool, "acme", adjustment_id, decision, actor="bob", now=NOW).was_so_before


def late_adjustment(pool: ConnectionPool, database_url: str) -> UUID:
    """The pending adjustment of an event of 7, on a day that has counted 2."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="old", ts=LATE, quantity="2"), Fact(key="now", ts=NOW)])
        fold(pool, now=NOW)
        ingest.accept([Fact(key="late", ts=LATE, quantity="7")])
        fold(pool, now=NOW)
    with transaction(pool) as tx:
        ((found,),) = tx.execute("select id from adjustments where status = 'pending'").fetchall()
    assert isinstance(found, UUID)
    return found


def lanes(pool: ConnectionPool) -> dict[bool, Decimal]:
    """The sum of each lane on the late day; laws 2 and 4 hold."""
    assert counters_equal_ledger(pool, [LATE.date()]) == ()
    assert all(row.holds for row in conservation(pool))
    with transaction(pool) as tx:
        rows = tx.execute(
            "select is_late, sum(quantity_sum) from counters where day = %(day)s group by is_late", {"day": LATE.date()}
        ).fetchall()
    return {is_late: total.normalize() for is_late, total in rows}


def waiting_sessions(pool: ConnectionPool) -> int:
    """How many sessions of this database wait for a lock."""
    with transaction(pool) as tx:
        ((count,),) = tx.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ).fetchall()
    return int(count)


@pytest.mark.parametrize(
    ("path", "refused"),
    [
        ([], "reverted"),
        (["approved"], "rejected"),
        (["rejected"], "approved"),
        (["rejected"], "reverted"),
        (["approved", "reverted"], "approved"),
        (["approved", "reverted"], "rejected"),
    ],
)
def test_no_other_transition_is_allowed(pool: ConnectionPool, path: list[Decision], refused: Decision) -> None:
    """pending to approved to reverted, or pending to rejected; a refusal leaves state and audit as they were."""
    adjustment, _ = create(pool)
    take(pool, adjustment.id, *path)
    before = find(pool, "acme", adjustment.id)
    with pytest.raises(InvalidInput):
        decide(pool, "acme", adjustment.id, refused, actor="bob", now=NOW)
    assert find(pool, "acme", adjustment.id) == before
    assert [step.status_after for step in before[1]] == ["pending", *path]


@pytest.mark.parametrize(
    "statement", ["update adjustment_transitions set actor = 'x'", "delete from adjustment_transitions"]
)
def test_the_audit_is_never_changed(pool: ConnectionPool, statement: str) -> None:
    """Whoever reaches the table can only add to it."""
    create(pool)
    with pytest.raises(psycopg.errors.RestrictViolation), pool.connection() as connection:
        connection.execute(statement.encode())


def test_two_creators_of_one_request_make_one_row(pool: ConnectionPool) -> None:
    """Eight at once under the same request id: one is new, all get its row, and one audit row stands."""
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: create(pool), range(8)))
    assert sorted(is_new for _, is_new in made) == [False] * 7 + [True]
    assert len({adjustment.id for adjustment, _ in made}) == 1
    assert len(find(pool, "acme", made[0][0].id)[1]) == 1


def test_a_request_id_means_one_thing(pool: ConnectionPool) -> None:
    """Other content under a used request id is a conflict; another tenant's request ids are its own."""
    create(pool)
    with pytest.raises(Conflict, match="delta"):
        create(pool, replace(NEW, delta=Decimal(3)))
    assert create(pool, replace(NEW, tenant_id="other", delta=Decimal(3)))[1]


def test_two_deciders_decide_once(pool: ConnectionPool) -> None:
    """Four approvals held up at the same row, then let go: one takes effect, the others find it so."""
    adjustment, _ = create(pool)

    def approve(_: int) -> bool:
        return decide(pool, "acme", adjustment.id, "approved", actor="bob", now=NOW).was_so_before

    with ThreadPoolExecutor(4) as threads:
        with pool.connection() as holder:
            holder.execute("select id from adjustments for update")
            found = [threads.submit(approve, number) for number in range(4)]
            while waiting_sessions(pool) < len(found):
                assert not any(answer.done() for answer in found)
        assert sorted(answer.result() for answer in found) == [False, True, True, True]
    assert [step.action for step in find(pool, "acme", adjustment.id)[1]] == ["created", "approved"]


def test_four_eyes(pool: ConnectionPool) -> None:
    """The creator may not approve while the tenant wants four eyes; anybody else may."""
    put_policy(pool, "acme", PolicyChange(is_four_eyes=True), now=NOW)
    adjustment, _ = create(pool)
    with pytest.raises(NotAllowed):
        decide(pool, "acme", adjustment.id, "approved", actor="ann", now=NOW)
    take(pool, adjustment.id, "approved")


def test_another_tenants_adjustment_is_not_there(pool: ConnectionPool) -> None:
    """No tenant can decide about, or see, what is another's."""
    adjustment, _ = create(pool)
    with pytest.raises(NotFound):
        decide(pool, "other", adjustment.id, "approved", actor="bob", now=NOW)
    with pytest.raises(NotFound):
        find(pool, "other", adjustment.id)


def test_a_late_event_counts_while_it_is_approved(pool: ConnectionPool, database_url: str) -> None:
    """Each decision moves the late lane with it: approved it counts, reverted it is as if it had never come."""
    waiting = late_adjustment(pool, database_url)
    assert lanes(pool) == {False: Decimal(2)}
    take(pool, waiting, "approved")
    assert lanes(pool) == {False: Decimal(2), True: Decimal(7)}
    take(pool, waiting, "reverted")
    assert lanes(pool) == {False: Decimal(2)}


def test_a_rejected_late_event_counts_nowhere(pool: ConnectionPool, database_url: str) -> None:
    """Not then, and not after a recount of its day."""
    waiting = late_adjustment(pool, database_url)
    take(pool, waiting, "rejected")
    assert lanes(pool) == {False: Decimal(2)}
    assert recount_day(pool, LATE.date(), now=NOW).absorbed == 0
    assert lanes(pool) == {False: Decimal(2)}


def test_absorbed_is_the_end(pool: ConnectionPool, database_url: str) -> None:
    """A recount takes an approved late event into the main lane without moving the total; no decision follows."""
    waiting = late_adjustment(pool, database_url)
    take(pool, waiting, "approved")
    assert recount_day(pool, LATE.date(), now=NOW).absorbed == 1
    assert lanes(pool) == {False: Decimal(9)}
    decisions: list[Decision] = ["approved", "rejected", "reverted"]
    for decision in decisions:
        with pytest.raises(InvalidInput):
            decide(pool, "acme", waiting, decision, actor="bob", now=NOW)
    assert find(pool, "acme", waiting)[0].status == "absorbed"
    assert lanes(pool) == {False: Decimal(9)}
