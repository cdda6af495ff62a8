"""Repairing a difference with Stripe: one suggestion per surplus, and nothing is taken back without a person."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.reconcile import reconcile_and_record, reconcile_usage
from stripemeter.pipeline.repair import approve_corrections, plan_repairs
from stripemeter.store import corrections, reconciliation_runs
from stripemeter.store.corrections import Correction
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, TODAY, StripeBench, open_bench

YESTERDAY = TODAY - timedelta(days=1)
SETTLED = NOW + timedelta(minutes=16)


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """One mapped meter and one bound customer, `ada`, of whom yesterday's 1000 are at Stripe."""
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("1000", YESTERDAY)
    push_usage(pool, opened.sink, now=NOW)
    return opened


def write_foreign(bench: StripeBench, value: str, minute: int = 0) -> None:
    """Somebody else reports usage of yesterday."""
    bench.emulator.client().v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "timestamp": int((NOW - timedelta(days=1, minutes=minute)).timestamp()),
            "payload": {"stripe_customer_id": bench.entries()[0]["stripe_customer_id"], "value": value},
        }
    )


def suggested(bench: StripeBench) -> list[Correction]:
    """What awaits a decision."""
    with transaction(bench.pool) as tx:
        return corrections.list_suggested(tx)


def approve(bench: StripeBench, *ids: uuid.UUID, tenant_id: str | None = None) -> list[str]:
    """The outcome of approving each."""
    outcomes = approve_corrections(
        bench.pool, ids, tenant_id=tenant_id, actor="ann", reason="another writer", now=SETTLED
    )
    return [one.outcome for one in outcomes]


def test_a_surplus_is_suggested_once_however_often_it_is_seen(bench: StripeBench) -> None:
    """Acceptance seed 17: the same single suggestion, which follows the surplus; nothing moves by itself."""
    write_foreign(bench, "7")
    for minute in range(3):
        reconcile_usage(bench.pool, bench.sink, now=SETTLED + timedelta(minutes=minute))
    (first,) = suggested(bench)
    assert (first.day, first.customer_ref, first.surplus) == (YESTERDAY, "ada", Decimal(7))
    write_foreign(bench, "3", minute=1)
    reconcile_usage(bench.pool, bench.sink, now=SETTLED + timedelta(minutes=5))
    (second,) = suggested(bench)
    assert (second.id, second.surplus) == (first.id, Decimal(10))
    push_usage(bench.pool, bench.sink, now=SETTLED)
    assert (bench.at_stripe(YESTERDAY), len(bench.entries())) == (Decimal(1010), 1)


def test_an_approved_surplus_is_taken_back_once(bench: StripeBench) -> None:
    """A person approves, the next push sends the negative, Stripe holds what we counted; again changes nothing."""
    write_foreign(bench, "7")
    reconcile_usage(bench.pool, bench.sink, now=SETTLED)
    (correction,) = suggested(bench)
    assert approve(bench, correction.id) == ["applied"]
    assert approve(bench, correction.id) == ["already"]
    assert reconcile_usage(bench.pool, bench.sink, now=SETTLED).rows[0].cause == "unsent"
    for _ in range(3):
        push_usage(bench.pool, bench.sink, now=SETTLED)
        report = reconcile_usage(bench.pool, bench.sink, now=SETTLED)
    assert (report.rows, suggested(bench)) == ((), [])
    assert [entry["delta"] for entry in bench.entries()] == [Decimal(1000), Decimal(-7)]
    assert (bench.at_stripe(YESTERDAY), bench.states()) == (Decimal(1000), ["confirmed", "confirmed"])
    with transaction(bench.pool) as tx:
        assert tx.execute("select sum(quantity_sum) from counters").fetchone() == (Decimal(1000),)


def test_a_correction_that_stripe_has_not_summed_up_yet_is_no_new_surplus(bench: StripeBench) -> None:
    """Summaries lag: the surplus still shows after it was taken back, and must not be taken back twice."""
    write_foreign(bench, "7")
    reconcile_usage(bench.pool, bench.sink, now=SETTLED)
    assert approve(bench, suggested(bench)[0].id) == ["applied"]
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "drop_async"}})
    push_usage(bench.pool, bench.sink, now=SETTLED)
    reconcile_usage(bench.pool, bench.sink, now=SETTLED + timedelta(minutes=1))
    assert suggested(bench) == []


def test_a_surplus_that_went_away_cannot_be_approved(bench: StripeBench) -> None:
    """We counted more in the meantime and Stripe has it: the suggestion is resolved and its id refused."""
    write_foreign(bench, "7")
    reconcile_usage(bench.pool, bench.sink, now=SETTLED)
    (correction,) = suggested(bench)
    bench.count("1007", YESTERDAY)
    reconcile_usage(bench.pool, bench.sink, now=SETTLED)
    assert suggested(bench) == []
    assert approve(bench, correction.id) == ["failed"]


def test_nobody_approves_for_another_tenant(bench: StripeBench) -> None:
    """The id of another tenant's suggestion is as good as none; a reason is asked for."""
    write_foreign(bench, "7")
    reconcile_usage(bench.pool, bench.sink, now=SETTLED)
    (correction,) = suggested(bench)
    assert approve(bench, correction.id, tenant_id="other") == ["failed"]
    assert approve(bench, uuid.uuid4()) == ["failed"]
    with pytest.raises(InvalidInput, match="reason"):
        approve_corrections(bench.pool, [correction.id], tenant_id=None, actor="ann", reason=" ", now=SETTLED)
    assert [one.id for one in suggested(bench)] == [correction.id]


def test_the_plan_names_what_repairs_each_difference(bench: StripeBench) -> None:
    """Missing usage is pushed, a surplus names its suggestion."""
    write_foreign(bench, "700")
    bench.count("5", TODAY)
    reconcile_usage(bench.pool, bench.sink, now=SETTLED)
    steps = plan_repairs(bench.pool, tenant_id="t", now=SETTLED)
    assert [(step.cause, step.correction) for step in steps] == [
        ("foreign_writer", suggested(bench)[0].id),
        ("unsent", None),
    ]
    assert steps[0].plan.startswith("approve")
    assert steps[1].plan.startswith("push")
    assert plan_repairs(bench.pool, tenant_id="other", now=SETTLED) == []


def test_every_run_is_written_down(bench: StripeBench) -> None:
    """When, how long and what it found; the sums outlive the deletion of old runs."""
    bench.count("1004", YESTERDAY)
    times = iter([SETTLED, SETTLED + timedelta(seconds=2), SETTLED, SETTLED + timedelta(seconds=3)])
    for _ in range(2):
        reconcile_and_record(bench.pool, bench.sink, clock=lambda: next(times))
    with transaction(bench.pool) as tx:
        runs = reconciliation_runs.list_runs(tx, stripe_account_id=bench.sink.account_id(), limit=10)
        assert [(run.day_count, run.within_epsilon_count, run.drift_total) for run in runs] == [(1, 1, Decimal(4))] * 2
        assert reconciliation_runs.delete_old(tx, before=SETTLED + timedelta(days=1)) == 1
        assert reconciliation_runs.load_totals(tx) == (2, Decimal(5))
