"""Comparing with Stripe: every difference has a cause, and what cannot be read is never called equal."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import OutcomeUnknown
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.reconcile import ReconciledRow, reconcile_usage
from stripemeter.store import reconciliations
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator, start_emulator
from tests.stripe_bench import NOW, ONCE, TODAY, StripeBench, open_bench, shadow_sink

YESTERDAY = TODAY - timedelta(days=1)


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """One mapped meter and one bound customer, `ada`."""
    opened = open_bench(pool, emulator)
    opened.bind()
    return opened


def only_row(bench: StripeBench) -> ReconciledRow:
    """The one day that is not ok."""
    (row,) = reconcile_usage(bench.pool, bench.sink, now=NOW).rows
    return row


def test_equal_days_are_ok_and_confirm_their_rows(bench: StripeBench) -> None:
    """Everything sent and summed: ok, and the outbox's rows become confirmed, once."""
    bench.count("5", YESTERDAY)
    bench.count("2")
    push_usage(bench.pool, bench.sink, now=NOW)
    report = reconcile_usage(bench.pool, bench.sink, now=NOW)
    assert (report.days, report.ok, report.confirmed, report.rows) == (2, 2, 2, ())
    assert bench.states() == ["confirmed", "confirmed"]
    assert reconcile_usage(bench.pool, bench.sink, now=NOW).confirmed == 0


def test_what_was_not_sent_is_unsent(bench: StripeBench) -> None:
    """Counted and not pushed: drift, explained, nothing for a person to do."""
    bench.count("5", YESTERDAY)
    row = only_row(bench)
    assert (row.status, row.cause, row.local, row.stripe, row.drift) == ("drift", "unsent", *map(Decimal, (5, 0, 5)))
    assert reconcile_usage(bench.pool, bench.sink, now=NOW).unexplained == 0


def test_a_row_in_flight_is_in_flight(bench: StripeBench) -> None:
    """Sent and unanswered: whether it arrived or not, the cause is the open row."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "reset_before_commit"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    row = only_row(bench)
    assert (row.status, row.cause, row.pushed) == ("drift", "in_flight", Decimal(0))


def test_an_arrived_row_nobody_knows_of_is_ok_but_not_confirmed(bench: StripeBench) -> None:
    """The sums agree although the answer was lost: ok, and the row stays open until its own answer."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "commit_then_reset"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    report = reconcile_usage(bench.pool, bench.sink, now=NOW)
    assert (report.ok, report.confirmed, bench.states()) == (1, 0, ["sending"])


def test_a_refused_row_is_rejected(bench: StripeBench) -> None:
    """Stripe said no: the usage is missing there until somebody acts."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 400}})
    push_usage(bench.pool, bench.sink, now=NOW)
    assert only_row(bench).cause == "rejected"
    assert reconcile_usage(bench.pool, bench.sink, now=NOW).unexplained == 1


@pytest.mark.parametrize("kind", ["drop_async", "accept_then_async_reject"])
def test_accepted_and_never_counted_is_found(bench: StripeBench, kind: str) -> None:
    """200, and the event is gone: at first it may be lag, after a quarter of an hour it is a rejection."""
    bench.count("5", YESTERDAY)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": kind}})
    push_usage(bench.pool, bench.sink, now=NOW)
    assert only_row(bench).cause == "in_flight"
    later = reconcile_usage(bench.pool, bench.sink, now=NOW + timedelta(minutes=16))
    assert (later.rows[0].cause, later.unexplained) == ("rejected", 1)


def test_another_writer_is_found(bench: StripeBench) -> None:
    """Stripe has more than we sent, on a day of ours and on a day we know nothing of."""
    bench.count("1000", YESTERDAY)
    push_usage(bench.pool, bench.sink, now=NOW)
    customer = bench.entries()[0]["stripe_customer_id"]
    for days, value in ((1, "2"), (3, "7")):
        bench.emulator.client().v1.billing.meter_events.create(
            {
                "event_name": "calls",
                "timestamp": int((NOW - timedelta(days=days)).timestamp()),
                "payload": {"stripe_customer_id": customer, "value": value},
            }
        )
    report = reconcile_usage(bench.pool, bench.sink, now=NOW)
    assert [(row.status, row.cause, row.drift) for row in report.rows] == [
        ("drift", "foreign_writer", Decimal(-7)),
        ("within_epsilon", "foreign_writer", Decimal(-2)),
    ]
    assert (report.unexplained, report.within_epsilon) == (1, 1)


def test_the_parts_of_an_anchor_day_are_compared_by_themselves(bench: StripeBench) -> None:
    """A boundary at any second: each side against Stripe's minutes of it, and what is only there is found there."""
    boundary = datetime.combine(YESTERDAY, time(12, 0, 17), UTC)
    bench.cut(boundary)
    bench.count("5", YESTERDAY)
    bench.count("6", YESTERDAY, segment=boundary)
    push_usage(bench.pool, bench.sink, now=NOW)
    report = reconcile_usage(bench.pool, bench.sink, now=NOW)
    assert (report.days, report.ok, report.confirmed) == (2, 2, 2)
    with transaction(bench.pool) as tx:
        tx.execute("delete from counters where segment_start = %s", (boundary,))
    row = only_row(bench)
    assert (row.segment_start, row.local, row.stripe) == (boundary, Decimal(0), Decimal(6))


