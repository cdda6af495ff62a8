"""Late usage as money: once its invoice is final, one invoice item or credit note for what it changes."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.billing.stripe_sink import StripeSink
from stripemeter.pipeline.late_charges import LateReport, charge_late_usage
from stripemeter.pipeline.push import has_unpushed_usage, push_usage
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.pricing.derivations import recompute_quote
from stripemeter.store import closings, late_charges
from stripemeter.store.late_charges import LateCharge, list_charges, release
from stripemeter.store.postgres import transaction
from tests.closing_bench import END, SETTLED, ClosingBench, open_closing
from tests.emulator import RunningEmulator
from tests.late_usage_bench import set_policy
from tests.stripe_bench import NO_PAUSE

FINAL = END + timedelta(hours=2)
"""Stripe has finalized by then: an hour after the week."""
GRADUATED: dict[str, Any] = {
    "unit_amount": None,
    "billing_scheme": "tiered",
    "tiers_mode": "graduated",
    "tiers": [{"up_to": 10, "unit_amount": 10}, {"up_to": "inf", "unit_amount": 3}],
    "expand": ["tiers"],
}


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> ClosingBench:
    """A week of 8 units, billed in tiers of 10 cents up to 10 and 3 beyond, and final."""
    return billed(open_closing(pool, emulator, **GRADUATED))


def billed(made: ClosingBench, policy: str = "invoice_item") -> ClosingBench:
    """8 units, pushed and billed, the invoice seen as final."""
    set_policy(made.stripe, policy)
    made.count("8")
    push(made, END - timedelta(days=1))
    made.close(END + timedelta(minutes=1), "observe")
    made.close(FINAL, "observe")
    assert made.closing().finalized_at is not None
    return made


def push(bench: ClosingBench, now: datetime) -> int:
    """What a push holds back."""
    bench.go_to(now)
    return push_usage(bench.pool, bench.stripe.sink, now=now, retries=NO_PAUSE).held


def peak(bench: ClosingBench, quantity: int, *, days: int) -> None:
    """The greatest value of that day of the window."""
    day = (bench.start + timedelta(days=days)).date()
    bench.stripe.count("0", day, segment=bench.start)
    with transaction(bench.pool) as tx:
        tx.execute("update counters set quantity_max = %s where day = %s", (quantity, day))


def charge(bench: ClosingBench, now: datetime = SETTLED) -> LateReport:
    """One look, with both clocks there."""
    bench.go_to(now)
    return charge_late_usage(bench.pool, bench.stripe.sink, now=now)


def charges(bench: ClosingBench) -> list[LateCharge]:
    """Every charge, in order."""
    with transaction(bench.pool) as tx:
        return list(reversed(list_charges(tx, is_every=True)))


def items(bench: ClosingBench) -> list[int]:
    """The amounts of the customer's invoice items at Stripe, in order."""
    found = bench.stripe.emulator.client().v1.invoice_items.list({"customer": bench.customer_id})
    return [item.amount for item in reversed(found.data)]


def notes(bench: ClosingBench) -> list[int]:
    """The totals of the invoice's credit notes at Stripe, in order."""
    found = bench.stripe.emulator.client().v1.credit_notes.list({"invoice": bench.closing().invoice_id})
    return [note.total for note in reversed(found.data)]


def test_late_usage_is_an_item_at_its_own_price(bench: ClosingBench) -> None:
    """8 were billed, 5 came late: 2 in the first tier, 3 beyond; the derivation is kept; nothing differs."""
    bench.count("13")
    assert push(bench, FINAL) == 1
    assert charge(bench, FINAL).rows == ()
    report = charge(bench)
    assert (report.accepted, report.held, report.rows[0].quantity, report.rows[0].amount_minor) == (1, 0, 5, 29)
    (made,) = charges(bench)
    client = bench.stripe.emulator.client()
    (item,) = client.v1.invoice_items.list({"customer": bench.customer_id}).data
    assert (item.id, item.amount, item.currency) == (made.stripe_object_id, 29, "usd")
    assert item.description == "calls, 2026-11-23 to 2026-11-30: 5 more than its invoice billed (8 -> 13)"
    assert item.metadata is not None
    assert item.metadata["stripemeter_late_charge"] == made.identity
    kept = json.loads(made.derivation)
    before, after = (recompute_quote(kept[side]) for side in ("before", "after"))
    assert (before.quantity, after.quantity, after.total_minor - before.total_minor) == (8, 13, 29)
    assert push(bench, SETTLED) == 0
    assert not has_unpushed_usage(bench.pool, now=SETTLED)
    assert reconcile_usage(bench.pool, bench.stripe.sink, now=SETTLED).drift_total == 0
    bench.close(SETTLED, "observe")
    assert (bench.closing().state, bench.proofs()[0].is_equal) == ("verified", True)
    assert (charge(bench).rows, items(bench)) == ((), [29])


