"""What is said of customers moves exactly the counters it must, and nothing else."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, Unavailable
from stripemeter.metering.segments import BEGINNING, BillingPhase, parse_phase
from stripemeter.pipeline.customers import (
    ChangedCustomer,
    CustomerChange,
    StripeLink,
    add_alias,
    delete_customer,
    first_change,
    put_customer,
    remove_alias,
    split_segment,
)
from stripemeter.pipeline.fold import fold
from stripemeter.store import customers, ledger
from stripemeter.store.customers import CustomerPhase
from stripemeter.store.postgres import connect, open_pool, transaction

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PATIENT = 60
"""Seconds a change may take to count its days again: more than any machine needs for these."""


def utc(text: str) -> datetime:
    """The instant, UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def put(pool: ConnectionPool, ref: str, *, drain_seconds: int = PATIENT, **said: object) -> ChangedCustomer:
    """Say something of a customer of tenant `t`."""
    return put_customer(
        pool,
        tenant_id="t",
        customer_ref=ref,
        change=CustomerChange(**said),  # type: ignore[arg-type]
        now=NOW,
        drain_seconds=drain_seconds,
    )


def send(pool: ConnectionPool, *events: tuple[str, str, int], metric: str = "calls") -> None:
    """Events (customer, instant, quantity) as an import stores them (history is never late), folded."""
    with transaction(pool) as tx:
        for ref, ts, quantity in events:
            tx.execute("select ensure_events_month(%s)", (utc(ts).date().replace(day=1),))
            tx.execute(
                "insert into events (tenant_id, metric, customer_ref, quantity, ts, received_at, idempotency_key,"
                " source) values ('t', %s, %s, %s, %s, %s, %s, 'import')",
                (metric, ref, quantity, utc(ts), NOW, uuid.uuid4().hex),
            )
    fold(pool)


def counted(pool: ConnectionPool) -> dict[tuple[str, str, str], Decimal]:
    """Quantities by (customer, day, start of the segment)."""
    with transaction(pool) as tx:
        rows = tx.execute(
            "select customer_ref, day, segment_start, sum(quantity_sum) from counters where tenant_id = 't'"
            " group by customer_ref, day, segment_start order by 1, 2, 3"
        ).fetchall()
    return {
        (ref, day.isoformat(), f"{start:%Y-%m-%dT%H:%M:%S}".removesuffix("T00:00:00")): quantity
        for ref, day, start, quantity in rows
    }


def waiting(pool: ConnectionPool) -> list[tuple[str, date, date]]:
    """Asked for and not yet counted again: (customer, first day, last day)."""
    with transaction(pool) as tx:
        return tx.execute("select customer_ref, next_day, last_day from slice_recounts order by id").fetchall()


def test_an_alias_takes_its_events_along_and_back(pool: ConnectionPool) -> None:
    """Past events and later ones count for the customer; taken away again, they are where they had been."""
    send(pool, ("ada", "2026-11-01T10:00", 1), ("lovelace", "2026-11-01T11:00", 2), ("lovelace", "2026-11-05T11:00", 4))
    apart = counted(pool)
    changed = add_alias(pool, tenant_id="t", customer_ref="ada", alias_ref="lovelace", now=NOW, drain_seconds=PATIENT)
    assert (changed.customer.aliases, changed.pending_days) == (("lovelace",), 0)
    send(pool, ("lovelace", "2026-11-05T12:00", 8))
    assert counted(pool) == {("ada", "2026-11-01", "2026-11-01"): 3, ("ada", "2026-11-05", "2026-11-01"): 12}
    remove_alias(pool, tenant_id="t", customer_ref="ada", alias_ref="lovelace", now=NOW, drain_seconds=PATIENT)
    assert counted(pool) == apart | {("lovelace", "2026-11-05", "2026-11-01"): Decimal(12)}
    assert waiting(pool) == []


def test_an_alias_asks_for_the_days_that_have_counters_and_no_others(pool: ConnectionPool) -> None:
    """Days of either reference, adjoining ones as one range, nothing in between."""
    send(
        pool,
        ("ada", "2026-11-01T10:00", 1),
        ("bob", "2026-11-02T10:00", 1),
        ("bob", "2026-11-09T10:00", 1),
        ("cy", "2026-11-05T10:00", 1),
    )
    changed = put(pool, "ada", aliases=("bob",), drain_seconds=0)
    ranges = [(date(2026, 11, 1), date(2026, 11, 2)), (date(2026, 11, 9), date(2026, 11, 9))]
    assert waiting(pool) == [(ref, *days) for ref in ("ada", "bob") for days in ranges]
    assert changed.pending_days == 6


