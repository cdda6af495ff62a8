"""C18: Stripe acknowledges a delta, does not count it, and reports so.

The emulator drops it, tells a real receiver by signed deliveries, and the row's minute decides: absent twice, its delta
is sent once more under another name; present, nothing happens, whatever a report says.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.deltas import identifier_of
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.push_doubts import has_due_doubt
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.pipeline.stripe_error_reports import has_waiting_report, read_reports
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.faults.dropping import (
    DROP,
    FIRST,
    REJECT,
    REPORTED,
    SECOND,
    YESTERDAY,
    bindings,
    counted,
    hear,
    inbox,
    keep,
    push,
    read,
    release,
    settle,
)
from tests.faults.push_process import PushProcess
from tests.faults.seams import Point
from tests.faults.webhook_worker import receiving_worker
from tests.stripe_bench import NOW, ONCE, StripeBench, open_bench


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday."""
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("5", YESTERDAY)
    return opened


@pytest.fixture
def told(bench: StripeBench, database_url: str, tmp_path: Path) -> Iterator[StripeBench]:
    """The same, and the emulator tells a receiver of ours."""
    with receiving_worker(bench.emulator, database_url, tmp_path / "api.log"):
        yield bench


def test_c18_a_reported_row_is_sent_once_more(told: StripeBench) -> None:
    """C18: reported, proven absent, blocked until released, then a new row: Stripe holds what we counted, once."""
    assert push(told, NOW, fault=REJECT).accepted == 1
    assert told.at_stripe(YESTERDAY) == 0
    found = read(told, REPORTED)
    assert (found.reports, found.named, found.foreign, found.doubted, found.waiting) == (1, 1, 0, 1, ())
    assert inbox(told) == [("v1.billing.meter.error_report_triggered", "done")]
    # A report is no proof, and a summary that lags would be none either.
    assert settle(told, NOW + timedelta(minutes=59)).rows == ()
    assert [row.outcome for row in settle(told, FIRST).rows] == ["again"]
    assert settle(told, FIRST + timedelta(minutes=9)).rows == ()
    assert told.states() == ["accepted"]
    assert settle(told, SECOND).absent == 1
    assert told.states() == ["rejected_async"]
    (dropped,) = told.entries()
    assert "meter_event_customer_not_found" in dropped["error_message"]

    waiting = push(told, SECOND + timedelta(minutes=1))
    assert (waiting.blocked, waiting.accepted, len(told.entries())) == (1, 0, 1)
    assert waiting.rows[0].outcome == "rejected"
    release(told, SECOND + timedelta(minutes=2))
    assert push(told, SECOND + timedelta(minutes=3)).accepted == 1
    assert told.states() == ["rejected_async", "accepted"]
    first, second = told.entries()
    assert (first["identifier"] != second["identifier"], first["stamped_at"] != second["stamped_at"]) == (True, True)
    assert second["delta"] == 5
    assert told.at_stripe(YESTERDAY) == 5
    assert counted(told) == [second["identifier"]]
    assert push(told, SECOND + timedelta(hours=1)).customers == 0
    report = reconcile_usage(told.pool, told.sink, now=SECOND + timedelta(hours=1))
    assert (report.ok, report.confirmed, report.drift) == (1, 1, 0)


@pytest.mark.parametrize("order", ["created", "reversed", "shuffled"])
def test_c18_deliveries_again_and_in_any_order(told: StripeBench, order: str) -> None:
    """C18: two reports, each delivered three times in a row in any order, and once more later: one new row each."""
    told.bind("bob")
    push(told, NOW, fault=REJECT)
    told.count("7", YESTERDAY, "bob")
    push(told, NOW + timedelta(minutes=1), fault=REJECT)
    told.emulator.control("POST", "/deliveries", {"copies": 3, "order": order})
    found = read(told, NOW + timedelta(minutes=2))
    assert (found.reports, found.named) == (2, 2)
    again = read(told, NOW + timedelta(minutes=3))
    assert (again.reports, has_waiting_report(told.pool)) == (0, False)
    for now in (FIRST + timedelta(minutes=1), SECOND + timedelta(minutes=1)):
        settle(told, now)
    assert told.states() == ["rejected_async"] * 2
    release(told, SECOND + timedelta(minutes=2))
    push(told, SECOND + timedelta(minutes=3))
    assert (told.at_stripe(YESTERDAY), told.at_stripe(YESTERDAY, "bob")) == (5, 7)
    assert len(counted(told)) == 2


