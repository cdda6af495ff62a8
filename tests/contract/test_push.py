"""Pushing usage: real Postgres, real HTTP, the emulator on the other side."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import PushReport, has_unpushed_usage, push_usage
from stripemeter.pipeline.push_rows import WAITS
from tests.emulator import RunningEmulator
from tests.stripe_bench import NO_PAUSE, NOW, ONCE, TODAY, StripeBench, open_bench

YESTERDAY = TODAY - timedelta(days=1)


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """One mapped meter and one bound customer, `ada`."""
    opened = open_bench(pool, emulator)
    opened.bind()
    return opened


def test_what_is_counted_arrives_once(bench: StripeBench) -> None:
    """Days go out as one event each, the next push has nothing, and only the increment follows."""
    bench.count("10.5", YESTERDAY)
    bench.count("3")
    assert has_unpushed_usage(bench.pool, now=NOW)
    first = push_usage(bench.pool, bench.sink, now=NOW)
    assert (first.accepted, first.customers, first.quantity) == (2, 1, Decimal("13.5"))
    assert (bench.at_stripe(YESTERDAY), bench.at_stripe()) == (Decimal("10.5"), Decimal(3))
    assert not has_unpushed_usage(bench.pool, now=NOW)
    assert push_usage(bench.pool, bench.sink, now=NOW).customers == 0
    bench.count("11", YESTERDAY)
    push_usage(bench.pool, bench.sink, now=NOW)
    assert bench.at_stripe(YESTERDAY) == 11
    assert sorted(entry["delta"] for entry in bench.entries()) == [Decimal("0.5"), Decimal(3), Decimal("10.5")]


def test_a_smaller_counter_is_a_negative_delta(bench: StripeBench) -> None:
    """A recount that finds less takes back what was sent, down to nothing when the counter is gone."""
    bench.count("10", YESTERDAY)
    push_usage(bench.pool, bench.sink, now=NOW)
    bench.count("4", YESTERDAY)
    push_usage(bench.pool, bench.sink, now=NOW)
    assert bench.at_stripe(YESTERDAY) == 4
    with bench.pool.connection() as connection:
        connection.execute("delete from counters")
    assert has_unpushed_usage(bench.pool, now=NOW)
    push_usage(bench.pool, bench.sink, now=NOW)
    assert bench.at_stripe(YESTERDAY) == 0


def test_the_open_day_waits_for_its_next_minute(bench: StripeBench) -> None:
    """One delta per minute for today: until then nothing is asked for, then it goes."""
    bench.count("1")
    push_usage(bench.pool, bench.sink, now=NOW)
    bench.count("2")
    assert not has_unpushed_usage(bench.pool, now=NOW)
    waiting = push_usage(bench.pool, bench.sink, now=NOW)
    assert (waiting.accepted, waiting.waiting, waiting.rows[0].outcome) == (0, 1, "waiting")
    later = NOW + timedelta(minutes=1)
    assert has_unpushed_usage(bench.pool, now=later)
    push_usage(bench.pool, bench.sink, now=later)
    assert bench.at_stripe() == 2


def test_sixteen_digits_go_in_two_events(bench: StripeBench) -> None:
    """Stripe takes 15 digits of a value; what is cut off follows, and nothing is lost."""
    bench.count("123456789.123456789012", YESTERDAY)
    report = push_usage(bench.pool, bench.sink, now=NOW)
    assert report.accepted == 2
    assert bench.at_stripe(YESTERDAY) == Decimal("123456789.123456789012")


def test_days_stripe_no_longer_takes_are_held(bench: StripeBench) -> None:
    """A day older than the window is reported, never sent, and asks for no push."""
    old = (NOW - timedelta(days=36)).date()
    bench.count("7", old)
    assert not has_unpushed_usage(bench.pool, now=NOW)
    report = push_usage(bench.pool, bench.sink, now=NOW)
    assert (report.held, report.accepted, report.customers) == (1, 0, 0)
    row = report.rows[0]
    assert (row.outcome, row.day, row.delta) == ("held", old.isoformat(), Decimal(7))
    assert "outside Stripe's window" in row.reason
    assert bench.emulator.ledger() == []


def test_the_oldest_day_goes_while_it_has_a_minute_in_the_window(bench: StripeBench) -> None:
    """34 days back the last minutes of the day may still be stamped, and Stripe takes them."""
    oldest = (NOW - timedelta(days=34)).date()
    bench.count("7", oldest)
    push_usage(bench.pool, bench.sink, now=NOW)
    assert bench.at_stripe(oldest) == 7


def test_a_day_in_two_segments_is_two_events(bench: StripeBench) -> None:
    """Each is strictly inside its own segment, whatever second the boundary is; Stripe's day is their sum."""
    boundary = datetime.combine(YESTERDAY, time(12, 0, 17), UTC)
    bench.cut(boundary)
    bench.count("5", YESTERDAY)
    bench.count("6", YESTERDAY, segment=boundary)
    push_usage(bench.pool, bench.sink, now=NOW)
    assert bench.at_stripe(YESTERDAY) == 11
    stamped = {entry["delta"]: entry["stamped_at"].time() for entry in bench.entries()}
    assert stamped == {Decimal(5): time(11, 59), Decimal(6): time(23, 59)}


