"""Late-usage policies: what Stripe no longer takes on its own day is held, or billed on the current one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.late_usage import carry_late_usage
from stripemeter.pipeline.push import PushReport, has_unpushed_usage, push_usage
from stripemeter.pipeline.push_preview import plan_push
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.store import push_entries
from stripemeter.store.late_usage import list_carries
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.late_usage_bench import invoice, set_policy, since
from tests.stripe_bench import NO_PAUSE, NOW, TODAY, StripeBench, open_bench

OLD = date(2026, 10, 10)
"""44 days ago: nothing can be stamped there."""
YESTERDAY = TODAY - timedelta(days=1)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """A mapping and a customer since September."""
    made = open_bench(pool, emulator)
    made.bind()
    since(made)
    return made


def carry_forward(bench: StripeBench) -> None:
    """The mapping's policy."""
    set_policy(bench, "carry_forward")


def push(bench: StripeBench, now: datetime = NOW) -> PushReport:
    """One push, at its time."""
    bench.emulator.freeze(now)
    return push_usage(bench.pool, bench.sink, now=now, retries=NO_PAUSE)


def carries(bench: StripeBench) -> list[tuple[date, date, Decimal]]:
    """What was carried: from, to, how much."""
    with transaction(bench.pool) as tx:
        return [(carry.from_day, carry.to_day, carry.quantity) for carry in reversed(list_carries(tx))]


def test_held_is_the_default(bench: StripeBench) -> None:
    """A mapping that says nothing keeps late usage back and reports it, push after push."""
    bench.count("7", OLD)
    assert not has_unpushed_usage(bench.pool, now=NOW)
    assert (push(bench).held, push(bench).accepted, carries(bench)) == (1, 0, [])


def test_late_usage_is_billed_in_the_current_period(bench: StripeBench) -> None:
    """With today's own; a carry names both days and the row that told it; no day differs, and nothing goes twice."""
    carry_forward(bench)
    bench.count("7", OLD)
    bench.count("2")
    assert has_unpushed_usage(bench.pool, now=NOW)
    report = push(bench)
    assert (report.held, report.accepted, bench.at_stripe()) == (0, 1, 9)
    with transaction(bench.pool) as tx:
        (carry,) = list_carries(tx, tenant_id=bench.tenant)
    assert (carry.from_segment_start, carry.from_day) == (datetime(2026, 10, 1, tzinfo=UTC), OLD)
    assert (carry.to_segment_start, carry.to_day, carry.quantity) == (NOVEMBER, TODAY, 7)
    assert (carry.entry_id, carry.entry_state) == (bench.entries()[0]["id"], "accepted")
    later = NOW + timedelta(hours=1)
    assert not has_unpushed_usage(bench.pool, now=later)
    assert push(bench, later).accepted == 0
    found = reconcile_usage(bench.pool, bench.sink, now=later)
    assert (found.drift_total, found.held, found.ok) == (0, 0, found.days)


def test_more_goes_and_less_stays(bench: StripeBench) -> None:
    """What is counted later still is carried as well; what turns out too much is held, never taken from other usage."""
    carry_forward(bench)
    bench.count("7", OLD)
    push(bench)
    bench.count("9", OLD)
    push(bench, NOW + timedelta(minutes=2))
    assert (carries(bench), bench.at_stripe()) == ([(OLD, TODAY, 7), (OLD, TODAY, 2)], 9)
    bench.count("4", OLD)
    report = push(bench, NOW + timedelta(minutes=4))
    assert (report.held, report.rows[0].delta, bench.at_stripe()) == (1, -5, 9)


def test_usage_that_moved_between_late_days_is_not_billed_again(bench: StripeBench) -> None:
    """One day lacks what another has too much: the period is right as it was sent."""
    sent = datetime(2026, 10, 12, 12, 0, 30, tzinfo=UTC)
    bench.count("7", OLD)
    push(bench, sent)
    carry_forward(bench)
    bench.count("0", OLD)
    bench.count("7", OLD - timedelta(days=3))
    assert (push(bench).held, carries(bench)) == (2, [])


def test_what_came_before_the_mapping_is_never_billed(bench: StripeBench) -> None:
    """A year of imported history is not this month's bill."""
    carry_forward(bench)
    since(bench, datetime(2026, 11, 20, tzinfo=UTC))
    bench.count("7", OLD)
    assert (push(bench).held, carries(bench)) == (1, [])


