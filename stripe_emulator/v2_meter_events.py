"""Meter events of v2: one at a time, checked at once; or a stream of up to 100, checked afterwards.

Belongs here: `POST /v2/billing/meter_events` and `POST /v2/billing/meter_event_stream`. Does not: what an event needs
(`meter_events`).
Rules V of `RULES.md`.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from stripe_emulator import meter_events
from stripe_emulator.calls import Call
from stripe_emulator.meter_events import Problem, Reading
from stripe_emulator.metering_knobs import metering_knobs
from stripe_emulator.wire import Json, StripeError, instant

_SYNCHRONOUS = {
    "meter_event_no_customer_defined": "payload_no_customer_defined",
    "meter_event_value_not_found": "payload_no_value_defined",
    "meter_event_invalid_value": "payload_invalid_value",
    "meter_event_value_too_many_digits": "payload_invalid_value",
    "no_meter": "no_meter",
    "archived_meter": "archived_meter",
    "timestamp_too_far_in_past": "timestamp_too_far_in_past",
    "timestamp_in_future": "timestamp_in_future",
}
"""Codes of an error report, and of the refusal of a single event; an unknown customer is no reason to refuse one."""


def create(call: Call) -> Json:
    """Accept one event.

    Raises:
        StripeError: one of Stripe's v2 codes.
    """
    reading = _read(call, call.parameters)
    problem = _problem(call, reading)
    if problem is not None and problem.code in _SYNCHRONOUS:
        raise StripeError(400, problem.message, code=_SYNCHRONOUS[problem.code])
    if meter_events.is_taken(call, reading, metering_knobs(call.state)):
        raise StripeError(
            400,
            "A meter event with a duplicate identifier has already been submitted.",
            code="duplicate_meter_event",
        )
    meter_events.store(call, reading, problem, source="v2")
    return {
        "object": "v2.billing.meter_event",
        "created": instant(call.now),
        "event_name": reading.event_name,
        "identifier": reading.identifier,
        "livemode": False,
        "payload": call.parameters["payload"],
        "timestamp": instant(reading.ts),
    }


def stream(call: Call) -> Json:
    """Accept up to 100 events; what is wrong with one is told afterwards, a duplicate never."""
    is_part = call.fault is not None and call.fault.kind == "commit_part_then_reset"
    for event in call.parameters["events"][:: 2 if is_part else 1]:
        reading = _read(call, event)
        if meter_events.is_taken(call, reading, metering_knobs(call.state)):
            meter_events.store_duplicate(call, reading)
        else:
            meter_events.store(call, reading, _problem(call, reading), source="stream")
    return {}


def _read(call: Call, event: Json) -> Reading:
    return meter_events.read(
        call,
        event_name=event["event_name"],
        identifier=event.get("identifier", str(uuid.uuid4())),
        ts=_seconds(event["timestamp"]) if "timestamp" in event else None,
        payload=event["payload"],
    )


def _problem(call: Call, reading: Reading) -> Problem | None:
    return (
        meter_events.timestamp_problem(reading)
        or meter_events.value_problem(reading)
        or meter_events.absence_problem(call, reading)
    )


def _seconds(text: str) -> int:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise StripeError(400, f"Invalid timestamp: {text}", code="invalid_fields", param="timestamp") from error
    if parsed.tzinfo is None:
        raise StripeError(400, f"timestamp needs a zone: {text}", code="invalid_fields", param="timestamp")
    return int(parsed.astimezone(UTC).timestamp())
