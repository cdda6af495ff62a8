"""C23: a batch of the stream of which any part may have arrived; every row is counted once all the same."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg_pool import ConnectionPool
from pydantic import SecretStr

from stripemeter.billing import BillingSink, open_sink
from stripemeter.pipeline.push import PushReport, push_usage
from stripemeter.pipeline.reconcile import reconcile_usage
from tests.emulator import RunningEmulator
from tests.faults.push_process import PushProcess
from tests.faults.seams import Point
from tests.stripe_bench import NO_PAUSE, NOW, TODAY, SinkSettings, StripeBench, open_bench, shadow_sink

YESTERDAY = TODAY - timedelta(days=1)
AFTER_THE_LEASE = NOW + timedelta(seconds=61)
A_DAY_LATER = NOW + timedelta(hours=25)
CUSTOMERS = tuple(f"c{number}" for number in range(8))
STREAM = {"path_re": "meter_event_stream"}
SENDING, SENT = Point(seam="send batch"), Point(seam="send batch", when="after")

# What the emulator does to the batch, where the process dies, and how many of the eight events Stripe has then.
CRASHES = [
    pytest.param(None, SENDING, 0, id="before-the-first-byte"),
    pytest.param({"kind": "reset_before_commit"}, SENT, 0, id="lost-on-the-way"),
    pytest.param({"kind": "commit_part_then_reset"}, SENT, 4, id="every-second-one-arrived"),
    pytest.param({"kind": "commit_then_reset"}, SENT, 8, id="all-arrived-answer-lost"),
    pytest.param({"kind": "status", "status": 500, "committed": True}, SENT, 8, id="all-arrived-500"),
    pytest.param(None, SENT, 8, id="answered-before-it-is-written-down"),
    pytest.param(None, Point(seam="accept", when="after"), 8, id="answered-before-that-is-committed"),
]


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """Eight customers have used 5 each yesterday."""
    opened = open_bench(pool, emulator)
    for customer in CUSTOMERS:
        opened.bind(customer)
        opened.count("5", YESTERDAY, customer)
    return opened


@pytest.fixture
def stream(bench: StripeBench) -> BillingSink:
    """The same account by the stream."""
    return shadow_sink(bench.emulator, transport="v2_stream")


@pytest.mark.parametrize(("fault", "point", "arrived"), CRASHES)
def test_c23_dead_in_the_middle_of_a_batch(
    bench: StripeBench,
    stream: BillingSink,
    database_url: str,
    fault: dict[str, Any] | None,
    point: Point,
    arrived: int,
) -> None:
    """C23: the dead process leaves rows in flight, usage grows, and the next batch brings Stripe to it, once."""
    crash(bench, database_url, fault, point)
    assert set(bench.states()) == {"sending"}
    assert counted(bench) == arrived
    bench.count("7", YESTERDAY, CUSTOMERS[0])
    push_at(bench, stream, AFTER_THE_LEASE)
    assert_equal(bench, stream, first=7)


@pytest.mark.parametrize(("fault", "point", "arrived"), CRASHES)
def test_c23_and_the_machine_was_down_for_a_day(
    bench: StripeBench,
    stream: BillingSink,
    database_url: str,
    fault: dict[str, Any] | None,
    point: Point,
    arrived: int,
) -> None:
    """C23 and C12: past 23 hours no row is sent blindly: its minute says whether it was in the part that arrived."""
    crash(bench, database_url, fault, point)
    batches = len(sends(bench))
    push_at(bench, stream, A_DAY_LATER)
    assert len(sends(bench)) == batches
    push_at(bench, stream, A_DAY_LATER + timedelta(minutes=11))
    push_at(bench, stream, A_DAY_LATER + timedelta(minutes=13))
    assert_equal(bench, stream, first=5)
    assert counted(bench) == len(CUSTOMERS)
    assert arrived <= len(CUSTOMERS)


def test_a_push_by_the_stream_is_one_request(bench: StripeBench, stream: BillingSink) -> None:
    """Eight deltas, one request; again nothing; a correction goes the same way."""
    report = push_at(bench, stream, NOW)
    assert (report.accepted, len(sends(bench))) == (8, 1)
    assert push_at(bench, stream, NOW).customers == 0
    bench.count("3", YESTERDAY, CUSTOMERS[0])
    push_at(bench, stream, NOW)
    assert_equal(bench, stream, first=3)


def test_a_session_that_ended_is_replaced(bench: StripeBench, stream: BillingSink) -> None:
    """Stripe forgets a token after 15 minutes, whatever our clock says: the batch is sent again with a new one."""
    push_at(bench, stream, NOW)
    bench.count("6", YESTERDAY, CUSTOMERS[0])
    report = push_at(bench, stream, NOW + timedelta(minutes=16))
    assert (report.accepted, report.stopped) == (1, "")
    assert_equal(bench, stream, first=6)
    sessions = [entry for entry in bench.emulator.journal() if entry["path"].endswith("meter_event_session")]
    assert len(sessions) == 2


def test_a_batch_stripe_cannot_read_is_sent_row_by_row(bench: StripeBench, stream: BillingSink) -> None:
    """A refused batch says nothing of one row: each then learns its own verdict."""
    bench.emulator.fault({"match": STREAM, "do": {"kind": "status", "status": 400}})
    report = push_at(bench, stream, NOW)
    assert (report.accepted, report.rejected) == (8, 0)
    assert_equal(bench, stream, first=5)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_push(bench: StripeBench, stream: BillingSink, status: int) -> None:
    """Nobody's usage is refused for it; it is sent when the key works again."""
    bench.emulator.fault({"match": {"path_re": "meter_event_session"}, "do": {"kind": "status", "status": status}})
    report = push_at(bench, stream, NOW)
    assert f"refuses the key ({status})" in report.stopped
    assert (report.unsettled, report.rejected, counted(bench)) == (8, 0, 0)
    push_at(bench, stream, AFTER_THE_LEASE)
    assert_equal(bench, stream, first=5)


