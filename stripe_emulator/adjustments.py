"""Meter event adjustments: taking one event back within a day of its receipt.

Belongs here: the v1 and v2 handlers. Does not: what no longer counts (`received_events`).
Rules J of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator.calls import Call, new_id
from stripe_emulator.metering_knobs import metering_knobs
from stripe_emulator.received_events import DAY_SECONDS
from stripe_emulator.wire import Json, StripeError, instant


def create(call: Call) -> Json:
    """`POST /v1/billing/meter_event_adjustments`.

    Raises:
        StripeError: no identifier, no such event, too late, or cancelled before.
    """
    identifier = call.parameters.get("cancel", {}).get("identifier")
    if identifier is None:
        raise StripeError(
            400, "Missing required param: cancel[identifier].", code="parameter_missing", param="cancel[identifier]"
        )
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": {"identifier": identifier},
        "event_name": call.parameters["event_name"],
        "livemode": False,
        "status": _cancel(call, identifier),
        "type": "cancel",
    }


def create_v2(call: Call) -> Json:
    """`POST /v2/billing/meter_event_adjustments`.

    Raises:
        StripeError: no such event, too late, or cancelled before.
    """
    return {
        "id": new_id("mtradj"),
        "object": "v2.billing.meter_event_adjustment",
        "cancel": call.parameters["cancel"],
        "created": instant(call.now),
        "event_name": call.parameters["event_name"],
        "livemode": False,
        "status": _cancel(call, call.parameters["cancel"]["identifier"]),
        "type": "cancel",
    }


def _cancel(call: Call, identifier: str) -> str:
    """The status of the cancel: pending until the summaries have settled."""
    found = call.state.events.find_latest(call.account, identifier, call.parameters["event_name"])
    if found is None:
        raise StripeError(
            400, f"No meter event found with identifier {identifier}.", code="resource_missing", is_saved=True
        )
    seq, received_at, is_cancelled = found
    if is_cancelled:
        raise StripeError(400, f"The meter event with identifier {identifier} is already cancelled.", is_saved=True)
    if received_at <= call.now - DAY_SECONDS:
        raise StripeError(400, "You can only cancel events within 24 hours of Stripe receiving them.", is_saved=True)
    lag = metering_knobs(call.state).ingest_lag_seconds
    call.state.events.cancel(call.account, seq, call.now + lag)
    return "pending" if lag else "complete"
