"""The proofs see what is wrong: every way the books can fail to balance is reported."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger, open_days
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW, Fact, ingest_into

LOSSES = {
    "a ledger row vanished before the fold": "delete from events where idempotency_key = 'pending'",
    "a counter lost an event": "update counters set primary_count = primary_count - 1",
    "a counter has one too many": "update counters set primary_count = primary_count + 1",
    "a counter vanished": "delete from counters",
    "a conflict vanished": "delete from event_conflicts",
    "a tally vanished": "delete from ingest_tallies",
    "the cursor jumped over events": "update fold_cursors set folded_below = pg_snapshot_xmax(pg_current_snapshot())",
    "the cursor fell back": "update fold_cursors set folded_below = '0'",
}


def books(pool: ConnectionPool, database_url: str) -> None:
    """Two folded events, one pending, a duplicate, a conflict and a rejection."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="1"), Fact(key="2")])
        fold(pool)
        ingest.accept(
            [Fact(key="1"), Fact(key="2", quantity="9"), Fact(key="pending"), Fact(ts=NOW + timedelta(days=1), key="3")]
        )


def test_balanced_books_balance(pool: ConnectionPool, database_url: str) -> None:
    """received = accepted + duplicate + conflict + rejected; accepted = counted + pending; conflicts are kept."""
    books(pool, database_url)
    (row,) = conservation(pool)
    assert (row.received, row.accepted, row.duplicates, row.conflicts, row.rejected) == (6, 3, 1, 1, 1)
    assert (row.counted, row.pending, row.quarantined, row.holds) == (2, 1, 1, True)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_is_seen(pool: ConnectionPool, database_url: str, loss: str) -> None:
    """Law 2 is not satisfied by whatever is left over."""
    books(pool, database_url)
    with transaction(pool) as tx:
        tx.execute(loss)
    assert not all(row.holds for row in conservation(pool))


def test_one_tenant_does_not_hide_anothers_loss(pool: ConnectionPool, database_url: str) -> None:
    """Per tenant: one event too many here and one too few there do not cancel out."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(tenant=tenant, key=str(n)) for tenant in "ab" for n in range(3)])
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update counters set primary_count = primary_count + 1 where tenant_id = 'a'")
        tx.execute("update counters set primary_count = primary_count - 1 where tenant_id = 'b'")
    assert [row.holds for row in conservation(pool)] == [False, False]


def test_an_empty_database_has_nothing_to_prove(pool: ConnectionPool) -> None:
    """No tenants, no mismatches."""
    assert conservation(pool) == ()
    assert counters_equal_ledger(pool, open_days(NOW)[-2:]) == ()


def test_a_tally_cannot_be_written_out_of_balance(pool: ConnectionPool) -> None:
    """Duplicates are what is left, and never fewer than none: the table itself refuses."""
    with transaction(pool) as tx, pytest.raises(Exception, match="ingest_tallies_conserve"):
        tx.execute(
            "insert into ingest_tallies (tenant_id, received_on, writer, received, accepted)"
            " values ('a', now(), 1, 1, 2)"
        )


@pytest.mark.parametrize(
    ("now", "first", "last"),
    [
        (datetime(2026, 11, 23, 12, tzinfo=UTC), date(2026, 10, 1), date(2026, 11, 23)),
        (datetime(2026, 1, 1, tzinfo=UTC), date(2025, 12, 1), date(2026, 1, 1)),
        (datetime(2024, 3, 31, 23, 59, 59, tzinfo=UTC), date(2024, 2, 1), date(2024, 3, 31)),
    ],
)
def test_open_days_are_those_of_this_month_and_the_previous(now: datetime, first: date, last: date) -> None:
    """Their segments may still be invoiced."""
    days = open_days(now)
    assert (days[0], days[-1]) == (first, last)
    assert len(days) == (last - first).days + 1