def test_a_busy_stripe_is_asked_again_later(bench: StripeBench, stream: BillingSink) -> None:
    """429: nothing happened, the rows stay in flight."""
    bench.emulator.fault({"match": STREAM, "do": {"kind": "status", "status": 429}})
    report = push_at(bench, stream, NOW)
    assert (report.unsettled, counted(bench)) == (8, 0)
    push_at(bench, stream, AFTER_THE_LEASE)
    assert_equal(bench, stream, first=5)


def test_a_test_account_has_no_stream() -> None:
    """Stripe has it for live accounts only: shadow pushes to Stripe itself go by v2, one by one."""
    settings = SinkSettings(stripe_test_secret_key=SecretStr("sk_test_none"), stripe_transport="v2_stream")
    assert open_sink(settings).batch_size == 1


def crash(bench: StripeBench, database_url: str, fault: dict[str, Any] | None, point: Point) -> None:
    """A push by the stream that dies at the point, in a world where the first batch meets the fault."""
    if fault is not None:
        bench.emulator.fault({"match": STREAM, "do": fault})
    PushProcess(bench.emulator, database_url, now=NOW, point=point, transport="v2_stream").wait_dead()
    bench.emulator.fault()


def push_at(bench: StripeBench, sink: BillingSink, now: datetime) -> PushReport:
    """A push, Stripe's clock with it."""
    bench.emulator.freeze(now)
    return push_usage(bench.pool, sink, now=now, retries=NO_PAUSE)


def sends(bench: StripeBench) -> list[dict[str, Any]]:
    """The batches that were posted."""
    return [entry for entry in bench.emulator.journal() if entry["path"].endswith("meter_event_stream")]


def counted(bench: StripeBench) -> int:
    """How many events count at Stripe."""
    return sum(event["state"] == "visible" for event in bench.emulator.ledger())


def assert_equal(bench: StripeBench, sink: BillingSink, *, first: int) -> None:
    """The first customer has this much at Stripe, the others 5, and the reconciliation agrees."""
    assert [bench.at_stripe(YESTERDAY, customer) for customer in CUSTOMERS] == [first, *[5] * 7]
    assert set(bench.states()) == {"accepted"}
    report = reconcile_usage(bench.pool, sink, now=A_DAY_LATER + timedelta(hours=1))
    assert (report.ok, report.drift, report.unknown) == (8, 0, 0)
