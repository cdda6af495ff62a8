"""Events: what Stripe tells by itself, as snapshots (v1) and as thin events (v2).

Belongs here: making them, `/v1/events` and `/v2/core/events`. Does not: when something is worth telling, who is told
(`destinations`), sending (`deliveries`).
"""

from __future__ import annotations

from stripe_emulator import destinations
from stripe_emulator.calls import Call, check_implemented, find_or_404, missing, new_id, page
from stripe_emulator.contract import document_version
from stripe_emulator.wire import Json, StripeError, encode_json, instant

SNAPSHOT = "event"
THIN = "v2.core.event"
KEPT_SECONDS = 30 * 86_400


def tell(call: Call, kind: str, subject: Json, *, previous: Json | None = None) -> None:
    """Make a snapshot event about an object as it is now, and have it delivered; `previous`: what was otherwise."""
    event: Json = {
        "id": new_id("evt"),
        "object": "event",
        "api_version": document_version(),
        "created": call.world_now,
        "data": {"object": subject} if previous is None else {"object": subject, "previous_attributes": previous},
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": call.request_id, "idempotency_key": call.idempotency_key},
        "type": kind,
    }
    receivers = destinations.receivers_of(call, kind, is_thin=False)
    event["pending_webhooks"] = len(receivers)
    call.state.insert_object(call.account, SNAPSHOT, event, name=kind)
    destinations.enqueue(call, receivers, event["id"], kind, encode_json(event).decode())


def tell_thin(call: Call, kind: str, told: Json, related: Json | None) -> Json:
    """Make a thin event, and have its notification delivered: all of it but what it has to tell."""
    notification: Json = {
        "id": new_id("evt_test"),
        "object": THIN,
        "changes": None,
        "context": None,
        "created": instant(call.world_now),
        "livemode": False,
        "reason": None,
        "snapshot_event": None,
        "type": kind,
    }
    if related is not None:
        notification["related_object"] = related
    event = {**notification, "data": told}
    call.state.insert_object(call.account, THIN, {**event, "_created": call.world_now}, name=kind)
    receivers = destinations.receivers_of(call, kind, is_thin=True)
    destinations.enqueue(call, receivers, event["id"], kind, encode_json(notification).decode())
    return event


def retrieve(call: Call) -> Json:
    """`GET /v1/events/{id}`: for 30 days."""
    event = find_or_404(call, SNAPSHOT, "event", "id").body
    if event["created"] <= call.now - KEPT_SECONDS:
        raise missing("event", call.object_id, "id")
    return event


def list_all(call: Call) -> Json:
    """`GET /v1/events`: newest first, of the last 30 days, of one type or several."""
    check_implemented(call, {"limit", "starting_after", "ending_before", "type", "types"})
    if "type" in call.parameters and "types" in call.parameters:
        raise StripeError(400, "You may only specify one of these parameters: type, types.", param="types")
    wanted = [call.parameters["type"]] if "type" in call.parameters else call.parameters.get("types")
    stored = call.state.list_objects(call.account, SNAPSHOT)
    return page(
        call,
        [
            event.body
            for event in stored
            if event.body["created"] > call.now - KEPT_SECONDS
            and (wanted is None or any(destinations.matches(kind, event.body["type"]) for kind in wanted))
        ],
    )


def retrieve_thin(call: Call) -> Json:
    """`GET /v2/core/events/{id}`: with what it has to tell, for 30 days."""
    event = find_or_404(call, THIN, "event", "id").body
    if event["_created"] <= call.now - KEPT_SECONDS:
        raise missing("event", call.object_id, "id")
    return _public(event)


def list_thin(call: Call) -> Json:
    """`GET /v2/core/events`: newest first, of the last 30 days, one page."""
    stored = call.state.list_objects(call.account, THIN)
    kept = [_public(event.body) for event in stored if event.body["_created"] > call.now - KEPT_SECONDS]
    limit = int(call.parameters["limit"])
    return {"data": kept[:limit], "next_page_url": None, "previous_page_url": None}


def _public(event: Json) -> Json:
    return {name: value for name, value in event.items() if not name.startswith("_")}
