"""Every point at which a push can die, C0 to C17 and C24: a real process is killed there, and the next push ends it.

Whatever happened, Stripe holds what we counted, once.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from tests.emulator import RunningEmulator, start_emulator
from tests.faults.push_process import PushProcess
from tests.faults.seams import Point
from tests.stacks import wait_until
from tests.stripe_bench import NO_PAUSE, NOW, ONCE, TODAY, StripeBench, open_bench, shadow_sink

YESTERDAY = TODAY - timedelta(days=1)
AFTER_THE_LEASE = NOW + timedelta(seconds=61)
A_DAY_LATER = NOW + timedelta(hours=25)
READ_AGAIN = timedelta(minutes=11)

Fault = dict[str, Any]
LOST: Fault = {"kind": "reset_before_commit"}
RESET: Fault = {"kind": "commit_then_reset"}
TRUNCATED: Fault = {"kind": "commit_then_truncate"}
FAILED: Fault = {"kind": "status", "status": 500}
FAILED_AFTER: Fault = {"kind": "status", "status": 500, "committed": True}
LIMITED: Fault = {"kind": "status", "status": 429}
CONFLICT: Fault = {"kind": "status", "status": 409}
SLOW: Fault = {"kind": "delay_request", "seconds": 2}

ANSWERED = Point(seam="send", when="after")
PAUSED = Point(seam="backoff")

# What the emulator does to the request, where the process dies, the row it leaves, and how often Stripe has it then.
CRASHES = [
    pytest.param(None, Point(seam="plan", when="after"), [], 0, id="C0-before-the-plan-is-committed"),
    pytest.param(None, Point(seam="claim"), ["planned"], 0, id="C1-after-the-plan"),
    pytest.param(None, Point(seam="claim", when="after"), ["planned"], 0, id="C1-before-the-claim-is-committed"),
    pytest.param(None, Point(seam="send"), ["sending"], 0, id="C2-after-the-claim-before-the-first-byte"),
    pytest.param(LOST, ANSWERED, ["sending"], 0, id="C3-request-lost"),
    pytest.param(RESET, ANSWERED, ["sending"], 1, id="C5-committed-answer-lost"),
    pytest.param(TRUNCATED, ANSWERED, ["sending"], 1, id="C6-committed-answer-truncated"),
    pytest.param(FAILED, ANSWERED, ["sending"], 0, id="C7-500-not-committed-key-not-yet-changed"),
    pytest.param(FAILED, PAUSED, ["sending"], 0, id="C7-500-not-committed-key-changed"),
    pytest.param(FAILED_AFTER, ANSWERED, ["sending"], 1, id="C8-500-committed-key-not-yet-changed"),
    pytest.param(FAILED_AFTER, PAUSED, ["sending"], 1, id="C8-500-committed-key-changed"),
    pytest.param(None, ANSWERED, ["sending"], 1, id="C9-200-before-it-is-written-down"),
    pytest.param(None, Point(seam="accept", when="after"), ["sending"], 1, id="C9-200-before-that-is-committed"),
    pytest.param(FAILED_AFTER, Point(seam="accept"), ["sending"], 1, id="C10-exists-before-it-is-written-down"),
    pytest.param(LIMITED, PAUSED, ["sending"], 0, id="C11-429-during-the-backoff"),
    pytest.param(CONFLICT, PAUSED, ["sending"], 0, id="C11-409-during-the-backoff"),
    pytest.param(LIMITED, ANSWERED, ["sending"], 0, id="C11-429-before-the-backoff"),
]


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday."""
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("5", YESTERDAY)
    return opened


def crash(bench: StripeBench, database_url: str, fault: Fault | None, point: Point, *, now: datetime = NOW) -> None:
    """A push that dies at the point, in a world where the first meter event meets the fault."""
    if fault is not None:
        bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    PushProcess(bench.emulator, database_url, now=now, point=point).wait_dead()
    bench.emulator.fault()


