"""The outbox defends itself: what Postgres refuses whoever asks."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, NotFound
from stripemeter.metering.days import month_bounds
from stripemeter.metering.deltas import Delta
from stripemeter.pipeline.push_plan import planned_entry
from stripemeter.store import mappings, push_entries
from stripemeter.store.mappings import CustomerBinding, PriceMapping
from stripemeter.store.postgres import transaction
from stripemeter.store.push_entries import Arrival, PushTarget

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SEGMENT = month_bounds(NOW.date())[0]
MAPPING = PriceMapping(
    id=UUID(int=1),
    tenant_id="t",
    meter="calls",
    aggregation="sum",
    stripe_account_id="acct_1",
    stripe_event_name="calls",
    stripe_meter_id="mtr_1",
    mode="shadow",
    created_at=NOW,
)
BINDING = CustomerBinding(
    tenant_id="t", customer_ref="ada", stripe_account_id="acct_1", stripe_customer_id="cus_1", created_at=NOW
)
TARGET = PushTarget(
    mapping_id=MAPPING.id,
    tenant_id="t",
    meter="calls",
    customer_ref="ada",
    stripe_account_id="acct_1",
    stripe_event_name="calls",
    stripe_meter_id="mtr_1",
    stripe_customer_id="cus_1",
)


@pytest.fixture
def outbox(pool: ConnectionPool) -> ConnectionPool:
    """A database with one mapping and one binding."""
    with transaction(pool) as tx:
        mappings.create_mapping(tx, MAPPING)
        mappings.bind_customer(tx, BINDING)
    return pool


def plan(pool: ConnectionPool, quantity: str = "5", *, seq: int = 1, minute: int = 0, before: str = "0") -> UUID:
    """A planned row."""
    delta = Delta(
        stripe_account_id="acct_1",
        stripe_event_name="calls",
        stripe_customer_id="cus_1",
        segment_start=SEGMENT,
        day=NOW.date(),
        seq=seq,
        stamped_at=NOW - timedelta(minutes=minute),
        quantity=Decimal(quantity),
    )
    entry = planned_entry(TARGET, delta, total_before=Decimal(before), now=NOW)
    with transaction(pool) as tx:
        push_entries.insert_planned(tx, [entry])
    return entry.id


def accept(pool: ConnectionPool, entry_id: UUID) -> None:
    """Claim and settle it."""
    with transaction(pool) as tx:
        assert push_entries.claim(tx, [entry_id], now=NOW, lease_until=NOW + timedelta(seconds=60))
        arrival = Arrival(entry_id=entry_id, is_already_accepted=False, request_id="req_1")
        push_entries.settle_accepted(tx, [arrival], now=NOW)


def totals(pool: ConnectionPool) -> tuple[Any, ...]:
    """What push_totals says, which must be what push_entries adds up to."""
    with transaction(pool) as tx:
        kept = tx.execute("select planned_total, accepted_total, entry_count from push_totals").fetchone()
        summed = tx.execute(
            """
            select
                coalesce(sum(delta) filter (
                    where state in ('planned', 'sending', 'accepted', 'confirmed', 'quarantined')), 0),
                coalesce(sum(delta) filter (where state in ('accepted', 'confirmed')), 0),
                count(*)
            from push_entries
            """
        ).fetchone()
    assert kept is not None
    assert kept == summed
    return kept


def test_one_row_in_flight_per_customer_and_meter(outbox: ConnectionPool) -> None:
    """A second row cannot be planned while the first is open, whoever plans it."""
    first = plan(outbox)
    with pytest.raises(Conflict, match="somebody else pushes the same customer"):
        plan(outbox, seq=2, minute=1, before="5")
    accept(outbox, first)
    plan(outbox, seq=2, minute=1, before="5")


def test_a_minute_has_one_row_for_ever(outbox: ConnectionPool) -> None:
    """Not even a settled row gives its minute away: a reading of it must stay unambiguous."""
    accept(outbox, plan(outbox))
    with pytest.raises(Conflict):
        plan(outbox, seq=2, before="5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("delta = 6, total_after = 6", "only its state may change"),
        ("stamped_at = stamped_at - interval '1 minute'", "only its state may change"),
        ("identifier = 'other'", "only its state may change"),
        ("state = 'confirmed'", "from planned to confirmed"),
        ("state = 'accepted'", "from planned to accepted"),
    ],
)
def test_what_was_planned_stays_as_it_was(outbox: ConnectionPool, change: str, message: str) -> None:
    """The content of a row never changes, and its states move one way."""
    plan(outbox)
    with pytest.raises(psycopg.errors.RestrictViolation, match=message), transaction(outbox) as tx:
        tx.execute(f"update push_entries set {change}")


def test_rows_are_never_deleted(outbox: ConnectionPool) -> None:
    """What was sent cannot be forgotten."""
    plan(outbox)
    with pytest.raises(psycopg.errors.RestrictViolation, match="never deleted"), transaction(outbox) as tx:
        tx.execute("delete from push_entries")


@pytest.mark.parametrize(
    "wrong",
    [
        {"total_after": "7"},
        {"stamped_at": "2026-11-23 11:00:30+00"},
        {"stamped_at": "2026-11-22 11:00:00+00"},
        {"delta": "0", "total_after": "0"},
    ],
)
def test_a_row_that_does_not_add_up_is_refused(outbox: ConnectionPool, wrong: dict[str, str]) -> None:
    """Totals add up; the stamp is a whole minute of the day; a delta of nothing is no delta."""
    row = {"delta": "5", "total_after": "5", "stamped_at": "2026-11-23 11:00:00+00", **wrong}
    with pytest.raises(psycopg.errors.CheckViolation), transaction(outbox) as tx:
        tx.execute(
            """
            insert into push_entries (id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id,
                stripe_event_name, stripe_customer_id, segment_start, day, seq, delta, total_before, total_after,
                stamped_at, identifier, planned_at, state)
            values (gen_random_uuid(), %(mapping)s, 't', 'calls', 'ada', 'acct_1', 'calls', 'cus_1',
                '2026-11-01', '2026-11-23', 1, %(delta)s, 0, %(total_after)s, %(stamped_at)s, 'x', now(), 'planned')
            """,
            {"mapping": MAPPING.id, **row},
        )


def test_a_claimed_row_is_its_claimers_until_the_lease_ends(outbox: ConnectionPool) -> None:
    """Two pushers, one row: the second gets it only after the lease."""
    entry = plan(outbox)
    with transaction(outbox) as tx:
        lease = NOW + timedelta(seconds=60)
        assert push_entries.claim(tx, [entry], now=NOW, lease_until=lease) == {entry: (1, 0)}
        assert push_entries.claim(tx, [entry], now=NOW + timedelta(seconds=59), lease_until=lease) == {}
        again = push_entries.claim(tx, [entry], now=lease, lease_until=lease + timedelta(seconds=60))
        assert again == {entry: (2, 0)}


def test_totals_are_the_sums_of_the_outbox(outbox: ConnectionPool) -> None:
    """Through every state: rejected and cancelled rows count as not sent, open ones as perhaps sent."""
    first = plan(outbox)
    assert totals(outbox) == (5, 0, 1)
    accept(outbox, first)
    assert totals(outbox) == (5, 5, 1)
    second = plan(outbox, "3", seq=2, minute=1, before="5")
    with transaction(outbox) as tx:
        push_entries.claim(tx, [second], now=NOW, lease_until=NOW)
    assert totals(outbox) == (8, 5, 2)
    with transaction(outbox) as tx:
        push_entries.settle_rejected(
            tx, second, now=NOW, http_status=400, error_code=None, error_message="no", request_id=None
        )
    assert totals(outbox) == (5, 5, 2)
    with transaction(outbox) as tx:
        arrival = Arrival(entry_id=second, is_already_accepted=True, request_id=None)
        push_entries.settle_accepted(tx, [arrival], now=NOW)
    assert totals(outbox) == (8, 8, 2)


def test_a_rejected_row_waits_for_its_release(outbox: ConnectionPool) -> None:
    """The customer is blocked until an operator of the same tenant releases the row, once."""
    entry = plan(outbox)
    with transaction(outbox) as tx:
        push_entries.claim(tx, [entry], now=NOW, lease_until=NOW)
        push_entries.settle_rejected(
            tx, entry, now=NOW, http_status=400, error_code=None, error_message="no", request_id=None
        )
        assert push_entries.find_blocked(tx, [TARGET]) == {0}
        assert not push_entries.release(tx, tenant_id="other", entry_id=entry, now=NOW)
        assert push_entries.release(tx, tenant_id="t", entry_id=entry, now=NOW)
        assert not push_entries.release(tx, tenant_id="t", entry_id=entry, now=NOW)
        assert not push_entries.find_blocked(tx, [TARGET])


def test_what_would_count_twice_cannot_be_mapped(outbox: ConnectionPool) -> None:
    """One mapping per meter, one meter per event name, one customer per Stripe customer."""
    clone = {name: getattr(MAPPING, name) for name in PriceMapping.__dataclass_fields__}
    with transaction(outbox) as tx:
        for change in ({"stripe_event_name": "other"}, {"meter": "other"}):
            with pytest.raises(Conflict, match="already mapped"):
                mappings.create_mapping(tx, PriceMapping(**{**clone, "id": uuid.uuid4(), **change}))
        assert not mappings.bind_customer(tx, BINDING)
        for customer, stripe_customer in (("bob", "cus_1"), ("ada", "cus_2")):
            with pytest.raises(Conflict):
                mappings.bind_customer(
                    tx,
                    CustomerBinding(
                        tenant_id="t",
                        customer_ref=customer,
                        stripe_account_id="acct_1",
                        stripe_customer_id=stripe_customer,
                        created_at=NOW,
                    ),
                )


def test_a_mapping_goes_off_when_nothing_is_in_flight(outbox: ConnectionPool) -> None:
    """An open row's outcome must be known first; afterwards the meter can be mapped anew."""
    entry = plan(outbox)
    with transaction(outbox) as tx, pytest.raises(Conflict, match="in flight"):
        mappings.turn_off_mapping(tx, tenant_id="t", meter="calls", stripe_account_id="acct_1")
    accept(outbox, entry)
    with transaction(outbox) as tx:
        mappings.turn_off_mapping(tx, tenant_id="t", meter="calls", stripe_account_id="acct_1")
        with pytest.raises(NotFound):
            mappings.turn_off_mapping(tx, tenant_id="t", meter="calls", stripe_account_id="acct_1")
        assert [mapping.mode for mapping in mappings.list_mappings(tx)] == ["off"]
