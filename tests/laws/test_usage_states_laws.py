"""Voids, late lanes, adjustments and other names of customers: both readers answer with the same number."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from psycopg_pool import ConnectionPool

from stripemeter.metering.windows import window_edges
from stripemeter.pipeline.fold import fold
from stripemeter.store.postgres import transaction
from stripemeter.store.usage_windows import GroupBy, Reader, UsageQuestion, load_usage_windows
from tests.adjusting import adjust, alias, transition, void
from tests.laws.worlds import Fact, ingest_into

FIRST = datetime(2026, 10, 24, tzinfo=UTC)
LAST = datetime(2026, 11, 3, tzinfo=UTC)
READERS: list[Reader] = ["counters", "ledger"]
_Found = tuple[str | None, str, int]


def test_readers_agree_about_voids_late_lanes_adjustments_and_other_names(pool: ConnectionPool) -> None:
    """Counters and ledger are one number whatever the states of events are; filters leave adjustments out of both."""
    day = timedelta(days=1)
    facts = [
        Fact(metric="calls", customer="a", quantity="100", ts=FIRST + 8 * day),
        Fact(metric="calls", customer="a", quantity="1", ts=FIRST + timedelta(hours=1)),
        Fact(metric="calls", customer="a", quantity="2", ts=FIRST + timedelta(hours=2)),
        Fact(metric="calls", customer="b", quantity="40", ts=FIRST + timedelta(hours=3)),
        Fact(metric="calls", customer="b", quantity="8", ts=FIRST + timedelta(hours=4)),
    ]
    alias(pool, "states", "b", "a")
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([replace(facts[0], tenant="states", key="k0")])
        fold(pool)  # the watermark: what follows is eight days late
        ingest.accept([replace(facts[n], tenant="states", key=f"k{n}") for n in (1, 2)])
        fold(pool, now=FIRST + 9 * day)  # its month is open: approved, the late lane
        with transaction(pool) as tx:
            tx.execute("insert into tenant_policies values ('states', 'never', 0, false, now())")
        ingest.accept([replace(facts[3], tenant="states", key="k3")])
        fold(pool, now=FIRST + 9 * day)  # withheld
        ingest.accept([replace(facts[4], tenant="states", key="k4")])
    void(pool, "states", "k4")
    before = datetime.now(UTC)
    adjust(pool, "states", "-0.5", FIRST, customer_ref="a", metric="calls")
    adjust(pool, "states", "1000", FIRST, customer_ref="a", metric="calls", status="rejected")
    adjust(pool, "states", "3", FIRST + 2 * day, customer_ref="c", metric="calls")
    cases: list[tuple[GroupBy, list[str] | None, list[_Found], list[_Found]]] = [
        ("none", None, [(None, "2.5", 2)], [(None, "3", 0)]),
        ("none", ["b"], [(None, "2.5", 2)], [(None, "0", 0)]),
        ("customerRef", None, [("a", "2.5", 2), ("c", "0", 0)], [("a", "0", 0), ("c", "3", 0)]),
    ]
    for group_by, refs, first, third in cases:
        question = UsageQuestion(
            tenant_id="states", metric="calls", edges=_days(), group_by=group_by, customer_refs=refs
        )
        for reader in READERS:
            cells = load_usage_windows(pool, question, reader=reader).cells
            for offset, expected in ((0, first), (2, third)):
                asked = [cell for cell in cells if cell.start == FIRST + offset * day]
                found = [(cell.group, cell.quantity, cell.event_count) for cell in asked]
                assert found == [(group, Decimal(text), count) for group, text, count in expected], reader
    question = UsageQuestion(tenant_id="states", metric="calls", edges=_days()[:2])
    for plain in (
        replace(question, source="http"),
        replace(question, group_by="source"),
        replace(question, known_at=before),
        replace(question, edges=[FIRST + timedelta(microseconds=1), FIRST + day]),
    ):
        assert [cell.quantity for cell in load_usage_windows(pool, plain).cells] == [3], plain
    for reader in READERS:  # not the meter's own number
        counted = load_usage_windows(pool, replace(question, aggregation="count"), reader=reader).cells
        assert [(cell.quantity, cell.adjusted) for cell in counted] == [(2, 0)]


def test_what_was_known_then_has_the_states_of_then(pool: ConnectionPool) -> None:
    """A void counts from its instant, an adjustment while it was approved, a late event while nothing withheld it.

    Whoever read a late event before its fold judged it like that, so its first state is that of before, too.
    """
    with ingest_into(str(pool.conninfo)) as ingest:
        ingest.accept([Fact(tenant="then", metric="calls", quantity="5", ts=FIRST, key=key) for key in ("a", "b")])
    fold(pool)
    start = datetime.now(UTC)
    late = adjust(pool, "then", "5", FIRST, metric="calls", customer_ref="cust_1", late_key="b", status="pending")
    manual = adjust(pool, "then", "0.25", FIRST, metric="calls", customer_ref="cust_1", status="pending")
    created = datetime.now(UTC)
    transition(pool, late, "approved")
    transition(pool, manual, "approved")
    approved = datetime.now(UTC)
    void(pool, "then", "a")
    transition(pool, manual, "reverted")
    voided = datetime.now(UTC)
    transition(pool, late, "reverted")
    question = UsageQuestion(tenant_id="then", metric="calls", edges=_days()[:2])
    for known_at, number in (
        (start, "5"),  # its fold found it late: so did whoever read it before
        (created, "5"),
        (approved, "10.25"),
        (voided, "5"),
        (datetime.now(UTC), "0"),
    ):
        (cell,) = load_usage_windows(pool, replace(question, known_at=known_at)).cells
        assert cell.quantity == Decimal(number), known_at


def _days() -> list[datetime]:
    return window_edges(FIRST, LAST, window="day", zone=ZoneInfo("UTC"), most=100)