@pytest.mark.parametrize(("fault", "point", "left", "arrived"), CRASHES)
def test_the_next_push_finishes(
    bench: StripeBench, database_url: str, fault: Fault | None, point: Point, left: list[str], arrived: int
) -> None:
    """C0-C3, C5-C11: the dead process leaves what the table says, usage grows, and one push brings Stripe to it."""
    crash(bench, database_url, fault, point)
    assert (bench.states(), len(bench.emulator.ledger())) == (left, arrived)
    bench.count("7", YESTERDAY)
    bench.emulator.freeze(NOW + timedelta(minutes=1))
    push_usage(bench.pool, bench.sink, now=AFTER_THE_LEASE, retries=NO_PAUSE)
    assert_equal(bench, 7)


@pytest.mark.parametrize(("fault", "point", "left", "arrived"), [param for param in CRASHES if param.values[2]])
def test_the_machine_was_down_for_a_day(
    bench: StripeBench, database_url: str, fault: Fault | None, point: Point, left: list[str], arrived: int
) -> None:
    """C12: past 23 hours a row that may have been sent is read back, never sent blindly; the others are just sent."""
    crash(bench, database_url, fault, point)
    bench.count("7", YESTERDAY)
    requests = len(sends(bench))
    push_at(bench, A_DAY_LATER)
    if left == ["sending"]:
        assert len(sends(bench)) == requests
        push_at(bench, A_DAY_LATER + READ_AGAIN)
    assert_equal(bench, 7)
    assert sum(entry["total_after"] == 5 for entry in bench.entries()) == 1
    assert len(bench.emulator.ledger()) == 2
    assert arrived <= 1


def test_c4_a_request_that_executes_after_its_sender_died(bench: StripeBench, database_url: str) -> None:
    """C4: killed while the request is under way, sent again, and both arrive: the second is the same event."""
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": SLOW})
    push = PushProcess(bench.emulator, database_url, now=NOW)
    wait_until(lambda: len(sends(bench)) == 1, "the request to be under way")
    push.kill()
    bench.count("7", YESTERDAY)
    push_usage(bench.pool, bench.sink, now=AFTER_THE_LEASE, retries=NO_PAUSE)
    wait_until(lambda: all("status" in entry for entry in sends(bench)), "the first request to execute")
    assert len(sends(bench)) == 3
    assert_equal(bench, 7)


def test_c4_a_request_that_executes_between_two_readings(bench: StripeBench, database_url: str) -> None:
    """C4 and C12: absent at the first reading of its minute and there at the second: that decides nothing."""
    crash(bench, database_url, None, Point(seam="send"))
    (entry,) = bench.entries()
    push_at(bench, A_DAY_LATER)
    bench.emulator.client().v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "identifier": entry["identifier"],
            "timestamp": int(entry["stamped_at"].timestamp()),
            "payload": {"stripe_customer_id": entry["stripe_customer_id"], "value": "5"},
        }
    )
    push_at(bench, A_DAY_LATER + READ_AGAIN)
    assert bench.states() == ["sending"]
    push_at(bench, A_DAY_LATER + 2 * READ_AGAIN)
    assert_equal(bench, 5)


@pytest.mark.parametrize(
    ("fault", "point"),
    [
        pytest.param(LOST, Point(seam="note reading"), id="C13-after-the-first-reading"),
        pytest.param(LOST, Point(seam="note reading", when="after"), id="C13-before-the-first-reading-is-committed"),
        pytest.param(RESET, Point(seam="note reading"), id="C13-after-the-first-reading-of-what-is-there"),
        pytest.param(LOST, Point(seam="read back"), id="C13-before-the-reading"),
    ],
)
def test_c13_dead_while_reading_back(bench: StripeBench, database_url: str, fault: Fault, point: Point) -> None:
    """C13: reading changes nothing at Stripe: it is read again."""
    leave_open(bench, fault)
    bench.emulator.freeze(A_DAY_LATER)
    crash(bench, database_url, None, point, now=A_DAY_LATER)
    assert bench.states() == ["sending"]
    for number in (1, 2):
        push_at(bench, A_DAY_LATER + number * READ_AGAIN)
    assert_equal(bench, 5)


