"""Closing invoices: real Postgres, real HTTP, the emulator on the other side."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.billing.stripe_sink import StripeSink
from stripemeter.errors import InvalidInput, NotFound
from stripemeter.pipeline.closing import close_invoices, release_invoice
from stripemeter.pipeline.push import push_usage
from stripemeter.pricing import PerUnit, Price
from stripemeter.store.postgres import transaction
from tests.closing_bench import END, SETTLED, START, ClosingBench, open_closing
from tests.emulator import RunningEmulator

IN_THE_GRACE = END + timedelta(minutes=20)
LATER = SETTLED + timedelta(minutes=30)


class CheapSink(StripeSink):
    """An account that tells of half the price it bills by."""

    def __init__(self, emulator: RunningEmulator) -> None:
        super().__init__(key=emulator.key, mode="shadow", api_base=emulator.url)

    def find_price_terms(self, price_id: str) -> Price | None:
        """A cent a unit."""
        return Price(currency="USD", model=PerUnit(unit_minor=Decimal(1)), version=price_id)


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> ClosingBench:
    """`ada` has used 5, and Stripe knows."""
    opened = open_closing(pool, emulator)
    opened.count("5")
    opened.go_to(START + timedelta(days=4))
    push_usage(pool, opened.stripe.sink, now=START + timedelta(days=4))
    return opened


def test_under_control_an_invoice_closes_at_exactly_zero(bench: ClosingBench) -> None:
    """Held in its grace, late usage joins it for two days, then it is reconciled, finalized once and proven."""
    first = bench.close(IN_THE_GRACE)
    assert (first.found, bench.closing().state, bench.invoice().auto_advance) == (1, "controlled", False)
    bench.count("8.25")
    assert bench.close(SETTLED - timedelta(minutes=1)).rows == ()
    assert bench.invoice().status == "draft"
    report = bench.close(SETTLED)
    assert (report.verified, report.failed, report.waiting) == (1, 0, 0)
    closing, (proof,) = bench.closing(), bench.proofs()
    assert (closing.state, closing.closed_at, closing.finalized_at) == ("verified", SETTLED, SETTLED)
    assert (proof.is_equal, proof.control, proof.finalized_at) == (True, "control", SETTLED)
    (line,) = proof.lines
    assert (line.stripe_item_id, line.price_id, line.starts_at, line.ends_at) == (bench.item, bench.price, START, END)
    assert {line.counted, line.pushed, line.billed} == {Decimal("8.25")}
    assert (line.difference, line.pushed_late) == (0, 0)
    final = bench.invoice()
    assert (final.status, str(final.lines.data[0].quantity_decimal)) == ("paid", "8.25")
    assert len(bench.finalizings()) == 1
    assert bench.close(LATER).rows == ()
    assert len(bench.finalizings()) == 1


def test_a_proof_holds_what_it_compared_and_never_changes(bench: ClosingBench) -> None:
    """The hash is of the evidence beside it, which names lines, days and events; neither is ever written again."""
    bench.close(IN_THE_GRACE)
    bench.close(SETTLED)
    (proof,) = bench.proofs()
    assert hashlib.sha256(proof.evidence.encode()).hexdigest() == proof.evidence_sha256
    evidence = json.loads(proof.evidence)
    assert [line["quantity"] for line in evidence["lines"]] == ["5"]
    (window,) = evidence["windows"]
    days = [(day["day"], day["counted"], day["pushed"]) for day in window["days"]]
    assert days == [(bench.day.isoformat(), "5", "5")]
    assert window["events"] == 1
    for table in ("parity_proofs", "parity_proof_lines"):
        with pytest.raises(psycopg.errors.RestrictViolation), transaction(bench.pool) as tx:
            tx.execute(f"delete from {table}")


def test_tiers_of_a_window_add_up(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """A graduated price makes a line per tier and one for a flat fee: together they are the window's quantity."""
    tiers = [{"up_to": 4, "unit_amount": 5, "flat_amount": 100}, {"up_to": "inf", "unit_amount": 1}]
    bench = open_closing(pool, emulator, billing_scheme="tiered", tiers_mode="graduated", tiers=tiers, unit_amount=None)
    bench.count("9.5")
    bench.close(IN_THE_GRACE)
    bench.close(SETTLED)
    (proof,) = bench.proofs()
    assert [(line.counted, line.billed) for line in proof.lines] == [(Decimal("9.5"), Decimal("9.5"))]
    assert [(one.billed_minor, one.priced_minor, one.rounding) for one in proof.amounts()] == [(126, 126, "half_up")]
    assert len(bench.invoice().lines.data) == 3