def test_c18_a_report_about_a_row_that_counts_changes_nothing(bench: StripeBench) -> None:
    """C18: the sample may be of a duplicate: a row that its minute holds stays accepted, and nothing is sent again."""
    push(bench, NOW)
    (entry,) = bench.entries()
    bench.emulator.client().v1.billing.meter_events.create(
        {"event_name": "calls", "payload": {"stripe_customer_id": "cus_nobody", "value": "1"}},
        {"idempotency_key": f"{entry['identifier']}.7"},
    )
    assert hear(bench, REPORTED).named == 1
    assert settle(bench, FIRST).present == 1
    assert bench.states() == ["accepted"]
    assert push(bench, SECOND).customers == 0
    assert bench.at_stripe(YESTERDAY) == 5


def test_c18_what_else_the_customer_was_sent_is_read_back(bench: StripeBench) -> None:
    """C18: reports are samples: the customer's other accepted rows are doubted too; those that count stay."""
    push(bench, NOW, fault=DROP)
    bench.count("6", YESTERDAY)
    push(bench, NOW + timedelta(minutes=1))
    bench.count("8", YESTERDAY)
    push(bench, NOW + timedelta(minutes=2), fault=REJECT)
    found = hear(bench, NOW + timedelta(minutes=3))
    assert (found.named, found.doubted) == (1, 3)
    for now in (FIRST + timedelta(minutes=3), SECOND + timedelta(minutes=3)):
        settle(bench, now)
    assert bench.states() == ["rejected_async", "accepted", "rejected_async"]
    release(bench, SECOND + timedelta(minutes=4))
    push(bench, SECOND + timedelta(minutes=5))
    assert bench.at_stripe(YESTERDAY) == 8
    assert bench.entries()[-1]["delta"] == 7


def test_c18_rows_that_a_report_counts_and_does_not_name(bench: StripeBench) -> None:
    """C18: four errors and one sample: every row of the meter sent shortly before is read back, one by one."""
    bench.emulator.control("POST", "/metering", {"sample_errors": 1})
    for number in range(4):
        bench.bind(f"c{number}")
        bench.count("3", YESTERDAY, f"c{number}")
    assert push(bench, NOW, fault=REJECT, times=4).accepted == 5
    found = hear(bench, REPORTED)
    assert (found.named, found.doubted) == (1, 5)
    settle(bench, FIRST)
    assert settle(bench, SECOND).absent == 4
    assert sorted(bench.states()) == ["accepted"] + ["rejected_async"] * 4
    release(bench, SECOND)
    push(bench, SECOND + timedelta(minutes=1))
    assert bench.at_stripe(YESTERDAY) == 5
    assert [bench.at_stripe(YESTERDAY, f"c{number}") for number in range(4)] == [Decimal(3)] * 4


def test_c18_a_reported_row_whose_answer_was_lost(bench: StripeBench) -> None:
    """C18 and C5: sent again it is acknowledged, and still it does not count: its customer is gone."""
    (customer,) = {row[0] for row in bindings(bench)}
    bench.emulator.client().v1.customers.delete(customer)
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "commit_then_reset"}})
    push_usage(bench.pool, bench.sink, now=NOW, retries=ONCE)
    assert bench.states() == ["sending"]
    assert hear(bench, REPORTED).doubted == 1
    assert push(bench, NOW + timedelta(minutes=2)).accepted == 1
    assert len(bench.emulator.ledger()) == 1
    assert settle(bench, NOW + timedelta(minutes=61)).rows == ()
    settle(bench, FIRST + timedelta(minutes=2))
    assert settle(bench, SECOND + timedelta(minutes=2)).absent == 1
    assert bench.states() == ["rejected_async"]


def test_c18_a_customer_that_stripe_does_not_have_holds_nothing(bench: StripeBench) -> None:
    """C18: no summary can be read of an unknown customer, and none is needed: the row is absent."""
    with transaction(bench.pool) as tx:
        tx.execute("update customer_bindings set stripe_customer_id = 'cus_nobody'")
    push(bench, NOW)
    assert hear(bench, REPORTED).named == 1
    assert [row.outcome for row in settle(bench, FIRST).rows] == ["again"]
    assert settle(bench, SECOND).absent == 1
    assert bench.states() == ["rejected_async"]


def test_c18_a_summary_that_cannot_be_read_decides_nothing(bench: StripeBench) -> None:
    """C18: a 404 while Stripe has the customer, or no answer at all: the row is read later."""
    push(bench, NOW, fault=REJECT)
    hear(bench, REPORTED)
    now = FIRST
    for status in (404, 500, 429):
        bench.emulator.fault({"match": {"path_re": "event_summaries"}, "do": {"kind": "status", "status": status}})
        assert settle(bench, now).unreadable == 1
        assert settle(bench, now + timedelta(minutes=9)).rows == ()
        now += timedelta(minutes=10)
    assert bench.states() == ["accepted"]
    assert [row.outcome for row in settle(bench, now).rows] == ["again"]
    assert settle(bench, now + timedelta(minutes=10)).absent == 1