def test_what_has_no_whole_minute_waits_and_asks_for_no_push(bench: StripeBench) -> None:
    """Half a minute of a day in a segment: reported, never stamped outside it, and no reason to push again."""
    boundary = datetime.combine(YESTERDAY, time(0, 0, 30), UTC)
    bench.cut(boundary)
    bench.count("5", YESTERDAY)
    assert not has_unpushed_usage(bench.pool, now=NOW)
    bench.count("6", YESTERDAY, segment=boundary)
    assert has_unpushed_usage(bench.pool, now=NOW)
    report = push_usage(bench.pool, bench.sink, now=NOW)
    assert (report.accepted, report.waiting, bench.at_stripe(YESTERDAY)) == (1, 1, 6)
    (row,) = (row for row in report.rows if row.outcome == "waiting")
    assert (row.delta, row.reason) == (Decimal(5), WAITS)


def test_a_segment_that_ended_this_morning_is_closed(bench: StripeBench) -> None:
    """Its part of today counts back from its end; only the new segment's part takes the current minute."""
    boundary = NOW.replace(hour=6, minute=30, second=1)
    bench.cut(boundary)
    bench.count("5")
    bench.count("6", segment=boundary)
    push_usage(bench.pool, bench.sink, now=NOW)
    stamped = {entry["delta"]: entry["stamped_at"].time() for entry in bench.entries()}
    assert stamped == {Decimal(5): time(6, 29), Decimal(6): time(12, 0)}


@pytest.mark.parametrize(
    ("fault", "states", "attempts", "key_no", "already"),
    [
        ({"kind": "status", "status": 500}, ["accepted"], 2, 1, False),
        ({"kind": "status", "status": 500, "committed": True}, ["accepted"], 2, 1, True),
        ({"kind": "status", "status": 429}, ["accepted"], 2, 0, False),
        ({"kind": "status", "status": 409}, ["accepted"], 2, 0, False),
        ({"kind": "reset_before_commit"}, ["accepted"], 2, 0, False),
        ({"kind": "commit_then_reset"}, ["accepted"], 2, 0, False),
        ({"kind": "commit_then_truncate"}, ["accepted"], 2, 0, False),
    ],
)
def test_one_push_gets_through_a_fault(
    bench: StripeBench, fault: dict[str, object], states: list[str], attempts: int, key_no: int, already: bool
) -> None:
    """Every fault that passes is survived inside one push, and the usage is at Stripe exactly once."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    report = push_usage(bench.pool, bench.sink, now=NOW, retries=NO_PAUSE)
    entry = bench.entries()[0]
    assert (bench.states(), entry["attempt"], entry["key_no"]) == (states, attempts, key_no)
    assert entry["is_already_accepted"] is already
    assert (report.accepted, report.already_accepted) == (0, 1) if already else (1, 0)
    assert bench.at_stripe(YESTERDAY) == 5


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 500, "committed": True},
        {"kind": "status", "status": 503, "committed": True},
        {"kind": "status", "status": 429, "headers": {"Retry-After": "30"}},
        {"kind": "reset_before_commit"},
        {"kind": "commit_then_reset"},
        {"kind": "commit_then_truncate"},
    ],
)
def test_the_next_push_finishes_what_one_left_open(bench: StripeBench, fault: dict[str, object]) -> None:
    """A push that gives up leaves the row in flight; no other delta overtakes it; a later push settles it, once."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    report = push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    assert (report.unsettled, bench.states()) == (1, ["sending"])
    bench.count("8", YESTERDAY)
    assert not has_unpushed_usage(bench.pool, now=NOW)
    assert push_usage(bench.pool, bench.sink, now=NOW).customers == 0
    later = NOW + timedelta(minutes=1)
    assert has_unpushed_usage(bench.pool, now=later)
    push_usage(bench.pool, bench.sink, now=later)
    assert bench.states() == ["accepted", "accepted"]
    assert bench.at_stripe(YESTERDAY) == 8


def test_a_refusal_stops_its_customer_only(bench: StripeBench) -> None:
    """400: the row is rejected, nothing more is sent for the customer until released; the others go on."""
    bench.bind("bob")
    bench.count("5", YESTERDAY)
    bench.count("6", YESTERDAY, "bob")
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 400}})
    report = push_usage(bench.pool, bench.sink, now=NOW, max_workers=1)
    assert (report.rejected, report.accepted, report.blocked) == (1, 1, 1)
    assert bench.at_stripe(YESTERDAY, "bob") == 6
    assert (report.rows[0].outcome, report.rows[0].customer_ref) == ("rejected", "ada")
    assert not has_unpushed_usage(bench.pool, now=NOW)
    assert push_usage(bench.pool, bench.sink, now=NOW).customers == 0
    with bench.pool.connection() as connection:
        connection.execute("update push_entries set released_at = now() where state = 'rejected'")
    push_usage(bench.pool, bench.sink, now=NOW)
    assert bench.at_stripe(YESTERDAY) == 5


