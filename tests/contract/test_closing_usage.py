"""What an invoice waits for before it is closed, and the kinds of usage it may bill."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.push import push_usage
from stripemeter.store.postgres import transaction
from tests.closing_bench import END, SETTLED, START, ClosingBench, open_closing
from tests.emulator import RunningEmulator
from tests.laws.worlds import Fact, ingest_into, outcomes

IN_THE_GRACE = END + timedelta(minutes=20)
LATER = SETTLED + timedelta(minutes=30)


def accept(database_url: str, *facts: Fact) -> None:
    """One request in the last moment; every event is acknowledged."""
    received_at = SETTLED - timedelta(seconds=1)
    with ingest_into(database_url, clock=lambda: received_at) as ingest:
        assert set(outcomes(ingest.accept(facts, now=received_at))) == {"accepted"}


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> ClosingBench:
    """Held in its grace, with no usage yet."""
    opened = open_closing(pool, emulator)
    opened.close(IN_THE_GRACE)
    return opened


def test_an_event_that_is_not_folded_yet_is_waited_for(bench: ClosingBench, database_url: str) -> None:
    """Acknowledged to its producer in the last moment: it is on the invoice, whenever the fold comes to it."""
    fact = Fact(tenant="t", metric="calls", customer="ada", quantity="2.5", ts=END - timedelta(hours=1), key="late")
    accept(database_url, fact)
    assert bench.close(SETTLED).waiting == 1
    assert bench.closing().message == "events of it are not counted yet"
    fold(bench.pool, now=SETTLED)
    assert bench.close(LATER).verified == 1
    assert [line.billed for line in bench.proofs()[0].lines] == [Decimal("2.5")]


def test_another_customers_events_and_periods_hold_nothing_up(bench: ClosingBench, database_url: str) -> None:
    """Only unfolded events of this customer in this window are waited for."""
    facts = [
        Fact(tenant="t", metric="calls", customer="bob", ts=END - timedelta(hours=1), key="bob"),
        Fact(tenant="t", metric="calls", customer="ada", ts=END, key="next period"),
        Fact(tenant="u", metric="calls", customer="ada", ts=END - timedelta(hours=1), key="another tenant"),
    ]
    accept(database_url, *facts)
    assert bench.close(SETTLED).verified == 1


def test_days_that_wait_to_be_counted_again_are_waited_for(bench: ClosingBench) -> None:
    """A rule changed: the counters are not what they will be."""
    with transaction(bench.pool) as tx:
        tx.execute(
            "insert into slice_recounts (tenant_id, next_day, last_day, reason, created_at) "
            "values ('t', %(day)s, %(day)s, 'meter', now())",
            {"day": bench.day},
        )
    bench.close(SETTLED)
    assert "wait to be counted again" in bench.closing().message
    with transaction(bench.pool) as tx:
        tx.execute("delete from slice_recounts")
    assert bench.close(LATER).verified == 1


def test_a_longer_lateness_window_is_waited_for(bench: ClosingBench) -> None:
    """What the tenant says when the invoice is due decides, not what it said when the invoice was found."""
    with transaction(bench.pool) as tx:
        tx.execute("insert into lateness_windows values ('t', 'calls', %s, now())", [60 * 3600])
    bench.close(SETTLED)
    assert (bench.closing().state, bench.closing().settles_at) == ("controlled", END + timedelta(hours=60))
    assert bench.invoice().status == "draft"
    assert bench.close(END + timedelta(hours=60)).verified == 1


def test_a_tenant_whose_late_events_never_count_by_themselves_closes_sooner(
    pool: ConnectionPool, emulator: RunningEmulator
) -> None:
    """The lateness window alone is waited for."""
    with transaction(pool) as tx:
        tx.execute("insert into tenant_policies (tenant_id, late_approval, updated_at) values ('t', 'never', now())")
        tx.execute("insert into lateness_windows values ('t', 'calls', %s, now())", [600])
    bench = open_closing(pool, emulator)
    bench.count("5")
    bench.close(END + timedelta(minutes=5), "observe")
    assert (bench.closing().settles_at, bench.closing().is_grace_short) == (END + timedelta(minutes=10), False)
    assert bench.close(IN_THE_GRACE).verified == 1


@pytest.mark.parametrize("aggregation", ["max", "last"])
def test_a_gauge_is_closed_like_anything_else(
    pool: ConnectionPool, emulator: RunningEmulator, aggregation: str
) -> None:
    """Its deltas add up to the week's number, and that is what is billed and proven."""
    bench = open_closing(pool, emulator, aggregation=aggregation)
    for age, seats in ((2, "8"), (3, "12"), (4, "10")):
        at = START + timedelta(days=age)
        with transaction(pool) as tx:
            tx.execute(
                """
                insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum,
                    quantity_min, quantity_max, quantity_last, last_ts, last_seq)
                values ('t', 'ada', 'calls', %(day)s, %(segment)s, 1, 0, %(q)s, %(q)s, %(q)s, %(at)s, 1)
                """,
                {"day": at.date(), "segment": START, "q": seats, "at": at},
            )
        bench.go_to(at)
        push_usage(pool, bench.stripe.sink, now=at)
    bench.close(IN_THE_GRACE)
    assert bench.close(SETTLED).verified == 1
    expected = {"max": Decimal(12), "last": Decimal(10)}[aggregation]
    assert [(line.counted, line.billed) for line in bench.proofs()[0].lines] == [(expected, expected)]