def test_c18_samples_of_another_program_are_left_alone(bench: StripeBench) -> None:
    """C18: an event of no row of ours casts doubt on nothing."""
    push(bench, NOW)
    bench.emulator.client().v1.billing.meter_events.create(
        {"event_name": "calls", "payload": {"stripe_customer_id": "cus_nobody", "value": "1"}},
        {"idempotency_key": "somebody-else"},
    )
    found = hear(bench, REPORTED)
    assert (found.reports, found.named, found.foreign, found.doubted) == (1, 0, 1, 0)
    assert not has_due_doubt(bench.pool, now=SECOND)


def test_c18_a_batch_of_ours_is_named_instead_of_a_row(bench: StripeBench) -> None:
    """C18: which of its rows is meant is not told: every row of the meter sent shortly before is read back."""
    push(bench, NOW)
    bench.emulator.client().v1.billing.meter_events.create(
        {"event_name": "calls", "payload": {"stripe_customer_id": "cus_nobody", "value": "1"}},
        {"idempotency_key": "um1_batch_0"},
    )
    found = hear(bench, REPORTED)
    assert (found.named, found.doubted) == (0, 1)
    assert settle(bench, FIRST).present == 1


def test_c18_stripe_does_not_answer_while_a_report_is_read(bench: StripeBench) -> None:
    """C18: the report waits, with the reason, and is read the next time."""
    push(bench, NOW, fault=REJECT)
    keep(bench, REPORTED)
    bench.emulator.fault({"match": {"path_re": "core/events"}, "do": {"kind": "status", "status": 500}})
    assert len(read_reports(bench.pool, bench.sink, now=REPORTED).waiting) == 1
    assert has_waiting_report(bench.pool)
    assert read_reports(bench.pool, bench.sink, now=REPORTED).named == 1


@pytest.mark.parametrize(
    ("point", "at"),
    [
        pytest.param(Point(seam="load report"), REPORTED, id="before-the-report-is-fetched"),
        pytest.param(Point(seam="load report", when="after"), REPORTED, id="report-in-hand"),
        pytest.param(Point(seam="doubt", when="after"), REPORTED, id="before-the-doubt-is-committed"),
        pytest.param(Point(seam="end report", when="after"), REPORTED, id="before-the-report-is-marked"),
        pytest.param(Point(seam="read back"), FIRST, id="before-the-first-reading"),
        pytest.param(Point(seam="note minute"), FIRST, id="first-reading-in-hand"),
        pytest.param(Point(seam="note minute", when="after"), FIRST, id="before-the-first-reading-is-committed"),
        pytest.param(Point(seam="drop"), SECOND, id="second-reading-in-hand"),
        pytest.param(Point(seam="drop", when="after"), SECOND, id="before-the-drop-is-committed"),
        pytest.param(Point(seam="end doubt", when="after"), SECOND, id="before-the-doubt-ends"),
    ],
)
def test_c18_dead_while_finding_out(bench: StripeBench, database_url: str, point: Point, at: datetime) -> None:
    """C18: the process is killed anywhere on the way: what is not committed is done again, and the row is sent once."""
    push(bench, NOW, fault=REJECT)
    keep(bench, REPORTED)
    for now in (REPORTED, FIRST, SECOND, SECOND + timedelta(minutes=11), SECOND + timedelta(minutes=22)):
        bench.emulator.freeze(now)
        if now == at:
            PushProcess(bench.emulator, database_url, now=now, point=point, verb="settle reports").wait_dead()
            assert bench.states() == ["accepted"]
        else:
            read_reports(bench.pool, bench.sink, now=now)
            settle(bench, now)
    assert bench.states() == ["rejected_async"]
    release(bench, SECOND + timedelta(minutes=23))
    push(bench, SECOND + timedelta(minutes=24))
    assert bench.at_stripe(YESTERDAY) == 5
    assert (bench.states(), len(counted(bench))) == (["rejected_async", "accepted"], 1)


def test_a_report_names_a_request_by_identifier_or_key() -> None:
    """Both names that Stripe's pages show lead to the row; a stranger's leads nowhere."""
    ours = "um1_" + "a2" * 24
    assert identifier_of(ours) == identifier_of(f"{ours}.12") == ours
    for stranger in ("", "um1_short", f"{ours}.", f"{ours}.1.2", f"{ours}x", f"x{ours}", "evt_1"):
        assert identifier_of(stranger) is None