def test_more_still_is_charged_from_where_it_stands(bench: ClosingBench) -> None:
    """A second charge begins where the first ended; together they cost what all of it costs; both are on an invoice."""
    bench.count("13")
    charge(bench)
    bench.count("14.5")
    charge(bench, SETTLED + timedelta(hours=1))
    assert [(one.quantity_before, one.quantity_after, one.amount_minor) for one in charges(bench)] == [
        (8, 13, 29),
        (13, Decimal("14.5"), 5),
    ]
    bench.go_to(END + timedelta(days=7, hours=2))
    newest = bench.stripe.emulator.client().v1.invoices.list({"customer": bench.customer_id}).data[0]
    assert newest.total == 34


def test_less_is_held_or_credited(bench: ClosingBench) -> None:
    """invoice_item bills no less; credit_note credits the invoice it was on, in money of its own tiers."""
    bench.count("6")
    report = charge(bench)
    assert (report.held, charges(bench)) == (1, [])
    assert "its policy credits nothing" in report.rows[0].reason
    set_policy(bench.stripe, "credit_note")
    report = charge(bench)
    assert (report.accepted, report.rows[0].amount_minor, notes(bench), items(bench)) == (1, -20, [20], [])
    assert reconcile_usage(bench.pool, bench.stripe.sink, now=SETTLED).drift_total == 0
    bench.count("9")
    charge(bench, SETTLED + timedelta(hours=1))
    assert (notes(bench), items(bench)) == ([20], [30])


