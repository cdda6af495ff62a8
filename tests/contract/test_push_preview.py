"""`plan_push`: what it shows is what a push then sends, and showing it sends and writes nothing."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.push_preview import PushPlan, plan_push
from tests.emulator import RunningEmulator
from tests.stripe_bench import NO_PAUSE, NOW, ONCE, TODAY, StripeBench, open_bench


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """A mapped meter and a bound customer."""
    made = open_bench(pool, emulator)
    made.bind()
    return made


def shown(plan: PushPlan) -> list[tuple[str, str, int, Decimal]]:
    """Day, action, events and quantity of each row."""
    return [(row.day.isoformat(), row.action, row.events, row.quantity) for row in plan.rows]


def test_the_plan_is_what_a_push_sends(bench: StripeBench) -> None:
    """Each event of the plan, in number and quantity, arrives; afterwards nothing is left to plan."""
    yesterday = TODAY - timedelta(days=1)
    bench.count("12.5")
    # More digits than one event carries: the rest goes in a second event of the closed day.
    bench.count("1234567890123456.5", yesterday)
    plan = plan_push(bench.pool, bench.sink, now=NOW)
    assert shown(plan) == [
        (yesterday.isoformat(), "send", 2, Decimal("1234567890123456.5")),
        (TODAY.isoformat(), "send", 1, Decimal("12.5")),
    ]
    report = push_usage(bench.pool, bench.sink, now=NOW, retries=NO_PAUSE)
    assert (report.accepted, report.quantity) == (plan.events, plan.quantity)
    assert plan_push(bench.pool, bench.sink, now=NOW).rows == ()


def test_planning_sends_and_writes_nothing(bench: StripeBench) -> None:
    """Stripe sees reads only, and the outbox stays empty."""
    bench.count("3")
    seen = len(bench.emulator.journal())
    assert plan_push(bench.pool, bench.sink, now=NOW).events == 1
    assert {request["method"] for request in bench.emulator.journal()[seen:]} <= {"GET"}
    assert (bench.emulator.ledger(), bench.entries()) == ([], [])


def test_the_open_day_waits_when_its_minute_is_taken(bench: StripeBench) -> None:
    """A second delta in the same minute is shown as waiting and not counted as going."""
    bench.count("3")
    push_usage(bench.pool, bench.sink, now=NOW, retries=NO_PAUSE)
    bench.count("5")
    plan = plan_push(bench.pool, bench.sink, now=NOW)
    assert shown(plan) == [(TODAY.isoformat(), "wait", 0, Decimal(2))]
    assert (plan.events, plan.quantity) == (0, 0)


def test_an_event_in_flight_is_settled_not_sent_anew(bench: StripeBench) -> None:
    """What a lost answer left in flight is one event to settle, and only what came since is new."""
    bench.count("3")
    bench.emulator.fault({"do": {"kind": "status", "status": 500}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    assert bench.states() == ["sending"]
    bench.count("4")
    later = NOW + timedelta(hours=1)
    plan = plan_push(bench.pool, bench.sink, now=later)
    assert shown(plan) == [(TODAY.isoformat(), "settle", 1, Decimal(3)), (TODAY.isoformat(), "send", 1, Decimal(1))]


def test_a_refused_customer_is_counted_as_blocked(bench: StripeBench) -> None:
    """It waits for an operator: nothing of it is in the plan."""
    bench.count("3")
    bench.emulator.fault({"do": {"kind": "status", "status": 400}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    assert bench.states() == ["rejected"]
    plan = plan_push(bench.pool, bench.sink, now=NOW + timedelta(hours=1))
    assert (plan.blocked, plan.rows) == (1, ())