def test_a_refused_key_stops_everything(bench: StripeBench) -> None:
    """401: nobody's usage is refused, the push ends, and the row is sent when the key works again."""
    bench.bind("bob")
    bench.count("5", YESTERDAY)
    bench.count("6", YESTERDAY, "bob")
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 401}})
    report = push_usage(bench.pool, bench.sink, now=NOW, max_workers=1)
    assert "refuses the key (401)" in report.stopped
    assert (report.accepted, report.unsettled, bench.states()) == (0, 2, ["sending", "sending"])
    assert _sends(bench) == 1
    push_usage(bench.pool, bench.sink, now=NOW + timedelta(minutes=1))
    assert (bench.at_stripe(YESTERDAY), bench.at_stripe(YESTERDAY, "bob")) == (Decimal(5), Decimal(6))


def test_a_silent_stripe_stops_the_push(bench: StripeBench) -> None:
    """After five customers without an answer the rest is not asked for; nobody is lost."""
    for number in range(8):
        bench.bind(f"c{number}")
        bench.count("1", YESTERDAY, f"c{number}")
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "commit_then_reset"}, "times": 5})
    report = push_usage(bench.pool, bench.sink, now=NOW, max_workers=1, retries=ONCE)
    assert (report.unsettled, _sends(bench)) == (8, 5)
    assert "does not answer" in report.stopped
    push_usage(bench.pool, bench.sink, now=NOW + timedelta(minutes=1))
    assert [bench.at_stripe(YESTERDAY, f"c{number}") for number in range(8)] == [1] * 8


def test_after_a_day_the_minute_is_read_back(bench: StripeBench) -> None:
    """Arrived, and nobody knew for a day: Stripe has forgotten the identifier, so nothing is sent again."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "commit_then_reset"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    _probe_twice(bench, NOW + timedelta(hours=25))
    assert bench.states() == ["accepted"]
    assert len(bench.emulator.ledger()) == 1


def test_after_a_day_what_is_absent_is_sent_again(bench: StripeBench) -> None:
    """Lost, and nobody knew for a day: proven absent by two readings, then sent under the same identifier."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "reset_before_commit"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    _probe_twice(bench, NOW + timedelta(hours=25))
    entry = bench.entries()[0]
    assert (bench.states(), entry["key_no"]) == (["accepted"], 1)
    assert [event["identifier"] for event in bench.emulator.ledger()] == [entry["identifier"]]
    assert bench.at_stripe(YESTERDAY) == 5


def test_a_minute_with_something_else_in_it_is_quarantined(bench: StripeBench) -> None:
    """Somebody else wrote into the row's minute: the customer waits for an operator, nothing is sent on a guess."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "reset_before_commit"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    entry = bench.entries()[0]
    bench.emulator.client().v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "timestamp": int(entry["stamped_at"].timestamp()),
            "payload": {"stripe_customer_id": entry["stripe_customer_id"], "value": "2"},
        }
    )
    _probe_twice(bench, NOW + timedelta(hours=25))
    assert bench.states() == ["quarantined"]
    assert not has_unpushed_usage(bench.pool, now=NOW + timedelta(hours=26))


def test_a_row_never_sent_that_grew_too_old_is_held(bench: StripeBench) -> None:
    """Planned, and the machine was off for five weeks: cancelled, its usage held and reported, not lost."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "reset_before_commit"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    report = _probe_twice(bench, NOW + timedelta(days=36))
    assert bench.states() == ["cancelled"]
    assert bench.at_stripe(YESTERDAY) == 0
    assert report.held == 1


def _probe_twice(bench: StripeBench, now: datetime) -> PushReport:
    bench.emulator.freeze(now)
    first = push_usage(bench.pool, bench.sink, now=now)
    assert first.unsettled == 1
    bench.emulator.freeze(now + timedelta(minutes=11))
    return push_usage(bench.pool, bench.sink, now=now + timedelta(minutes=11))


def test_counts_are_pushed_for_a_count_mapping(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """A mapping by count sends the number of events, not their sum."""
    bench = open_bench(pool, emulator, aggregation="count")
    bench.bind()
    bench.count("500", YESTERDAY)
    bench.count("900", YESTERDAY)
    push_usage(pool, bench.sink, now=NOW)
    assert bench.at_stripe(YESTERDAY) == 2


def _sends(bench: StripeBench) -> int:
    return sum("meter_events" in entry["path"] for entry in bench.emulator.journal())
