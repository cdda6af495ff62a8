"""Meter events: what is refused at once, what is accepted, and what is accepted and never counted.

Belongs here: `POST /v1/billing/meter_events` and what every way in has in common. Does not: v2 (`v2_meter_events`),
adding up (`summaries`), telling what was rejected (`error_reports`).
Rules M of `RULES.md`.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from stripe_emulator import clocks
from stripe_emulator.calls import Call, missing
from stripe_emulator.customers import is_known
from stripe_emulator.metering_knobs import MeteringKnobs, metering_knobs
from stripe_emulator.meters import find_named
from stripe_emulator.received_events import MeterEvent
from stripe_emulator.wire import Json, StripeError, plain

MAX_AGE_SECONDS = 35 * 86_400
MAX_AHEAD_SECONDS = 5 * 60
MAX_DIGITS = 15
MAX_LENGTH = 100
_FIXED_POINT = re.compile(r"-?[0-9]+(\.[0-9]+)?")
Source = Literal["v1", "v2", "stream", "foreign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What an event says, in its meter's terms; None where it does not say it. `now` judges its timestamp."""

    event_name: str
    identifier: str
    ts: int
    now: int
    meter: Json | None
    customer: str | None
    raw_value: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an event cannot count: Stripe's code of an error report, and a sentence."""

    code: str
    message: str


def create(call: Call) -> Json:
    """Accept one event; whether it will be counted is decided as Stripe does, afterwards and silently.

    Raises:
        StripeError: timestamp out of the window, malformed value, or an identifier in use.
    """
    reading = read(
        call,
        event_name=call.parameters["event_name"],
        identifier=call.parameters.get("identifier", str(uuid.uuid4())),
        ts=call.parameters.get("timestamp"),
        payload=call.parameters["payload"],
    )
    if (late := timestamp_problem(reading)) is not None:
        raise StripeError(400, late.message, param="timestamp")
    if (odd := value_problem(reading)) is not None:
        raise StripeError(400, odd.message, param="payload")
    knobs = metering_knobs(call.state)
    if knobs.unknown_customer == "refused" and reading.customer is not None and not is_known(call, reading.customer):
        raise missing("customer", reading.customer, "payload")
    if is_taken(call, reading, knobs):
        raise StripeError(400, f"An event already exists with identifier {reading.identifier}.", is_saved=True)
    store(call, reading, absence_problem(call, reading), source="v1")
    return {
        "object": "billing.meter_event",
        "created": call.now,
        "event_name": reading.event_name,
        "identifier": reading.identifier,
        "livemode": False,
        "payload": call.parameters["payload"],
        "timestamp": reading.ts,
    }


def read(call: Call, *, event_name: str, identifier: str, ts: int | None, payload: dict[str, str]) -> Reading:
    """An event in the terms of the meter of its name; without a timestamp it happened now."""
    meter = find_named(call, event_name)
    customer = payload.get(meter["customer_mapping"]["event_payload_key"]) if meter else None
    now = call.now
    if metering_knobs(call.state).event_window_clock == "frozen" and customer is not None:
        now = clocks.in_time_of(call, customer).now
    return Reading(
        event_name=event_name,
        identifier=identifier,
        ts=now if ts is None else ts,
        now=now,
        meter=meter,
        customer=customer,
        raw_value=payload.get(meter["value_settings"]["event_payload_key"] if meter else "value"),
    )


def timestamp_problem(reading: Reading) -> Problem | None:
    """Outside 35 days back and 5 minutes ahead."""
    if reading.ts < reading.now - MAX_AGE_SECONDS:
        return Problem(code="timestamp_too_far_in_past", message="Timestamp must be no more than 35 days in the past.")
    if reading.ts > reading.now + MAX_AHEAD_SECONDS:
        return Problem(code="timestamp_in_future", message="Timestamp must be no more than 5 minutes in the future.")
    return None


