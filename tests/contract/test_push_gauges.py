"""Gauges at Stripe: seats, peaks and distinct users through a sum meter, over the start of a billing period."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import has_unpushed_usage, push_usage
from stripemeter.pipeline.push_preview import plan_push
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.stripe_bench import NO_PAUSE, NOW, StripeBench, open_bench

BOUNDARY = datetime(2026, 11, 23, 6, 0, 17, tzinfo=UTC)
"""Where the customer's new period begins: six hours before NOW."""


def seats(bench: StripeBench, quantity: str, at: datetime, segment: datetime) -> None:
    """One report of seats, as the fold leaves it."""
    with transaction(bench.pool) as tx:
        tx.execute(
            """
            insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum,
                quantity_min, quantity_max, quantity_last, last_ts, last_seq)
            values (%(tenant)s, 'ada', 'calls', %(day)s, %(segment)s, 1, %(q)s, %(q)s, %(q)s, %(q)s, %(at)s, 1)
            """,
            {"tenant": bench.tenant, "day": at.date(), "segment": segment, "q": quantity, "at": at},
        )


def billed(bench: StripeBench) -> dict[str, Decimal]:
    """What Stripe holds of the whole minutes before and after the boundary."""
    with transaction(bench.pool) as tx:
        row = tx.execute("select stripe_customer_id from customer_bindings").fetchone()
    assert row is not None
    minute = BOUNDARY.replace(second=0)
    spans = {"before": (minute - timedelta(days=20), minute), "after": (minute, NOW.replace(second=0, minute=30))}
    return {
        name: bench.sink.read_quantity(stripe_meter_id=bench.meter_id, stripe_customer_id=row[0], start=start, end=end)
        for name, (start, end) in spans.items()
    }


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """A mapped gauge of last values, and a customer whose period begins anew at BOUNDARY."""
    made = open_bench(pool, emulator, aggregation="last")
    made.bind()
    made.cut(BOUNDARY - timedelta(days=13), BOUNDARY)
    return made


def test_seats_are_billed_in_a_period_in_which_nothing_happened(bench: StripeBench) -> None:
    """The old period ends with its last value; the new one begins with it, by the first push that finds it begun."""
    before = BOUNDARY - timedelta(days=13)
    seats(bench, "10", BOUNDARY - timedelta(days=3), before)
    seats(bench, "8", BOUNDARY - timedelta(days=1), before)
    earlier = BOUNDARY - timedelta(hours=1)
    bench.emulator.freeze(earlier)
    push_usage(bench.pool, bench.sink, now=earlier, retries=NO_PAUSE)
    assert billed(bench) == {"before": 8, "after": 0}
    assert not has_unpushed_usage(bench.pool, now=earlier)
    bench.emulator.freeze(NOW)
    assert has_unpushed_usage(bench.pool, now=NOW)
    push_usage(bench.pool, bench.sink, now=NOW, retries=NO_PAUSE)
    assert billed(bench) == {"before": 8, "after": 8}
    assert reconcile_usage(bench.pool, bench.sink, now=NOW).drift_total == 0


def test_a_plan_shows_the_opening_and_opens_nothing(bench: StripeBench) -> None:
    """Both periods' rows, as a push then sends them; looking writes nothing."""
    seats(bench, "8", BOUNDARY - timedelta(days=1), BOUNDARY - timedelta(days=13))
    plan = plan_push(bench.pool, bench.sink, now=NOW)
    assert [(row.segment_start, row.day, row.quantity) for row in plan.rows] == [
        (BOUNDARY - timedelta(days=13), date(2026, 11, 22), 8),
        (BOUNDARY, date(2026, 11, 23), 8),
    ]
    with transaction(bench.pool) as tx:
        assert tx.execute("select count(*) from push_segments").fetchone() == (0,)
    assert push_usage(bench.pool, bench.sink, now=NOW, retries=NO_PAUSE).quantity == plan.quantity


def test_fewer_seats_take_back_and_a_late_report_moves_the_opening(bench: StripeBench) -> None:
    """A change in the period is a signed delta; what is reported late for the old one changes both."""
    before = BOUNDARY - timedelta(days=13)
    seats(bench, "8", BOUNDARY - timedelta(days=1), before)
    push_usage(bench.pool, bench.sink, now=NOW, retries=NO_PAUSE)
    seats(bench, "3", NOW - timedelta(hours=1), BOUNDARY)
    later = NOW + timedelta(minutes=2)
    bench.emulator.freeze(later)
    push_usage(bench.pool, bench.sink, now=later, retries=NO_PAUSE)
    assert billed(bench) == {"before": 8, "after": 3}
    seats(bench, "5", BOUNDARY - timedelta(hours=2), before)
    later += timedelta(minutes=2)
    bench.emulator.freeze(later)
    push_usage(bench.pool, bench.sink, now=later, retries=NO_PAUSE)
    assert billed(bench) == {"before": 5, "after": 3}
    assert reconcile_usage(bench.pool, bench.sink, now=later).drift_total == 0