@pytest.mark.parametrize("rounding", ["half_up", "half_even", "ceiling"])
def test_amounts_are_checked_by_our_own_price_function(
    pool: ConnectionPool, emulator: RunningEmulator, rounding: str
) -> None:
    """Whichever way Stripe rounds a line, the proof says which way agreed."""
    emulator.control("POST", "/billing", {"line_rounding": rounding})
    quantity, minor = {"half_up": ("2.5", 3), "half_even": ("2.5", 2), "ceiling": ("2.2", 3)}[rounding]
    bench = open_closing(pool, emulator, unit_amount=1)
    bench.count(quantity)
    bench.close(IN_THE_GRACE)
    assert bench.close(SETTLED).verified == 1
    assert [(one.billed_minor, one.priced_minor, one.rounding) for one in bench.proofs()[0].amounts()] == [
        (minor, minor, rounding)
    ]


def test_a_right_quantity_at_a_wrong_amount_is_no_parity(bench: ClosingBench) -> None:
    """Stripe tells of another price than it bills by: quantities agree, and the proof is not equal."""
    bench.close(IN_THE_GRACE)
    sink = CheapSink(bench.stripe.emulator)
    bench.go_to(SETTLED)
    report = close_invoices(bench.pool, sink, now=SETTLED, control="control")
    (proof,) = bench.proofs()
    assert (proof.is_equal, proof.lines[0].difference) == (False, 0)
    assert [(one.billed_minor, one.priced_minor) for one in proof.amounts()] == [(10, 5)]
    assert report.rows[0].message == "calls: 5 cost 10 usd in minor units, and 5 by our price"


def test_observing_touches_nothing_and_names_what_came_too_late(bench: ClosingBench) -> None:
    """The grace of an hour is too short for the lateness window: said at once, and the proof names the late event."""
    assert bench.close(IN_THE_GRACE, "observe").found == 1
    found = bench.closing()
    assert (found.is_grace_short, found.finalizes_at, found.state) == (True, END + timedelta(hours=1), "found")
    bench.go_to(END + timedelta(hours=2))
    assert bench.invoice().status == "paid"
    bench.count("7")
    push_usage(bench.pool, bench.stripe.sink, now=END + timedelta(hours=3))
    report = bench.close(SETTLED, "observe")
    assert (report.failed, bench.finalizings()) == (1, [])
    (proof,) = bench.proofs()
    (line,) = proof.lines
    assert (proof.is_equal, proof.control) == (False, "observe")
    assert (line.counted, line.billed, line.difference, line.pushed_late) == (7, 5, 2, 2)
    assert line.late_identifiers == [bench.stripe.entries()[-1]["identifier"]]
    assert report.rows[0].message == "calls: billed 5, counted 7, 2 of it pushed after the invoice was final"
    posts = {entry["path"] for entry in bench.stripe.emulator.journal() if entry["method"] == "POST"}
    assert not [path for path in posts if path.startswith("/v1/invoices")]


@pytest.mark.parametrize(("hours", "is_short"), [(48, True), (72, False)])
def test_the_real_grace_is_measured(
    pool: ConnectionPool, emulator: RunningEmulator, hours: int, is_short: bool
) -> None:
    """Lateness window, settling and safety must fit between the window's end and Stripe's finalizing."""
    emulator.control("POST", "/billing", {"grace_seconds": hours * 3600})
    bench = open_closing(pool, emulator)
    bench.count("5")
    bench.close(IN_THE_GRACE, "observe")
    assert bench.closing().is_grace_short is is_short
    push_usage(pool, bench.stripe.sink, now=SETTLED - timedelta(hours=1))
    report = bench.close(SETTLED + timedelta(days=2), "observe")
    assert (report.verified, bench.proofs()[0].is_equal) == (1, True)


