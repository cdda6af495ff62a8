"""C20: what Stripe holds too much of is taken back by a negative delta, never by a cancel adjustment.

A cancel is possible for a day, names one event and has states of its own; a negative row is a row like any other, so a
process that dies while taking back leaves what every push leaves: `docs/decisions/0012-error-reports.md`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from tests.emulator import RunningEmulator
from tests.faults.push_process import PushProcess
from tests.faults.seams import Point
from tests.stripe_bench import NO_PAUSE, NOW, TODAY, StripeBench, open_bench

YESTERDAY = TODAY - timedelta(days=1)
LATER = NOW + timedelta(minutes=5)
ANSWERED = Point(seam="send", when="after")


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` had used 5 yesterday, Stripe has it, and it turns out to be 3."""
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("5", YESTERDAY)
    push_usage(pool, opened.sink, now=NOW, retries=NO_PAUSE)
    opened.count("3", YESTERDAY)
    emulator.freeze(LATER)
    return opened


@pytest.mark.parametrize(
    ("fault", "point"),
    [
        pytest.param(None, Point(seam="plan", when="after"), id="before-the-plan-is-committed"),
        pytest.param(None, Point(seam="claim"), id="after-the-plan"),
        pytest.param(None, Point(seam="send"), id="before-the-first-byte"),
        pytest.param({"kind": "reset_before_commit"}, ANSWERED, id="request-lost"),
        pytest.param({"kind": "commit_then_reset"}, ANSWERED, id="answer-lost"),
        pytest.param({"kind": "status", "status": 500, "committed": True}, ANSWERED, id="500-and-committed"),
        pytest.param(None, Point(seam="accept"), id="answered-before-it-is-written-down"),
    ],
)
def test_c20_dead_while_taking_back(
    bench: StripeBench, database_url: str, fault: dict[str, Any] | None, point: Point
) -> None:
    """C20: wherever it died, the next push takes back 2, once; no adjustment was ever asked for."""
    if fault is not None:
        bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    PushProcess(bench.emulator, database_url, now=LATER, point=point).wait_dead()
    bench.emulator.fault()
    bench.emulator.freeze(LATER + timedelta(minutes=2))
    push_usage(bench.pool, bench.sink, now=LATER + timedelta(minutes=2), retries=NO_PAUSE)
    assert bench.at_stripe(YESTERDAY) == 3
    assert [(entry["delta"], entry["state"]) for entry in bench.entries()] == [(5, "accepted"), (-2, "accepted")]
    assert [event["value"] for event in bench.emulator.ledger()] == ["5", "-2"]
    assert not [entry for entry in bench.emulator.journal() if "adjustments" in entry["path"]]


def test_c20_a_day_later_too(bench: StripeBench) -> None:
    """C20: past the 24 hours in which Stripe cancels, a correction is the same negative row."""
    later = NOW + timedelta(hours=30)
    bench.emulator.freeze(later)
    push_usage(bench.pool, bench.sink, now=later, retries=NO_PAUSE)
    assert bench.at_stripe(YESTERDAY) == 3
