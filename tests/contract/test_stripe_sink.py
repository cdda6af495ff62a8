"""The Stripe adapter: which key goes where, what each answer means, and exact numbers both ways."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import stripe
from pydantic import SecretStr

from stripemeter.billing import Accepted, AlreadyAccepted, BillingSink, MeterEvent, open_sink, open_sinks
from stripemeter.errors import InvalidInput, NotAllowed, OutcomeUnknown, StripeRejected, Unavailable
from tests.emulator import RunningEmulator
from tests.stripe_bench import SinkSettings, shadow_sink

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def sink(emulator: RunningEmulator) -> BillingSink:
    """A shadow sink on the emulator, its clock at NOW."""
    emulator.freeze(NOW)
    return shadow_sink(emulator)


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


def test_shadow_needs_a_test_key() -> None:
    """Without a test key nothing can be called; a live key in its place is refused before any call."""
    with pytest.raises(NotAllowed, match="STRIPE_TEST_SECRET_KEY"):
        open_sink(SinkSettings(stripe_secret_key=SecretStr("sk_live_x")))
    for key in ("sk_live_x", "rk_live_x", "pk_test_x", "x"):
        with pytest.raises(InvalidInput, match="sk_test_ or rk_test_"):
            open_sink(SinkSettings(stripe_test_secret_key=SecretStr(key)))
    assert open_sink(SinkSettings(stripe_test_secret_key=SecretStr("rk_test_x"))).mode == "shadow"


def test_live_needs_a_live_key_and_a_switch() -> None:
    """Live usage goes out only when somebody said so twice."""
    live = SinkSettings(stripe_secret_key=SecretStr("sk_live_x"))
    with pytest.raises(NotAllowed, match="STRIPEMETER_ALLOW_LIVE"):
        open_sink(live, mode="live")
    with pytest.raises(NotAllowed, match="STRIPE_SECRET_KEY"):
        open_sink(SinkSettings(allow_live=True), mode="live")
    with pytest.raises(InvalidInput, match="sk_live_ or rk_live_"):
        open_sink(SinkSettings(stripe_secret_key=SecretStr("sk_test_x"), allow_live=True), mode="live")
    assert open_sink(replace(live, allow_live=True), mode="live").mode == "live"
    assert open_sinks(live) == []
    both = replace(live, allow_live=True, stripe_test_secret_key=SecretStr("sk_test_x"))
    assert [opened.mode for opened in open_sinks(both)] == ["shadow", "live"]


def test_an_event_is_sent_once_as_it_is(emulator: RunningEmulator, sink: BillingSink, event: MeterEvent) -> None:
    """Fixed-point value, our identifier, our Idempotency-Key; the second time it is there already."""
    assert isinstance(sink.send_meter_event(event), Accepted)
    again = sink.send_meter_event(replace(event, idempotency_key="um1_a.1"))
    assert isinstance(again, AlreadyAccepted)
    (kept,) = emulator.ledger()
    assert (kept["value"], kept["identifier"], kept["ts"]) == ("0.000000000001", "um1_a", int(NOW.timestamp()))
    keys = [entry["idempotency_key"] for entry in emulator.journal() if entry["path"].endswith("meter_events")]
    assert keys == ["um1_a.0", "um1_a.1"]


@pytest.mark.parametrize(
    ("fault", "raised", "status"),
    [
        ({"kind": "status", "status": 400}, StripeRejected, 400),
        ({"kind": "status", "status": 401}, StripeRejected, 401),
        ({"kind": "status", "status": 403}, StripeRejected, 403),
        ({"kind": "status", "status": 404}, StripeRejected, 404),
        ({"kind": "status", "status": 409}, Unavailable, None),
        ({"kind": "status", "status": 429}, Unavailable, None),
        ({"kind": "status", "status": 500}, OutcomeUnknown, 500),
        ({"kind": "status", "status": 503}, OutcomeUnknown, 503),
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
    before = len(emulator.journal())
    with pytest.raises(raised) as caught:
        sink.send_meter_event(event)
    assert getattr(caught.value, "status", None) == status
    assert len(emulator.journal()) == before + 1


def test_a_duplicate_of_somebody_else_is_a_refusal(
    emulator: RunningEmulator, sink: BillingSink, event: MeterEvent
) -> None:
    """'Already exists' counts as acknowledged only when it names our identifier; v2's code always does."""
    for body, answered in (
        ({"message": "An event already exists with identifier um1_b.", "type": "invalid_request_error"}, None),
        ({"message": "x", "type": "invalid_request_error", "code": "duplicate_meter_event"}, AlreadyAccepted),
    ):
        emulator.fault(
            {"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 400, "body": {"error": body}}}
        )
        if answered is None:
            with pytest.raises(StripeRejected):
                sink.send_meter_event(event)
        else:
            assert isinstance(sink.send_meter_event(event), answered)


def test_a_key_used_for_something_else_says_nothing(sink: BillingSink, event: MeterEvent) -> None:
    """Stripe's idempotency error is not a refusal of the event: the first request may have been executed."""
    sink.send_meter_event(event)
    with pytest.raises(OutcomeUnknown) as caught:
        sink.send_meter_event(replace(event, identifier="um1_c"))
    assert caught.value.status == 400


def test_how_long_a_busy_stripe_asks_for(emulator: RunningEmulator, sink: BillingSink, event: MeterEvent) -> None:
    """Retry-After is honoured when present; Stripe documents none."""
    for headers, seconds in (({"Retry-After": "7"}, 7), ({}, None), ({"Retry-After": "soon"}, None)):
        emulator.fault(
            {"match": {"path_re": "meter_events"}, "do": {"kind": "status", "status": 429, "headers": headers}}
        )
        with pytest.raises(Unavailable) as caught:
            sink.send_meter_event(event)
        assert caught.value.retry_after_seconds == seconds


def test_sums_are_read_exactly(sink: BillingSink, event: MeterEvent) -> None:
    """More digits than a float holds come back as they are, by range and by day, over several pages."""
    meter = sink.find_meter("calls")
    assert meter is not None
    for days in range(34):
        at = NOW - timedelta(days=days)
        sink.send_meter_event(
            replace(event, at=at, identifier=f"big{days}", idempotency_key=f"big{days}", quantity=Decimal(123456789012))
        )
        sink.send_meter_event(
            replace(
                event, at=at, identifier=f"low{days}", idempotency_key=f"low{days}", quantity=Decimal("0.000000000001")
            )
        )
    exact = Decimal("123456789012.000000000001")
    customer = event.stripe_customer_id
    first = (NOW - timedelta(days=33)).date()
    daily = sink.read_daily_quantities(
        stripe_meter_id=meter.stripe_meter_id, stripe_customer_id=customer, first=first, last=NOW.date()
    )
    assert daily == {first + timedelta(days=days): exact for days in range(34)}
    minute = sink.read_quantity(
        stripe_meter_id=meter.stripe_meter_id, stripe_customer_id=customer, start=NOW, end=NOW + timedelta(minutes=1)
    )
    assert minute == exact


def test_meters_that_do_not_add_up_are_told_apart(emulator: RunningEmulator, sink: BillingSink) -> None:
    """A meter that counts, keeps the last, pre-aggregates or reads other payload keys cannot take deltas."""
    meters = emulator.client().v1.billing.meters
    base: Any = {"display_name": "x", "default_aggregation": {"formula": "sum"}}
    variants: list[tuple[str, dict[str, Any]]] = [
        ("counts", {"default_aggregation": {"formula": "count"}}),
        ("hourly", {"event_time_window": "hour"}),
        ("other_value", {"value_settings": {"event_payload_key": "tokens"}}),
        ("other_customer", {"customer_mapping": {"event_payload_key": "who", "type": "by_id"}}),
    ]
    for name, change in variants:
        parameters: Any = {**base, **change, "event_name": name}
        meters.create(parameters)
        found = sink.find_meter(name)
        assert found is not None
        assert not found.is_additive
    assert sink.ensure_meter(event_name="plain", display_name="x").is_additive
    assert sink.find_meter("absent") is None
    assert sink.find_customer("cus_absent") is None


def test_nothing_is_told_about_this_machine() -> None:
    """Opening a sink switches the SDK's telemetry off."""
    assert stripe.enable_telemetry is False