def test_phases_move_the_days_since_they_differ(pool: ConnectionPool) -> None:
    """A rhythm that starts on the tenth leaves the days before where they are, and cuts its first day in two."""
    send(pool, *(("ada", f"2026-11-{day}", 1) for day in ("01T00:00", "10T11:59", "10T12:00", "18T00:00")))
    phases = (
        CustomerPhase(meter="", phase=parse_phase(cadence="week", starts_at=utc("2026-11-10T12:00")), reason="r"),
    )
    put(pool, "ada", phases=phases, drain_seconds=0)
    assert waiting(pool) == [("ada", date(2026, 11, 10), date(2026, 11, 10)), ("ada", *[date(2026, 11, 18)] * 2)]
    put(pool, "ada", time_zone="Europe/Berlin", aliases=())
    assert counted(pool) == {
        ("ada", "2026-11-01", "2026-11-01"): 1,
        ("ada", "2026-11-10", "2026-11-01"): 1,
        ("ada", "2026-11-10", "2026-11-10T12:00:00"): 1,
        ("ada", "2026-11-18", "2026-11-17T12:00:00"): 1,
    }
    put(pool, "ada", phases=phases, drain_seconds=0)
    assert waiting(pool) == []
    with transaction(pool) as tx:
        assert customers.load_phases(tx, ["t"]) == {"t": {("ada", ""): [phases[0].phase]}}


def test_another_meter_keeps_its_segments(pool: ConnectionPool) -> None:
    """Phases of one meter cut that meter alone; the others follow the phases of every meter."""
    send(pool, ("ada", "2026-11-18T00:00", 1))
    send(pool, ("ada", "2026-11-18T00:00", 2), metric="seats")
    week = parse_phase(cadence="week")
    put(pool, "ada", phases=(CustomerPhase(meter="seats", phase=week, reason="r"),))
    assert counted(pool) == {("ada", "2026-11-18", "2026-11-01"): 1, ("ada", "2026-11-18", "2026-11-16"): 2}
    put(pool, "ada", billing=parse_phase(cadence="year"))
    assert counted(pool) == {("ada", "2026-11-18", "2026-01-01"): 1, ("ada", "2026-11-18", "2026-11-16"): 2}


def test_a_split_keeps_the_rhythm_and_is_once(pool: ConnectionPool) -> None:
    """A price change: the segment is cut there, later boundaries stay; saying it again changes nothing."""
    anchored = parse_phase(cadence="month", anchor_at=utc("2026-01-31T09:00"))
    put(pool, "ada", billing=anchored)
    send(pool, *(("ada", f"2026-11-{day}", 1) for day in ("09T00:00", "10T12:00", "30T09:00")))
    for _ in range(2):
        changed = split_segment(
            pool,
            tenant_id="t",
            customer_ref="ada",
            at=utc("2026-11-10T12:00"),
            reason="price change",
            now=NOW,
            drain_seconds=PATIENT,
        )
        assert [each.reason for each in changed.customer.phases] == ["billing", "price change"]
    assert counted(pool) == {
        ("ada", "2026-11-09", "2026-10-31T09:00:00"): 1,
        ("ada", "2026-11-10", "2026-11-10T12:00:00"): 1,
        ("ada", "2026-11-30", "2026-11-30T09:00:00"): 1,
    }


def test_a_split_of_one_meter_takes_the_phases_of_the_others_along(pool: ConnectionPool) -> None:
    """Otherwise its first phase of its own would put the time before it back to calendar months."""
    anchored = parse_phase(cadence="quarter", anchor_at=utc("2026-02-15"))
    put(pool, "ada", billing=anchored)
    at = utc("2026-11-20")
    changed = split_segment(
        pool, tenant_id="t", customer_ref="ada", at=at, meter="seats", reason="r", now=NOW, drain_seconds=PATIENT
    )
    assert [(each.meter, each.phase.starts_at, each.phase.cadence) for each in changed.customer.phases] == [
        ("", BEGINNING, "quarter"),
        ("seats", BEGINNING, "quarter"),
        ("seats", at, "quarter"),
    ]
    with transaction(pool) as tx:
        assert len(customers.load_phases_of(tx, "t", "ada", "seats")) == 2
        assert customers.load_phases_of(tx, "t", "ada", "calls") == [anchored]


def test_the_first_change_is_where_segments_differ() -> None:
    """Not where the rows differ: the calendar month said aloud changes nothing, a first meter of its own everything."""

    def rows(*phases: BillingPhase, meter: str = "") -> list[CustomerPhase]:
        return [CustomerPhase(meter=meter, phase=phase, reason="r") for phase in phases]

    month, week = parse_phase(cadence="month"), parse_phase(cadence="week")
    cut = parse_phase(cadence="week", starts_at=utc("2026-11-10"))
    assert first_change([], rows(month)) is None
    assert first_change([], rows(cut)) == first_change(rows(cut), rows(month)) == utc("2026-11-10")
    assert first_change([], rows(week)) == BEGINNING
    assert first_change(rows(week), rows(week) + rows(cut, meter="seats")) == BEGINNING


