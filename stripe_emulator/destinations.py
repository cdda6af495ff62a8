"""Destinations: who is told of which events, and where.

Belongs here: `/v1/webhook_endpoints` (snapshots), `/v2/core/event_destinations` (snapshots or thin events), what is to
be sent. Does not: sending (`deliveries`).
Rules H of `RULES.md`.

Only loopback addresses: an emulator sends nothing to a network.
"""

from __future__ import annotations

import ipaddress
import secrets
import string
from urllib.parse import urlsplit

from stripe_emulator.calls import Call, check_implemented, find_or_404, merged_metadata, new_id, page
from stripe_emulator.wire import Json, StripeError, instant

ENDPOINT = "webhook_endpoint"
DESTINATION = "v2.core.event_destination"
_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 32


def create(call: Call) -> Json:
    """`POST /v1/webhook_endpoints`: the answer is the only one with the secret."""
    check_implemented(call, {"description", "enabled_events", "metadata", "url"})
    endpoint: Json = {
        "id": new_id("we"),
        "object": ENDPOINT,
        "api_version": None,
        "application": None,
        "created": call.now,
        "description": call.parameters.get("description") or None,
        "enabled_events": call.parameters["enabled_events"],
        "livemode": False,
        "metadata": merged_metadata({}, call.parameters.get("metadata")),
        "status": "enabled",
        "url": _checked_url(call.parameters["url"]),
    }
    secret = _new_secret()
    call.state.insert_object(call.account, ENDPOINT, {**endpoint, "_secret": secret})
    return {**endpoint, "secret": secret}


def retrieve(call: Call) -> Json:
    """`GET /v1/webhook_endpoints/{webhook_endpoint}`."""
    return _public(find_or_404(call, ENDPOINT, "webhook endpoint", "webhook_endpoint").body)


def update(call: Call) -> Json:
    """`POST /v1/webhook_endpoints/{webhook_endpoint}`."""
    check_implemented(call, {"description", "disabled", "enabled_events", "metadata", "url"})
    endpoint = dict(find_or_404(call, ENDPOINT, "webhook endpoint", "webhook_endpoint").body)
    if "description" in call.parameters:
        endpoint["description"] = call.parameters["description"] or None
    if "disabled" in call.parameters:
        endpoint["status"] = "disabled" if call.parameters["disabled"] else "enabled"
    if "enabled_events" in call.parameters:
        endpoint["enabled_events"] = call.parameters["enabled_events"]
    if "url" in call.parameters:
        endpoint["url"] = _checked_url(call.parameters["url"])
    endpoint["metadata"] = merged_metadata(endpoint["metadata"], call.parameters.get("metadata"))
    call.state.replace_object(call.account, ENDPOINT, endpoint)
    return _public(endpoint)


def delete(call: Call) -> Json:
    """`DELETE /v1/webhook_endpoints/{webhook_endpoint}`: nothing more is sent there."""
    found = find_or_404(call, ENDPOINT, "webhook endpoint", "webhook_endpoint").body
    call.state.remove_object(call.account, ENDPOINT, found["id"])
    return {"id": found["id"], "object": ENDPOINT, "deleted": True}


def list_all(call: Call) -> Json:
    """`GET /v1/webhook_endpoints`: newest first."""
    return page(call, [_public(stored.body) for stored in call.state.list_objects(call.account, ENDPOINT)])


def create_v2(call: Call) -> Json:
    """`POST /v2/core/event_destinations`: secret and URL are told only when `include` asks for them."""
    given = call.parameters
    url = _checked_url(given["webhook_endpoint"]["url"])
    destination: Json = {
        "id": new_id("ed_test"),
        "object": DESTINATION,
        "created": instant(call.now),
        "description": given["description"],
        "enabled_events": given["enabled_events"],
        "event_payload": given["event_payload"],
        "events_from": ["@self"],
        "livemode": False,
        "metadata": given["metadata"],
        "name": given["name"],
        "snapshot_api_version": None,
        "status": "enabled",
        "status_details": None,
        "type": "webhook_endpoint",
        "updated": instant(call.now),
        "webhook_endpoint": None,
    }
    secret = _new_secret()
    call.state.insert_object(call.account, DESTINATION, {**destination, "_secret": secret, "_url": url})
    if not given["include"]:
        return destination
    told = {"signing_secret": secret, "url": url}
    asked = {name for name in told if f"webhook_endpoint.{name}" in given["include"]}
    return {**destination, "webhook_endpoint": {name: told[name] if name in asked else None for name in told}}


def retrieve_v2(call: Call) -> Json:
    """`GET /v2/core/event_destinations/{id}`."""
    return _public(find_or_404(call, DESTINATION, "event destination", "id").body)


def list_v2(call: Call) -> Json:
    """`GET /v2/core/event_destinations`: newest first, one page."""
    stored = call.state.list_objects(call.account, DESTINATION)
    limit = int(call.parameters["limit"])
    return {
        "data": [_public(found.body) for found in stored[:limit]],
        "next_page_url": None,
        "previous_page_url": None,
    }


def delete_v2(call: Call) -> Json:
    """`DELETE /v2/core/event_destinations/{id}`: nothing more is sent there."""
    found = find_or_404(call, DESTINATION, "event destination", "id").body
    call.state.remove_object(call.account, DESTINATION, found["id"])
    return {"id": found["id"], "object": DESTINATION}


def matches(pattern: str, kind: str) -> bool:
    """Whether an enabled event (`*`, `invoice.*`, `invoice.created`) is of a type."""
    return pattern in ("*", kind) or (pattern.endswith(".*") and kind.startswith(pattern[:-1]))


def receivers_of(call: Call, kind: str, *, is_thin: bool) -> list[Json]:
    """The destinations that want events of a type, with `_secret` and `_url`."""
    endpoints = [] if is_thin else [found.body for found in call.state.list_objects(call.account, ENDPOINT)]
    wanted_payload = "thin" if is_thin else "snapshot"
    others = [
        found.body
        for found in call.state.list_objects(call.account, DESTINATION)
        if found.body["event_payload"] == wanted_payload
    ]
    return [
        receiver
        for receiver in [{"_url": endpoint["url"], **endpoint} for endpoint in endpoints] + others
        if receiver["status"] == "enabled" and any(matches(pattern, kind) for pattern in receiver["enabled_events"])
    ]


def enqueue(call: Call, receivers: list[Json], event_id: str, kind: str, payload: str) -> None:
    """Have an event sent to each receiver."""
    for receiver in receivers:
        call.state.deliveries.insert(
            account=call.account,
            destination=receiver["id"],
            event=event_id,
            kind=kind,
            url=receiver["_url"],
            secret=receiver["_secret"],
            payload=payload,
            due_at=call.world_now,
        )


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "http" or not _is_loopback(host):
        raise StripeError(400, f"The emulator delivers only to http on a loopback address: {url}", param="url")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _new_secret() -> str:
    return "whsec_" + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))


def _public(stored: Json) -> Json:
    return {name: value for name, value in stored.items() if not name.startswith("_")}