def value_problem(reading: Reading) -> Problem | None:
    """Not a number in fixed notation, or too many significant digits; an absent value is no problem here."""
    raw = reading.raw_value
    if raw is None:
        return None
    if len(raw) > MAX_LENGTH or _FIXED_POINT.fullmatch(raw) is None:
        return Problem(
            code="meter_event_invalid_value",
            message=f"The value in the event payload must be a number. Received `{raw}`.",
        )
    # Zeros at either end are not significant.
    if len(raw.lstrip("-").replace(".", "").strip("0")) > MAX_DIGITS:
        return Problem(
            code="meter_event_value_too_many_digits",
            message=f"The value in the event payload can have at most {MAX_DIGITS} digits. Received `{raw}`.",
        )
    return None


def absence_problem(call: Call, reading: Reading) -> Problem | None:
    """What an event refers to and is not there: a meter, a customer, a value."""
    meter = reading.meter
    if meter is None:
        return Problem(code="no_meter", message=f"No meter has the event name `{reading.event_name}`.")
    if meter["status"] == "inactive":
        return Problem(code="archived_meter", message=f"The meter of `{reading.event_name}` is inactive.")
    if reading.customer is None:
        key = meter["customer_mapping"]["event_payload_key"]
        return Problem(code="meter_event_no_customer_defined", message=f"The payload has no `{key}`.")
    if not is_known(call, reading.customer):
        return Problem(code="meter_event_customer_not_found", message=f"No such customer: '{reading.customer}'")
    if reading.raw_value is None and meter["default_aggregation"]["formula"] != "count":
        key = meter["value_settings"]["event_payload_key"]
        return Problem(code="meter_event_value_not_found", message=f"The payload has no `{key}`.")
    return None


def is_taken(call: Call, reading: Reading, knobs: MeteringKnobs) -> bool:
    """Whether an identifier is in use where it must be unique."""
    scope = knobs.identifier_scope
    return call.state.events.is_taken(
        call.account,
        reading.identifier,
        call.now,
        event_name=None if scope == "account" else reading.event_name,
        customer=reading.customer if scope == "customer" else None,
    )


def receive_foreign(
    call: Call, event_name: str, identifier: str | None, ts: int | None, payload: dict[str, str]
) -> Reading:
    """Remember an event of another writer of the account, refused by nothing and counted when it is good."""
    reading = read(
        call,
        event_name=event_name,
        identifier=identifier or str(uuid.uuid4()),
        ts=ts,
        payload=payload,
    )
    store(call, reading, value_problem(reading) or absence_problem(call, reading), source="foreign")
    return reading


def store_duplicate(call: Call, reading: Reading) -> None:
    """Remember an event that is ignored because its identifier is in use; it takes nothing."""
    _insert(call, reading, state="dropped", reason="duplicate", source="stream", taken_until=call.now)


def store(call: Call, reading: Reading, problem: Problem | None, *, source: Source) -> None:
    """Remember an accepted event with its verdict; a fault of the request may change it."""
    state, reason = ("visible", None) if problem is None else ("rejected", problem.code)
    if call.fault is not None and call.fault.kind == "drop_async":
        state, reason = "dropped", None
    elif call.fault is not None and call.fault.kind == "accept_then_async_reject":
        state, reason = "rejected", call.fault.code
    knobs = metering_knobs(call.state)
    taken_until = call.now + knobs.taken_seconds + _jitter(reading.identifier, knobs.taken_jitter_seconds)
    _insert(call, reading, state=state, reason=reason, source=source, taken_until=taken_until)


def _insert(call: Call, reading: Reading, *, state: str, reason: str | None, source: Source, taken_until: int) -> None:
    is_number = reading.raw_value is not None and value_problem(reading) is None
    call.state.events.insert(
        MeterEvent(
            account=call.account,
            identifier=reading.identifier,
            event_name=reading.event_name,
            meter=reading.meter["id"] if reading.meter else None,
            customer=reading.customer,
            ts=reading.ts,
            value=plain(Decimal(reading.raw_value)) if is_number and reading.raw_value is not None else None,
            received_at=call.now,
            state=state,
            reason=reason,
            settles_at=call.now + metering_knobs(call.state).ingest_lag_seconds,
            taken_until=taken_until,
            source=source,
            request_id=call.request_id,
            request_key=call.idempotency_key,
        )
    )


def _jitter(identifier: str, most: int) -> int:
    """0 to `most` seconds, always the same for an identifier."""
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8]) % (most + 1)