def test_more_lines_than_come_with_an_invoice_are_all_read(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Fourteen tiers: ten lines come with the invoice, the others are asked for."""
    tiers: list[dict[str, object]] = [{"up_to": number, "unit_amount": number} for number in range(1, 14)]
    tiers.append({"up_to": "inf", "unit_amount": 1})
    bench = open_closing(pool, emulator, billing_scheme="tiered", tiers_mode="graduated", tiers=tiers, unit_amount=None)
    bench.count("20.125")
    bench.close(IN_THE_GRACE)
    assert bench.close(SETTLED).verified == 1
    assert bench.invoice().lines.has_more
    assert [line.billed for line in bench.proofs()[0].lines] == [Decimal("20.125")]


@pytest.mark.parametrize("knob", ["beginning_period", "ending_period", "both"])
def test_whichever_period_the_boundary_second_belongs_to(
    pool: ConnectionPool, emulator: RunningEmulator, knob: str
) -> None:
    """We never stamp in it, so the invoice bills what we counted either way."""
    emulator.control("POST", "/billing", {"boundary_second": knob})
    bench = open_closing(pool, emulator)
    for day in (START.date(), bench.day, END.date()):
        bench.stripe.count("3", day, segment=START)
    bench.stripe.count("4", END.date(), segment=END)
    bench.close(IN_THE_GRACE)
    assert bench.close(SETTLED).verified == 1
    assert [line.billed for line in bench.proofs()[0].lines] == [Decimal(9)]


def test_a_meter_that_two_items_bill_is_not_finalized(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """The same usage would be paid for twice."""
    bench = open_closing(pool, emulator)
    client = emulator.client()
    (subscription,) = client.v1.subscriptions.list({"customer": bench.customer_id}).data
    other = client.v1.prices.create(
        {
            "currency": "usd",
            "product": client.v1.products.create({"name": "Twice"}).id,
            "recurring": {"interval": "week", "usage_type": "metered", "meter": bench.stripe.meter_id},
            "unit_amount": 9,
        }
    )
    client.v1.subscription_items.create({"subscription": subscription.id, "price": other.id})
    bench.count("5")
    bench.close(IN_THE_GRACE)
    bench.close(SETTLED)
    assert (bench.closing().message, bench.invoice().status) == ("two items bill the same usage of calls", "draft")


def test_a_silent_stripe_fails_nothing(bench: ClosingBench) -> None:
    """No answer is no verdict: the invoice waits, and the next look goes on."""
    bench.stripe.emulator.fault(
        {"match": {"path_re": "event_summaries"}, "do": {"kind": "status", "status": 500}, "times": 9}
    )
    assert bench.close(SETTLED).waiting == 1
    assert bench.closing().state == "drained"
    bench.stripe.emulator.fault()
    assert bench.close(LATER).verified == 1


def test_a_void_invoice_bills_nothing(bench: ClosingBench) -> None:
    """Void once final and before anybody looked: dropped, with no proof, and nothing is left to do."""
    client = bench.stripe.emulator.client()
    invoice_id = bench.closing().invoice_id
    bench.write("5", START + timedelta(days=1))
    client.v1.invoices.finalize_invoice(invoice_id)
    client.v1.invoices.void_invoice(invoice_id)
    bench.close(SETTLED)
    assert (bench.closing().state, bench.proofs()) == ("dropped", [])
    assert bench.close(LATER).rows == ()
