"""Billing meters: what a stream of meter events is called and how it is added up.

Belongs here: the `/v1/billing/meters` handlers except summaries. Does not: events (`meter_events`), adding up
(`summaries`).
"""

from __future__ import annotations

from stripe_emulator.calls import Call, find_or_404, new_id, page
from stripe_emulator.wire import Json, StripeError

KIND = "billing.meter"


def create(call: Call) -> Json:
    """`POST /v1/billing/meters`.

    Raises:
        StripeError: an active meter has this event name.
    """
    name = call.parameters["event_name"]
    if find_active(call, name) is not None:
        raise StripeError(
            400,
            f"An active meter with event_name `{name}` already exists.",
            code="resource_already_exists",
            param="event_name",
        )
    meter: Json = {
        "id": f"mtr_test_{new_id('x')[2:]}",
        "object": "billing.meter",
        "created": call.now,
        "customer_mapping": call.parameters.get(
            "customer_mapping", {"event_payload_key": "stripe_customer_id", "type": "by_id"}
        ),
        "default_aggregation": call.parameters["default_aggregation"],
        "display_name": call.parameters["display_name"],
        "event_name": name,
        "event_time_window": call.parameters.get("event_time_window"),
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": call.now,
        "value_settings": call.parameters.get("value_settings", {"event_payload_key": "value"}),
    }
    call.state.insert_object(call.account, KIND, meter, name=name)
    return meter


def retrieve(call: Call) -> Json:
    """`GET /v1/billing/meters/{id}`."""
    return find_or_404(call, KIND, "billing meter", "id").body


def list_all(call: Call) -> Json:
    """`GET /v1/billing/meters`: newest first, of one status when asked."""
    status = call.parameters.get("status")
    meters = [stored.body for stored in call.state.list_objects(call.account, KIND)]
    return page(call, [meter for meter in meters if status in (None, meter["status"])])


def update(call: Call) -> Json:
    """`POST /v1/billing/meters/{id}`: the display name, nothing else."""
    return _replace(call, display_name=call.parameters.get("display_name", retrieve(call)["display_name"]))


def deactivate(call: Call) -> Json:
    """`POST /v1/billing/meters/{id}/deactivate`: its events are no longer accepted."""
    if retrieve(call)["status"] == "inactive":
        raise StripeError(400, "This meter is already inactive.")
    return _replace(call, status="inactive", status_transitions={"deactivated_at": call.now})


def reactivate(call: Call) -> Json:
    """`POST /v1/billing/meters/{id}/reactivate`."""
    meter = retrieve(call)
    if meter["status"] == "active":
        raise StripeError(400, "This meter is already active.")
    if find_active(call, meter["event_name"]) is not None:
        raise StripeError(400, f"An active meter with event_name `{meter['event_name']}` already exists.")
    return _replace(call, status="active", status_transitions={"deactivated_at": None})


def find_active(call: Call, event_name: str) -> Json | None:
    """The active meter of an event name."""
    named = call.state.list_objects(call.account, KIND, name=event_name)
    return next((stored.body for stored in named if stored.body["status"] == "active"), None)


def find_named(call: Call, event_name: str) -> Json | None:
    """The active meter of an event name, else the last that had it."""
    active = find_active(call, event_name)
    named = call.state.list_objects(call.account, KIND, name=event_name)
    return active if active is not None or not named else named[0].body


def _replace(call: Call, **changes: object) -> Json:
    meter = {**retrieve(call), **changes, "updated": call.now}
    call.state.replace_object(call.account, KIND, meter)
    return meter