def test_another_writer_keeps_an_invoice_from_being_finalized(bench: ClosingBench) -> None:
    """Stripe holds more than we sent: it stays a draft, and says why, until the surplus is gone."""
    bench.close(IN_THE_GRACE)
    bench.write("3", START + timedelta(days=3))
    report = bench.close(SETTLED)
    assert (report.failed, bench.closing().state, bench.invoice().status) == (1, "failed", "draft")
    assert "another writer" in bench.closing().message
    assert (bench.finalizings(), bench.proofs()) == ([], [])
    bench.write("-3", START + timedelta(days=3))
    assert bench.close(LATER).verified == 1


def test_usage_in_a_minute_that_the_boundary_cuts_is_another_writer(bench: ClosingBench) -> None:
    """The window ends at 12:00:30: its last half minute is no summary of its own, and we never stamp there."""
    bench.close(IN_THE_GRACE)
    bench.write("1", END - timedelta(seconds=10))
    bench.close(SETTLED)
    assert bench.closing().message == "calls: another writer has usage in a minute that the window's boundary cuts"


def test_a_person_may_release_what_failed(bench: ClosingBench) -> None:
    """With a reason, once: it is finalized as it is, and the proof says by how much it is off."""
    bench.close(IN_THE_GRACE)
    invoice = bench.closing().invoice_id
    with pytest.raises(NotFound):
        release_invoice(bench.pool, invoice, actor="eve", reason="not failed yet", now=SETTLED)
    bench.write("3", START + timedelta(days=3))
    bench.close(SETTLED)
    with pytest.raises(InvalidInput, match="reason"):
        release_invoice(bench.pool, invoice, actor="eve", reason=" ", now=SETTLED)
    release_invoice(bench.pool, invoice, actor="eve", reason="agreed with the customer", now=SETTLED)
    bench.close(LATER)
    (proof,) = bench.proofs()
    assert [(line.counted, line.billed, line.difference) for line in proof.lines] == [(5, 8, -3)]
    assert (bench.closing().state, bench.closing().released_by, len(bench.finalizings())) == ("failed", "eve", 1)


def test_refused_usage_keeps_an_invoice_from_being_finalized(bench: ClosingBench) -> None:
    """Stripe said no to a delta: what is missing there must not be billed as if it were nothing."""
    bench.close(IN_THE_GRACE)
    bench.count("6")
    bench.stripe.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 400}})
    bench.close(SETTLED)
    assert (bench.closing().state, bench.invoice().status) == ("failed", "draft")
    assert "Stripe refused usage" in bench.closing().message


def test_usage_in_flight_is_waited_for(bench: ClosingBench) -> None:
    """An unanswered delta may or may not be there: neither failed nor finalized, and the next look goes on."""
    bench.close(IN_THE_GRACE)
    bench.count("6")
    bench.stripe.emulator.fault(
        {"match": {"path_re": "meter_events"}, "do": {"kind": "reset_before_commit"}, "times": 9}
    )
    report = bench.close(SETTLED)
    assert (report.waiting, bench.closing().state) == (1, "controlled")
    assert "in flight" in bench.closing().message
    bench.stripe.emulator.fault()
    assert bench.close(LATER).verified == 1