def test_aliases_have_no_chains(pool: ConnectionPool) -> None:
    """An alias of an alias or of two, a customer with aliases as an alias, an alias spoken of: refused."""
    put(pool, "ada", aliases=("a2",))
    put(pool, "bob", aliases=("b2",))
    before = waiting(pool)
    for ref, alias in (("bob", "a2"), ("cy", "ada"), ("a2", "x")):
        with pytest.raises(Conflict):
            put(pool, ref, aliases=("b2", alias) if ref == "bob" else (alias,))
    with pytest.raises(Conflict, match="alias of 'ada'"):
        put(pool, "a2", time_zone="UTC")
    with pytest.raises(InvalidInput):
        add_alias(pool, tenant_id="t", customer_ref="ada", alias_ref="ada", now=NOW)
    with transaction(pool) as tx:
        assert customers.load_aliases(tx, None) == {"t": {"a2": "ada", "b2": "bob"}}
        assert customers.load_aliases(tx, ["other"]) == {}
        assert customers.refs_of(tx, "t", "ada") == ["ada", "a2"]
        assert customers.resolve_customer(tx, "t", "a2") == "ada"
        assert customers.resolve_customer(tx, "other", "a2") == "a2"
        assert customers.load_customer(tx, "t", "cy").created_at is None
    assert waiting(pool) == before


def test_deleting_settings_leaves_usage_and_the_stripe_customer(pool: ConnectionPool) -> None:
    """Time zone, aliases, phases and items go; what Stripe was sent for stays known."""
    send(pool, ("ada", "2026-11-18T00:00", 1))
    link = StripeLink(account_id="acct_1", customer_id="cus_1", items=(("calls", "sub_1", "si_1"),))
    put(pool, "ada", time_zone="Europe/Berlin", billing=parse_phase(cadence="week"), stripe=link, aliases=("a2",))
    again = put(pool, "ada", stripe=StripeLink(account_id=None, customer_id="cus_1"))
    assert [item.stripe_item_id for item in again.customer.items] == ["si_1"]
    gone = delete_customer(pool, tenant_id="t", customer_ref="ada", now=NOW, drain_seconds=PATIENT).customer
    assert (gone.time_zone, gone.aliases, gone.phases, gone.items, gone.created_at) == ("UTC", (), (), (), None)
    assert [binding.stripe_customer_id for binding in gone.bindings] == ["cus_1"]
    assert counted(pool) == {("ada", "2026-11-18", "2026-11-01"): 1}


def test_all_or_nothing(pool: ConnectionPool) -> None:
    """A change that clashes in one member changes no other."""
    put(pool, "bob", stripe=StripeLink(account_id="acct_1", customer_id="cus_1"))
    with pytest.raises(Conflict):
        put(
            pool,
            "ada",
            time_zone="Europe/Berlin",
            aliases=("a2",),
            stripe=StripeLink(account_id="acct_1", customer_id="cus_1"),
        )
    with transaction(pool) as tx:
        assert customers.list_customer_refs(tx, "t", after=None, most=9) == ["bob"]
        assert customers.resolve_customer(tx, "t", "a2") == "a2"


def test_what_moves_counters_waits_for_the_fold(pool: ConnectionPool, database_url: str) -> None:
    """Aliases, phases and splits are written under the fold's cursor; a time zone moves nothing and waits for none."""
    with connect(database_url, autocommit=True) as connection:
        connection.execute(
            "do $$ begin execute format('alter database %I set lock_timeout = 100', current_database()); end $$"
        )
    with transaction(pool) as folding, open_pool(database_url, max_size=2) as impatient:
        ledger.lock_cursor(folding)
        put(impatient, "ada", time_zone="Europe/Berlin")
        for said in ({"aliases": ("a2",)}, {"billing": parse_phase(cadence="week")}, {"phases": ()}):
            with pytest.raises(Unavailable, match="lock timeout"):
                put(impatient, "ada", **said)
        at = utc("2026-11-10")
        with pytest.raises(Unavailable, match="lock timeout"):
            split_segment(impatient, tenant_id="t", customer_ref="ada", at=at, reason="r", now=NOW)


def test_a_change_of_nothing_is_a_record(pool: ConnectionPool) -> None:
    """An empty statement makes the customer known, at the instant it was said; later ones keep the first instant."""
    put(pool, "ada")
    later = put_customer(
        pool, tenant_id="t", customer_ref="ada", change=CustomerChange(), now=NOW + timedelta(hours=1)
    ).customer
    assert (later.created_at, later.updated_at) == (NOW, NOW + timedelta(hours=1))