@pytest.mark.parametrize("policy", ["hold", "carry_forward"])
def test_a_final_invoice_takes_nothing_more(bench: StripeBench, policy: str) -> None:
    """Though Stripe would take the event, no invoice would hold it: it is held, or billed in the next period."""
    boundary = NOW.replace(hour=6, minute=0, second=0)
    bench.cut(NOVEMBER, boundary)
    bench.count("5", YESTERDAY, segment=NOVEMBER)
    push(bench)
    if policy == "carry_forward":
        carry_forward(bench)
    invoice(bench, NOVEMBER, boundary, finalized_at=None)
    bench.count("6", YESTERDAY, segment=NOVEMBER)
    later = NOW + timedelta(minutes=2)
    push(bench, later)
    assert (bench.at_stripe(YESTERDAY), carries(bench)) == (6, [])
    invoice(bench, NOVEMBER, boundary, finalized_at=later)
    bench.count("8", YESTERDAY, segment=NOVEMBER)
    later += timedelta(minutes=2)
    assert has_unpushed_usage(bench.pool, now=later) == (policy == "carry_forward")
    report = push(bench, later)
    assert bench.at_stripe(YESTERDAY) == 6
    if policy == "hold":
        assert (report.held, report.accepted, bench.at_stripe()) == (1, 0, 0)
        assert "its invoice is final" in report.rows[0].reason
        return
    assert (report.held, report.accepted, bench.at_stripe()) == (0, 1, 2)
    assert carries(bench) == [(YESTERDAY, TODAY, 2)]
    assert reconcile_usage(bench.pool, bench.sink, now=later).drift_total == 0


def test_a_row_that_was_not_sent_before_the_invoice_was_final_is_taken_back(
    bench: StripeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned, and whoever planned it died: it never goes onto no invoice, and what it told is carried."""
    boundary = NOW.replace(hour=6, minute=0, second=0)
    bench.cut(NOVEMBER, boundary)
    carry_forward(bench)
    bench.count("5", YESTERDAY, segment=NOVEMBER)
    with monkeypatch.context() as patch:
        patch.setattr(push_entries, "claim", lambda *_, **__: {})
        push(bench)
    assert bench.states() == ["planned"]
    invoice(bench, NOVEMBER, boundary, finalized_at=NOW)
    later = NOW + timedelta(minutes=2)
    assert [(row.day, row.action, row.quantity) for row in plan_push(bench.pool, bench.sink, now=later).rows] == [
        (TODAY, "send", 5)
    ]
    push(bench, later)
    assert (bench.states(), carries(bench)) == (["cancelled", "accepted"], [(YESTERDAY, TODAY, 5)])
    assert (bench.at_stripe(YESTERDAY), bench.at_stripe()) == (0, 5)


def test_nothing_is_carried_into_a_final_invoice(bench: StripeBench) -> None:
    """A customer whose current period is billed already has nowhere to carry to; the sensor does not ask for pushes."""
    carry_forward(bench)
    bench.count("7", OLD)
    invoice(bench, NOVEMBER, datetime(2026, 12, 1, tzinfo=UTC), finalized_at=NOW)
    assert not has_unpushed_usage(bench.pool, now=NOW)
    assert (push(bench).held, carries(bench)) == (1, [])


def test_a_plan_shows_what_is_carried_and_carries_nothing(bench: StripeBench) -> None:
    """As the push then does it."""
    carry_forward(bench)
    bench.count("7", OLD)
    plan = plan_push(bench.pool, bench.sink, now=NOW)
    assert [(row.day, row.quantity) for row in plan.rows] == [(TODAY, 7)]
    assert (plan.held, carries(bench)) == (0, [])


def test_two_pushers_carry_once(bench: StripeBench) -> None:
    """The second waits for the first, and then finds nothing lacking."""
    carry_forward(bench)
    bench.count("7", OLD)

    def carry() -> int:
        with transaction(bench.pool) as tx:
            return carry_late_usage(tx, modes=["shadow"], stripe_account_id=None, left_out=(), now=NOW)

    with ThreadPoolExecutor(max_workers=1) as other:
        with transaction(bench.pool) as tx:
            assert carry_late_usage(tx, modes=["shadow"], stripe_account_id=None, left_out=(), now=NOW) == 1
            second = other.submit(carry)
            while not second.done() and not _waits_for_a_lock(bench.pool):
                pass
        assert second.result() == 0
    assert carries(bench) == [(OLD, TODAY, 7)]


def _waits_for_a_lock(pool: ConnectionPool) -> bool:
    with transaction(pool) as tx:
        row = tx.execute("select exists(select 1 from pg_locks where locktype = 'advisory' and not granted)").fetchone()
    return row is not None and bool(row[0])


def test_a_row_that_never_reached_stripe_does_not_tell_a_carry(bench: StripeBench) -> None:
    """Its successor does."""
    carry_forward(bench)
    bench.count("7", OLD)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 400}})
    push(bench)
    bench.emulator.fault()
    (refused,) = bench.entries()
    assert refused["state"] == "rejected"
    with transaction(bench.pool) as tx:
        tx.execute("update push_entries set released_at = now()")
    push(bench, NOW + timedelta(minutes=2))
    with transaction(bench.pool) as tx:
        (carry,) = list_carries(tx)
    assert (carry.entry_id, carry.entry_state) == (bench.entries()[1]["id"], "accepted")