def test_windows_that_are_not_ours_cannot_be_proven(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """The customer counts by calendar months, the subscription by weeks: nobody can say what the week was."""
    bench = open_closing(pool, emulator)
    with transaction(pool) as tx:
        tx.execute("delete from billing_phases")
    bench.close(IN_THE_GRACE)
    bench.close(SETTLED)
    assert "no billing window of ours begins and ends" in bench.closing().message
    release_invoice(pool, bench.closing().invoice_id, actor="eve", reason="known", now=SETTLED)
    bench.close(LATER)
    (proof,) = bench.proofs()
    assert (proof.is_equal, proof.lines[0].counted, proof.lines[0].difference) == (False, None, None)


def test_what_closed_while_nobody_looked_is_found(bench: ClosingBench) -> None:
    """Made and finalized between two looks: it is proven all the same."""
    bench.close(END - timedelta(hours=1))
    report = bench.close(SETTLED)
    assert (report.found, report.verified, bench.proofs()[0].is_equal) == (1, 1, True)


def test_a_held_draft_of_somebody_else_is_not_ours(bench: ClosingBench) -> None:
    """A draft that does not advance waits for its owner: we observe it, whatever the setting."""
    bench.go_to(IN_THE_GRACE)
    client = bench.stripe.emulator.client()
    (draft,) = client.v1.invoices.list({"status": "draft"}).data
    assert draft.id is not None
    client.v1.invoices.update(draft.id, {"auto_advance": False})
    bench.close(IN_THE_GRACE)
    bench.close(SETTLED)
    assert (bench.closing().control, bench.closing().message) == ("observe", "Stripe has not finalized it yet")
    client.v1.invoices.finalize_invoice(draft.id)
    assert bench.close(LATER).verified == 1


def test_a_refused_finalizing_is_told(bench: ClosingBench) -> None:
    """Stripe says no for a reason of its own: failed with that reason, and tried again at the next look."""
    bench.close(IN_THE_GRACE)
    bench.stripe.emulator.fault({"match": {"path_re": "finalize"}, "do": {"kind": "status", "status": 402}})
    bench.close(SETTLED)
    assert (bench.closing().state, bench.invoice().status) == ("failed", "draft")
    assert bench.close(LATER).verified == 1


@pytest.mark.parametrize("kind", ["status", "commit_then_reset", "reset_before_commit"])
def test_an_unanswered_finalizing_ends_once(bench: ClosingBench, kind: str) -> None:
    """Whether it happened or not: it is looked at and, while it is a draft, tried again; Stripe finalizes it once."""
    bench.close(IN_THE_GRACE)
    fault = {"kind": kind, "status": 500} if kind == "status" else {"kind": kind}
    bench.stripe.emulator.fault({"match": {"path_re": "finalize"}, "do": fault, "times": 2})
    first = bench.close(SETTLED)
    if first.waiting:
        assert bench.invoice().status == "draft"
        first = bench.close(LATER)
    assert (first.verified, len(bench.proofs())) == (1, 1)
    assert [entry.get("status") for entry in bench.finalizings()].count(200) <= 1


def test_a_deleted_customer_binding_is_nothing_to_close(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Invoices of customers we do not know, and without lines of a mapped meter, have no row."""
    bench = open_closing(pool, emulator)
    with transaction(pool) as tx:
        tx.execute("update price_mappings set mode = 'off'")
    assert bench.close(IN_THE_GRACE).found == 0
    with transaction(pool) as tx:
        tx.execute("update price_mappings set mode = 'shadow'")
        tx.execute("delete from customer_bindings")
    assert bench.close(IN_THE_GRACE).found == 0


def test_nothing_is_concluded_from_a_restored_database(bench: ClosingBench) -> None:
    """Of another epoch: drafts are held, nothing is finalized or proven until the fence is done."""
    with transaction(bench.pool) as tx:
        tx.execute("update push_epochs set database_oid = 1")
    bench.close(IN_THE_GRACE)
    assert bench.invoice().auto_advance is False
    report = bench.close(SETTLED)
    assert (report.waiting, bench.finalizings(), bench.proofs()) == (1, [], [])
    assert "restore-fence" in bench.closing().message
    with transaction(bench.pool) as tx:
        tx.execute("update push_epochs set database_oid = (select database_oid from push_place)")
    assert bench.close(LATER).verified == 1


def test_that_an_invoice_is_final_is_known_before_it_can_be_proven(bench: ClosingBench) -> None:
    """What is late depends on it: one look after the grace writes it down, the proof waits for the last late event."""
    bench.close(IN_THE_GRACE, "observe")
    report = bench.close(END + timedelta(hours=1, minutes=5), "observe")
    closing = bench.closing()
    assert (closing.state, closing.finalized_at, report.waiting) == ("finalized", END + timedelta(hours=1), 1)
    assert bench.close(END + timedelta(hours=1, minutes=15), "observe").rows == ()
    assert bench.proofs() == []
    assert bench.close(SETTLED, "observe").verified == 1


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_draft_that_cannot_be_held_is_tried_again_while_the_clock_runs(bench: ClosingBench, status: int) -> None:
    """Refused, the key refused, or no answer: the next look, still in the grace, holds it."""
    fault = {"kind": "status", "status": status}
    bench.stripe.emulator.fault({"match": {"method": "POST", "path_re": "/v1/invoices/in_"}, "do": fault, "times": 1})
    assert bench.close(IN_THE_GRACE).waiting == 1
    assert (bench.closing().control, bench.closing().state, bench.closing().message != "") == ("control", "found", True)
    bench.close(IN_THE_GRACE + timedelta(minutes=10))
    assert (bench.closing().state, bench.invoice().auto_advance) == ("controlled", False)
