"""Meter events: what is refused at once, what is accepted, and what is accepted and never counted.

Belongs here: `POST /v1/billing/meter_events`. Does not: adding up (`summaries`).
Rules M1-M8 and M13-M14 of `RULES.md`.
"""

from __future__ import annotations

import re
import uuid
from decimal import Decimal

from stripe_emulator.calls import Call
from stripe_emulator.customers import is_known
from stripe_emulator.meters import find_active
from stripe_emulator.state import MeterEvent
from stripe_emulator.wire import Json, StripeError, plain

MAX_AGE_SECONDS = 35 * 86_400
MAX_AHEAD_SECONDS = 5 * 60
DEDUP_SECONDS = 24 * 3_600
MAX_DIGITS = 15
MAX_LENGTH = 100
_FIXED_POINT = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def create(call: Call) -> Json:
    """Accept one event; whether it will be counted is decided as Stripe does, afterwards and silently.

    Raises:
        StripeError: timestamp out of the window, malformed value, or an identifier seen in the last 24 hours.
    """
    ts = call.parameters.get("timestamp", call.now)
    identifier = call.parameters.get("identifier", str(uuid.uuid4()))
    _check_timestamp(ts, call.now)
    meter = find_active(call, call.parameters["event_name"])
    value_key = meter["value_settings"]["event_payload_key"] if meter else "value"
    raw = call.parameters["payload"].get(value_key)
    value = None if raw is None else _check_value(raw)
    if call.state.has_event(call.account, identifier, received_after=call.now - DEDUP_SECONDS):
        raise StripeError(400, f"An event already exists with identifier {identifier}.", is_saved=True)
    call.state.insert_event(_as_received(call, identifier, ts, meter, value))
    return {
        "object": "billing.meter_event",
        "created": call.now,
        "event_name": call.parameters["event_name"],
        "identifier": identifier,
        "livemode": False,
        "payload": call.parameters["payload"],
        "timestamp": ts,
    }


def _as_received(call: Call, identifier: str, ts: int, meter: Json | None, value: Decimal | None) -> MeterEvent:
    customer = call.parameters["payload"].get(meter["customer_mapping"]["event_payload_key"]) if meter else None
    state, reason = _verdict(call, meter, customer, value)
    return MeterEvent(
        account=call.account,
        identifier=identifier,
        event_name=call.parameters["event_name"],
        meter=meter["id"] if meter else None,
        customer=customer,
        ts=ts,
        value=None if value is None else plain(value),
        received_at=call.now,
        state=state,
        reason=reason,
    )


def _verdict(call: Call, meter: Json | None, customer: str | None, value: Decimal | None) -> tuple[str, str | None]:
    """What becomes of an accepted event, and why it is not counted."""
    if call.fault is not None and call.fault.kind == "drop_async":
        return "dropped", None
    reason = None
    if call.fault is not None and call.fault.kind == "async_reject":
        reason = call.fault.code
    elif meter is None:
        reason = "no_meter"
    elif customer is None:
        reason = "meter_event_no_customer_defined"
    elif not is_known(call, customer):
        reason = "meter_event_customer_not_found"
    elif value is None and meter["default_aggregation"]["formula"] != "count":
        reason = "meter_event_value_not_found"
    return ("visible" if reason is None else "rejected"), reason


def _check_timestamp(ts: int, now: int) -> None:
    if ts < now - MAX_AGE_SECONDS:
        raise StripeError(400, "Timestamp must be no more than 35 days in the past.", param="timestamp")
    if ts > now + MAX_AHEAD_SECONDS:
        raise StripeError(400, "Timestamp must be no more than 5 minutes in the future.", param="timestamp")


def _check_value(raw: str) -> Decimal:
    if len(raw) > MAX_LENGTH or _FIXED_POINT.fullmatch(raw) is None:
        raise StripeError(400, f"The value in the event payload must be a number. Received `{raw}`.", param="payload")
    # Zeros at either end are not significant.
    if len(raw.lstrip("-").replace(".", "").strip("0")) > MAX_DIGITS:
        raise StripeError(
            400,
            f"The value in the event payload can have at most {MAX_DIGITS} digits. Received `{raw}`.",
            param="payload",
        )
    return Decimal(raw)