def test_usage_recounted_under_other_segments_converges(bench: StripeBench) -> None:
    """Phases changed and the day counted again: what was sent under the old segment is taken back, the new one sent."""
    bench.count("5", YESTERDAY)
    push_usage(bench.pool, bench.sink, now=NOW)
    boundary = datetime.combine(YESTERDAY - timedelta(days=2), time(8), UTC)
    bench.cut(boundary)
    with transaction(bench.pool) as tx:
        tx.execute("delete from counters")
    bench.count("5", YESTERDAY, segment=boundary)
    for _ in range(2):
        push_usage(bench.pool, bench.sink, now=NOW)
        report = reconcile_usage(bench.pool, bench.sink, now=NOW)
        assert (report.rows, bench.at_stripe(YESTERDAY)) == ((), Decimal(5))
    assert {(entry["delta"], entry["segment_start"] == boundary) for entry in bench.entries()} == {
        (Decimal(5), False),
        (Decimal(-5), False),
        (Decimal(5), True),
    }


def test_a_deleted_customer_is_told_from_a_silent_stripe(bench: StripeBench) -> None:
    """A customer that cannot be read is unknown; the others are still compared."""
    bench.bind("bob")
    bench.count("5", YESTERDAY)
    bench.count("6", YESTERDAY, "bob")
    push_usage(bench.pool, bench.sink, now=NOW)
    bench.emulator.fault({"match": {"path_re": "event_summaries"}, "do": {"kind": "status", "status": 500}})
    report = reconcile_usage(bench.pool, bench.sink, now=NOW)
    assert (report.ok, report.unknown) == (1, 1)
    assert (report.rows[0].status, report.rows[0].cause, report.rows[0].stripe) == ("unknown", "unreachable", None)


def test_nobody_there_is_an_error_not_an_answer(pool: ConnectionPool) -> None:
    """Stripe gone before its account was known: the reconciliation fails, and no verdict is written."""
    running = start_emulator()
    bench = open_bench(pool, running)
    bench.bind()
    bench.count("5", YESTERDAY)
    running.kill()
    report = reconcile_usage(pool, bench.sink, now=NOW)
    assert (report.unknown, report.ok) == (1, 0)
    with pytest.raises(OutcomeUnknown):
        push_usage(pool, shadow_sink(running), now=NOW)


def test_only_changes_make_history(bench: StripeBench) -> None:
    """The latest verdict is the state; an unchanged one adds no history."""
    bench.count("5", YESTERDAY)
    for minutes in range(3):
        reconcile_usage(bench.pool, bench.sink, now=NOW + timedelta(minutes=minutes))
    push_usage(bench.pool, bench.sink, now=NOW)
    reconcile_usage(bench.pool, bench.sink, now=NOW + timedelta(minutes=3))
    with transaction(bench.pool) as tx:
        told = [row[0] for row in tx.execute("select status from reconciliation_history order by id")]
        assert told == ["drift", "ok"]
        assert reconciliations.count_verdicts(tx) == {"ok": 1}


def test_held_days_are_not_drift(bench: StripeBench) -> None:
    """A day older than Stripe takes is counted as held and compared with nothing."""
    bench.count("9", TODAY - timedelta(days=40))
    report = reconcile_usage(bench.pool, bench.sink, now=NOW)
    assert (report.days, report.held, report.drift) == (0, 1, 0)
