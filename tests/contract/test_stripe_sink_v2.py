"""The Stripe adapter with `STRIPEMETER_STRIPE_TRANSPORT=v2`: the same promises over Stripe's other way in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.billing import Accepted, AlreadyAccepted, BillingSink, MeterEvent
from stripemeter.errors import InvalidInput, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.deltas import identifier_of
from stripemeter.pipeline.push import push_usage
from stripemeter.runtime.settings import load_settings
from tests.emulator import RunningEmulator
from tests.stripe_bench import NO_PAUSE, ONCE, TODAY, StripeBench, open_bench, shadow_sink
from tests.stripe_bench import NOW as BENCH_NOW

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
YESTERDAY = TODAY - timedelta(days=1)
PATH = "/v2/billing/meter_events"


@pytest.fixture
def sink(emulator: RunningEmulator) -> BillingSink:
    """A shadow sink on the emulator, its clock at NOW."""
    emulator.freeze(NOW)
    return shadow_sink(emulator, transport="v2")


@pytest.fixture
def event(sink: BillingSink) -> MeterEvent:
    """One event on a meter and a customer that exist."""
    sink.ensure_meter(event_name="calls", display_name="Calls")
    return MeterEvent(
        event_name="calls",
        stripe_customer_id=sink.create_customer(name="Ada", idempotency_key="ada"),
        quantity=Decimal("1E-12"),
        at=NOW,
        identifier="um1_a",
        idempotency_key="um1_a.0",
    )


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday, and pushes go over v2."""
    opened = replace(open_bench(pool, emulator), sink=shadow_sink(emulator, transport="v2"))
    opened.bind()
    opened.count("5", YESTERDAY)
    return opened


def sends(emulator: RunningEmulator) -> list[str]:
    """The paths of the meter events that were posted."""
    return [entry["path"] for entry in emulator.journal() if entry["path"].endswith("meter_events")]


def test_an_event_is_sent_once_as_it_is(emulator: RunningEmulator, sink: BillingSink, event: MeterEvent) -> None:
    """Over v2, fixed-point value, our identifier and Idempotency-Key; a new key finds it there already."""
    first = sink.send_meter_event(event)
    assert isinstance(first, Accepted)
    assert first.request_id is not None
    assert isinstance(sink.send_meter_event(replace(event, idempotency_key="um1_a.1")), AlreadyAccepted)
    (kept,) = emulator.ledger()
    assert (kept["value"], kept["identifier"], kept["ts"]) == ("0.000000000001", "um1_a", int(NOW.timestamp()))
    assert sends(emulator) == [PATH, PATH]


def test_a_negative_delta_and_a_zone_of_its_own(
    emulator: RunningEmulator, sink: BillingSink, event: MeterEvent
) -> None:
    """The minute is told in UTC whatever zone it came in."""
    at = NOW.astimezone(datetime.fromisoformat("2026-11-23T00:00:00+05:45").tzinfo)
    sink.send_meter_event(replace(event, at=at, quantity=Decimal("-2.5")))
    (kept,) = emulator.ledger()
    assert (kept["value"], kept["ts"]) == ("-2.5", int(NOW.timestamp()))