def test_what_costs_nothing_is_settled_without_stripe(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Within a free tier more is 0: written down, and nothing is sent."""
    tiers = [{"up_to": 100, "unit_amount": 0}, {"up_to": "inf", "unit_amount": 3}]
    bench = billed(open_closing(pool, emulator, **{**GRADUATED, "tiers": tiers}))
    bench.count("13")
    report = charge(bench)
    (made,) = charges(bench)
    assert (report.accepted, made.kind, made.state, made.amount_minor) == (1, "nothing", "accepted", 0)
    assert (items(bench), push(bench, SETTLED)) == ([], 0)


@pytest.mark.parametrize(
    ("quantity", "fault", "hours"),
    [
        ("13", {"kind": "commit_then_truncate"}, 1),
        ("13", {"kind": "commit_then_reset"}, 30),
        ("13", {"kind": "status", "status": 500, "committed": True}, 1),
        ("13", {"kind": "status", "status": 500}, 1),
        ("13", {"kind": "reset_before_commit"}, 30),
        ("13", {"kind": "status", "status": 429}, 1),
        ("6", {"kind": "commit_then_reset"}, 30),
        ("6", {"kind": "status", "status": 500, "committed": True}, 1),
    ],
)
def test_a_lost_answer_is_found_and_never_repeated(
    bench: ClosingBench, quantity: str, fault: dict[str, object], hours: int
) -> None:
    """Made or not, within a day or after: one item or one credit note, and one charge."""
    set_policy(bench.stripe, "credit_note")
    bench.count(quantity)
    bench.go_to(SETTLED)
    path = "/v1/(invoiceitems|credit_notes)"
    bench.stripe.emulator.fault({"match": {"method": "POST", "path_re": path}, "do": fault})
    assert charge(bench).unsettled == 1
    bench.stripe.emulator.fault()
    assert charge(bench, SETTLED + timedelta(hours=hours)).accepted == 1
    assert [*items(bench), *notes(bench)] == ([29] if quantity == "13" else [20])
    assert [one.state for one in charges(bench)] == ["accepted"]


def test_who_dies_after_stripe_has_it_leaves_a_question_that_is_asked(
    bench: ClosingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was there before, its lease ends, and the item is found by its identity."""

    class Died(BaseException):
        pass

    def dies(self: StripeSink, *arguments: Any, **values: Any) -> str:  # noqa: ANN401 - anything
        bill(self, *arguments, **values)
        raise Died

    bill = StripeSink.bill_late
    bench.count("13")
    with monkeypatch.context() as patch:
        patch.setattr(StripeSink, "bill_late", dies)
        with pytest.raises(Died):
            charge(bench)
    assert (items(bench), [one.state for one in charges(bench)]) == ([29], ["sending"])
    assert charge(bench, SETTLED + timedelta(seconds=10)).rows == ()
    assert charge(bench, SETTLED + timedelta(hours=25)).accepted == 1
    assert items(bench) == [29]


def test_two_at_once_charge_once(bench: ClosingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first, which has not committed yet, and then finds its charge."""
    bench.count("13")
    bench.go_to(SETTLED)
    others: list[Future[LateReport]] = []
    insert = late_charges.insert_charge

    def insert_slowly(*arguments: Any) -> None:  # noqa: ANN401 - anything
        insert(*arguments)
        if not others:
            others.append(workers.submit(charge_late_usage, bench.pool, bench.stripe.sink, now=SETTLED))
            while not others[0].done() and not waits_for_a_lock(bench.pool):
                pass

    monkeypatch.setattr(late_charges, "insert_charge", insert_slowly)
    with ThreadPoolExecutor(max_workers=1) as workers:
        reports = [charge(bench), others[0].result()]
    assert sorted(report.accepted for report in reports) == [0, 1]
    assert (items(bench), len(charges(bench))) == ([29], 1)


def waits_for_a_lock(pool: ConnectionPool) -> bool:
    """Whether any session of the database does."""
    with transaction(pool) as tx:
        row = tx.execute("select exists(select 1 from pg_locks where not granted)").fetchone()
    return row is not None and bool(row[0])


def test_a_refusal_waits_for_a_person(bench: ClosingBench) -> None:
    """Its usage is held again; released, it is charged anew."""
    bench.count("13")
    bench.go_to(SETTLED)
    bench.stripe.emulator.fault({"match": {"path_re": "invoiceitems"}, "do": {"kind": "status", "status": 400}})
    assert charge(bench).rejected == 1
    bench.stripe.emulator.fault()
    assert push(bench, SETTLED) == 1
    later = SETTLED + timedelta(hours=1)
    assert (charge(bench, later).held, items(bench)) == (1, [])
    (refused,) = charges(bench)
    with transaction(bench.pool) as tx:
        assert release(tx, refused.id, now=later)
        assert not release(tx, refused.id, now=later)
    assert charge(bench, later).accepted == 1
    assert (items(bench), [one.seq for one in charges(bench)]) == ([29], [1, 2])


def test_a_price_that_does_not_make_the_invoice_charges_nothing(bench: ClosingBench) -> None:
    """Where ours and the invoice's amount differ, nobody can say what more costs."""
    bench.count("13")
    bench.go_to(SETTLED)
    with transaction(bench.pool) as tx:
        tx.execute("update invoice_windows set price_id = 'price_gone'")
    report = charge(bench)
    assert (report.held, charges(bench), items(bench)) == (1, [], [])
    assert "Stripe has no price price_gone" in report.rows[0].reason


def test_a_failed_proof_waits_for_a_person(bench: ClosingBench) -> None:
    """Somebody may have billed it by hand: released or not, it is charged by name alone."""
    bench.count("13")
    bench.close(SETTLED, "observe")
    assert bench.closing().state == "failed"
    for _ in range(2):
        report = charge(bench)
        assert (report.held, charges(bench)) == (1, [])
        assert "billed by hand" in report.rows[0].reason
        with transaction(bench.pool) as tx:
            closings.release(tx, bench.closing().invoice_id, actor="eve", reason="by an item", now=SETTLED)
    asked = [
        charge_late_usage(bench.pool, bench.stripe.sink, now=SETTLED, invoice_id=invoice)
        for invoice in ("in_another", bench.closing().invoice_id)
    ]
    assert ([report.accepted for report in asked], items(bench)) == ([0, 1], [29])


def test_shadow_and_live_are_apart(bench: ClosingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a shadow mapping is planned or sent through the sink of the live account."""
    bench.count("13")
    bench.go_to(SETTLED)
    monkeypatch.setattr(StripeSink, "mode", "live")
    assert (charge(bench).rows, charges(bench)) == ((), [])
    monkeypatch.undo()
    bench.stripe.emulator.fault({"match": {"path_re": "invoiceitems"}, "do": {"kind": "status", "status": 429}})
    assert charge(bench).unsettled == 1
    bench.stripe.emulator.fault()
    monkeypatch.setattr(StripeSink, "mode", "live")
    assert (charge(bench, SETTLED + timedelta(hours=1)).rows, items(bench)) == ((), [])


def test_a_fenced_database_charges_nothing(bench: ClosingBench) -> None:
    """As it pushes nothing; the report says so."""
    bench.count("13")
    with transaction(bench.pool) as tx:
        tx.execute("update push_epochs set state = 'fenced', opened_at = null")
    report = charge(bench)
    assert "fenced" in report.stopped
    assert (report.rows, charges(bench)) == ((), [])


def test_a_late_peak_is_charged_by_what_it_adds(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Of a gauge by what the window's number changes; the days, which are changes, agree with Stripe afterwards."""
    bench = open_closing(pool, emulator, aggregation="max", **GRADUATED)
    set_policy(bench.stripe, "credit_note")
    peak(bench, 8, days=2)
    push(bench, END - timedelta(days=1))
    bench.close(END + timedelta(minutes=1), "observe")
    bench.close(FINAL, "observe")
    peak(bench, 13, days=1)
    report = charge(bench)
    assert [(row.outcome, row.quantity, row.amount_minor) for row in report.rows] == [("accepted", 5, 29)]
    assert (push(bench, SETTLED), charge(bench).rows) == (0, ())
    assert reconcile_usage(bench.pool, bench.stripe.sink, now=SETTLED).drift_total == 0
    bench.close(SETTLED, "observe")
    assert bench.closing().state == "verified"