@pytest.mark.parametrize(
    ("fault", "point"),
    [
        pytest.param(LOST, Point(seam="re-arm"), id="C13-absent-before-that-is-written-down"),
        pytest.param(LOST, Point(seam="re-arm", when="after"), id="C13-absent-before-that-is-committed"),
        pytest.param(RESET, Point(seam="accept"), id="C13-present-before-that-is-written-down"),
    ],
)
def test_c13_dead_with_the_decision_in_hand(bench: StripeBench, database_url: str, fault: Fault, point: Point) -> None:
    """C13: the second reading decided, and the process died before it was committed: it is decided again."""
    leave_open(bench, fault)
    push_at(bench, A_DAY_LATER)
    bench.emulator.freeze(A_DAY_LATER + READ_AGAIN)
    crash(bench, database_url, None, point, now=A_DAY_LATER + READ_AGAIN)
    assert bench.states() == ["sending"]
    push_at(bench, A_DAY_LATER + 2 * READ_AGAIN)
    assert_equal(bench, 5)


@pytest.mark.parametrize(
    ("point", "left"), [(Point(seam="claim"), "planned"), (Point(seam="send"), "sending"), (ANSWERED, "sending")]
)
def test_c14_dead_after_the_rearming(bench: StripeBench, database_url: str, point: Point, left: str) -> None:
    """C14: proven absent and planned again: from there it is a row like any other, with a day of its own."""
    leave_open(bench, LOST)
    push_at(bench, A_DAY_LATER)
    armed_at = A_DAY_LATER + READ_AGAIN
    bench.emulator.freeze(armed_at)
    crash(bench, database_url, None, point, now=armed_at)
    assert bench.states() == [left]
    push_at(bench, armed_at + timedelta(seconds=61))
    assert_equal(bench, 5)
    assert len({event["identifier"] for event in bench.emulator.ledger()}) == 1


@pytest.mark.parametrize("point", [Point(seam="send"), ANSWERED], ids=["before-its-request", "after-its-request"])
def test_c15_two_senders_of_one_row(bench: StripeBench, database_url: str, point: Point) -> None:
    """C15: a pusher sleeps past its lease, another sends the row, and the first goes on as if nothing had happened."""
    sleeper = PushProcess(bench.emulator, database_url, now=NOW, point=point, act="hold")
    sleeper.wait_held()
    assert push_usage(bench.pool, bench.sink, now=NOW + timedelta(seconds=30)).customers == 0
    push_usage(bench.pool, bench.sink, now=AFTER_THE_LEASE, retries=NO_PAUSE)
    sleeper.go_on()
    assert len(sends(bench)) == 2
    assert_equal(bench, 5)
    assert len(bench.entries()) == 1


def test_c16_two_planners_at_once(bench: StripeBench, database_url: str) -> None:
    """C16: one has written its row and not committed; the other waits for it, and finds it."""
    first = PushProcess(bench.emulator, database_url, now=NOW, point=Point(seam="plan", when="after"), act="hold")
    first.wait_held()
    second = PushProcess(bench.emulator, database_url, now=NOW)
    wait_until(lambda: _is_somebody_waiting(database_url), "the second planner to wait for the first")
    first.go_on()
    second.go_on()
    assert_equal(bench, 5)
    assert len(bench.entries()) == 1