@pytest.mark.parametrize(
    ("fault", "raised", "status"),
    [
        ({"kind": "status", "status": 400}, StripeRejected, 400),
        ({"kind": "status", "status": 401}, StripeRejected, 401),
        ({"kind": "status", "status": 409}, Unavailable, None),
        ({"kind": "status", "status": 429}, Unavailable, None),
        ({"kind": "status", "status": 500}, OutcomeUnknown, 500),
        ({"kind": "reset_before_commit"}, OutcomeUnknown, None),
        ({"kind": "commit_then_reset"}, OutcomeUnknown, None),
        ({"kind": "commit_then_truncate"}, OutcomeUnknown, None),
    ],
)
def test_what_an_answer_means(
    emulator: RunningEmulator,
    sink: BillingSink,
    event: MeterEvent,
    fault: dict[str, Any],
    raised: type[Exception],
    status: int | None,
) -> None:
    """No, not now, or nobody knows: one request each, no retry inside."""
    emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    with pytest.raises(raised) as caught:
        sink.send_meter_event(event)
    assert getattr(caught.value, "status", None) == status
    assert sends(emulator) == [PATH]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"event_name": "none"}, "no_meter"),
        ({"at": NOW - timedelta(days=36)}, "timestamp_too_far_in_past"),
        ({"quantity": Decimal(10**16 + 1)}, "payload_invalid_value"),
    ],
)
def test_a_refusal_has_stripes_code(
    emulator: RunningEmulator, sink: BillingSink, event: MeterEvent, changes: dict[str, Any], code: str
) -> None:
    """v2 checks at once what v1 reports afterwards."""
    with pytest.raises(StripeRejected) as caught:
        sink.send_meter_event(replace(event, **changes))
    assert (caught.value.status, caught.value.stripe_code) == (400, code)
    assert emulator.ledger() == []


def test_a_key_used_for_something_else_says_nothing(sink: BillingSink, event: MeterEvent) -> None:
    """An idempotency error is no refusal of the event: the first request may have been executed."""
    sink.send_meter_event(event)
    with pytest.raises(OutcomeUnknown):
        sink.send_meter_event(replace(event, identifier="um1_c"))


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset_before_commit"},
        {"kind": "commit_then_reset"},
        {"kind": "commit_then_truncate"},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 500, "committed": True},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 409},
        {"kind": "duplicate_delivery"},
    ],
    ids=lambda fault: "-".join(str(part) for part in fault.values()),
)
def test_a_push_over_v2_converges(bench: StripeBench, fault: dict[str, Any]) -> None:
    """Whatever happened to the first attempt, Stripe holds the usage once after the next push."""
    bench.emulator.fault({"match": {"path_re": "meter_events"}, "do": fault})
    push_usage(bench.pool, bench.sink, now=BENCH_NOW, retries=ONCE)
    bench.emulator.fault()
    bench.count("7", YESTERDAY)
    later = BENCH_NOW + timedelta(minutes=20)
    bench.emulator.freeze(later)
    push_usage(bench.pool, bench.sink, now=later, retries=NO_PAUSE)
    assert bench.at_stripe(YESTERDAY) == 7
    assert bench.states() == ["accepted", "accepted"]
    assert set(sends(bench.emulator)) == {PATH}
    assert len(bench.emulator.ledger()) == 2


def test_an_error_report_of_v2_names_our_row(bench: StripeBench) -> None:
    """A customer that Stripe does not know is accepted by v2 too, and reported with a key that leads to the row."""
    with bench.pool.connection() as connection:
        (row,) = connection.execute("select stripe_customer_id from customer_bindings").fetchall()
    bench.emulator.client().v1.customers.delete(row[0])
    push_usage(bench.pool, bench.sink, now=BENCH_NOW, retries=NO_PAUSE)
    (entry,) = bench.entries()
    bench.emulator.freeze(BENCH_NOW + timedelta(seconds=20))
    (told,) = bench.emulator.client().v2.core.events.list().data
    report = bench.sink.load_error_report(told.id)
    assert report is not None
    assert [identifier_of(sample.request_key) for sample in report.samples] == [entry["identifier"]]
    assert (report.stripe_meter_id, report.error_count) == (bench.meter_id, 1)


def test_the_transport_is_v1_unless_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another value is refused by name."""
    monkeypatch.chdir(tmp_path)
    assert load_settings().stripe_transport == "v1"
    monkeypatch.setenv("STRIPEMETER_STRIPE_TRANSPORT", "v2")
    assert load_settings().stripe_transport == "v2"
    monkeypatch.setenv("STRIPEMETER_STRIPE_TRANSPORT", "v3")
    with pytest.raises(InvalidInput, match="STRIPEMETER_STRIPE_TRANSPORT"):
        load_settings()