def test_c16_without_the_lock_the_table_refuses_the_second_row(
    bench: StripeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C16: were the planners' lock lost, the outbox itself has no place for a second row in flight."""
    leave_open(bench, LOST)
    (entry,) = bench.entries()
    with bench.pool.connection() as connection, pytest.raises(psycopg.errors.UniqueViolation, match="in_flight"):
        connection.execute(
            """
            insert into push_entries (id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id,
                stripe_event_name, stripe_customer_id, segment_start, day, seq, delta, total_before, total_after,
                stamped_at, identifier, planned_at, state)
            select gen_random_uuid(), mapping_id, tenant_id, meter, customer_ref, stripe_account_id, stripe_event_name,
                stripe_customer_id, segment_start, day, seq + 1, delta, total_before, total_after,
                stamped_at - interval '1 minute', identifier || 'x', planned_at, 'planned'
            from push_entries where id = %s
            """,
            (entry["id"],),
        )


def test_c17_usage_while_a_row_is_in_flight(bench: StripeBench, database_url: str) -> None:
    """C17: what comes in later is not folded into the row under way; it is the next delta."""
    crash(bench, database_url, RESET, ANSWERED)
    for total in ("6", "4", "9"):
        bench.count(total, YESTERDAY)
    push_at(bench, AFTER_THE_LEASE)
    assert [entry["delta"] for entry in bench.entries()] == [Decimal(5), Decimal(4)]
    assert_equal(bench, 9)


@pytest.mark.parametrize("fault", [None, LOST, RESET], ids=["held-back", "lost", "answer-lost"])
def test_c24_a_row_that_arrives_after_its_segment_ended(
    bench: StripeBench, database_url: str, fault: Fault | None
) -> None:
    """C24: claimed in one segment, arrived in the next: it counts in its own, whatever the clock says by then."""
    boundary = NOW + timedelta(minutes=5)
    bench.cut(boundary)
    bench.count("3")
    crash(bench, database_url, fault, Point(seam="send") if fault is None else ANSWERED)
    bench.count("4", segment=boundary)
    later = NOW + timedelta(minutes=20)
    push_at(bench, later)
    assert bench.at_stripe(YESTERDAY) == 5
    stamped = [event["ts"] for event in bench.emulator.ledger() if event["ts"] >= _midnight()]
    assert sorted(ts >= boundary.timestamp() for ts in stamped) == [False, True]
    assert bench.at_stripe() == 7


def test_pushers_at_once_are_harmless(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Four pushers over the same customers: every delta once, one row per minute, nothing left."""
    bench = open_bench(pool, emulator)
    for number in range(6):
        bench.bind(f"c{number}")
        for age in (1, 2, 3):
            bench.count(f"{number + 1}.{age}", TODAY - timedelta(days=age), f"c{number}")
    with ThreadPoolExecutor(4) as pushers:
        reports = list(pushers.map(lambda _: push_usage(pool, shadow_sink(emulator), now=NOW, max_workers=2), range(4)))
    assert sum(report.accepted + report.already_accepted for report in reports) == 18
    assert len(emulator.ledger()) == 18
    assert push_usage(pool, bench.sink, now=AFTER_THE_LEASE).customers == 0


def test_an_emulator_that_dies_and_comes_back(pool: ConnectionPool, tmp_path: Path) -> None:
    """The other side killed while deltas are on their way: what it acknowledged it keeps, the rest is sent again."""
    first = start_emulator(state=tmp_path / "state.sqlite")
    bench = open_bench(pool, first)
    bench.bind()
    bench.count("5", YESTERDAY)
    first.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "commit_then_reset"}, "times": 9})
    push_usage(pool, bench.sink, now=NOW)
    first.kill()
    port = int(first.url.rsplit(":", 1)[1])
    second = start_emulator(state=tmp_path / "state.sqlite", port=port, key=first.key)
    try:
        bench.count("6", YESTERDAY)
        push_usage(pool, bench.sink, now=NOW + timedelta(minutes=20))
        assert bench.at_stripe(YESTERDAY) == 6
    finally:
        second.kill()


def leave_open(bench: StripeBench, fault: Fault) -> None:
    """A push that gave up on its row."""
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    bench.emulator.fault()
    assert bench.states() == ["sending"]


def push_at(bench: StripeBench, now: datetime) -> None:
    """A push in which nothing goes wrong, Stripe's clock with it."""
    bench.emulator.freeze(now)
    push_usage(bench.pool, bench.sink, now=now, retries=NO_PAUSE)


def sends(bench: StripeBench) -> list[dict[str, Any]]:
    """The meter events that were posted, as the emulator's journal has them."""
    return [
        entry
        for entry in bench.emulator.journal()
        if entry["method"] == "POST" and entry["path"] == "/v1/billing/meter_events"
    ]


def assert_equal(bench: StripeBench, total: int) -> None:
    """Yesterday at Stripe, in the counter's stead and in the outbox: the same total, and nothing is under way."""
    assert bench.at_stripe(YESTERDAY) == total
    assert set(bench.states()) == {"accepted"}
    assert sum(entry["delta"] for entry in bench.entries()) == total
    identifiers = [event["identifier"] for event in bench.emulator.ledger()]
    assert sorted(identifiers) == sorted(entry["identifier"] for entry in bench.entries())


def _is_somebody_waiting(database_url: str) -> bool:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
        ).fetchone()
    return row is not None and row[0] > 0


def _midnight() -> float:
    return datetime.combine(TODAY, datetime.min.time(), UTC).timestamp()
