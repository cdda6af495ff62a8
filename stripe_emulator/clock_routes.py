"""Test clocks over HTTP.

Belongs here: the `/v1/test_helpers/test_clocks` handlers. Does not: whose time it is (`clocks`).
Rules T of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import alarms, billing, clocks, events, knobs
from stripe_emulator.calls import Call, check_implemented, missing, new_id, page
from stripe_emulator.wire import Json, StripeError


def create(call: Call) -> Json:
    """`POST /v1/test_helpers/test_clocks`: ready at once; `customer` moves an existing customer onto it, for good.

    Raises:
        StripeError: an unknown customer, or one who has a clock or subscriptions already.
    """
    check_implemented(call, {"customer", "frozen_time", "name"})
    clock: Json = {
        "id": new_id("clock"),
        "object": clocks.KIND,
        "created": call.now,
        "deletes_after": call.now + clocks.LIFETIME_SECONDS,
        "frozen_time": call.parameters["frozen_time"],
        "livemode": False,
        "name": call.parameters.get("name"),
        "status": "ready",
        "status_details": {},
    }
    call.state.insert_object(call.account, clocks.KIND, clock)
    if "customer" in call.parameters:
        _attach(call, clock, call.parameters["customer"])
    call.set_alarm(clocks.DELETION, clock["id"], clock["deletes_after"])
    events.tell(call, f"{clocks.KIND}.created", clock)
    return clock


def retrieve(call: Call) -> Json:
    """`GET /v1/test_helpers/test_clocks/{test_clock}`."""
    check_implemented(call, set())
    return clocks.find(call, call.object_id)


def list_all(call: Call) -> Json:
    """`GET /v1/test_helpers/test_clocks`: newest first."""
    check_implemented(call, {"limit", "starting_after", "ending_before"})
    return page(call, [stored.body for stored in call.state.list_objects(call.account, clocks.KIND)])


def advance(call: Call) -> Json:
    """`POST /v1/test_helpers/test_clocks/{test_clock}/advance`: answers while it advances.

    Everything on the clock happens, in order and at its instant, and is told; only then is the clock ready.

    Raises:
        StripeError: it advances already, not forward, or further than it may.
    """
    check_implemented(call, {"frozen_time"})
    clock, target = clocks.find(call, call.object_id), call.parameters["frozen_time"]
    clocks.check_ready(clock)
    if target <= clock["frozen_time"]:
        message = f"frozen_time must be after the test clock's current frozen time, {clock['frozen_time']}."
        raise StripeError(400, message, param="frozen_time")
    if target > (limit := clocks.furthest(call, clock)):
        message = f"frozen_time cannot be more than two intervals (two years) ahead: at most {limit}."
        raise StripeError(400, message, param="frozen_time")
    advancing = {**clock, "status": "advancing", "status_details": {"advancing": {"target_frozen_time": target}}}
    call.state.replace_object(call.account, clocks.KIND, advancing)
    events.tell(call, f"{clocks.KIND}.advancing", advancing)
    alarms.catch_up(call.state, call.account, target, clock=clock["id"])
    call.set_alarm(clocks.KIND, clock["id"], call.now + knobs.advancing_seconds(call.state))
    return advancing


def delete(call: Call) -> Json:
    """`DELETE /v1/test_helpers/test_clocks/{test_clock}`: with everybody who lives on it."""
    clock = clocks.find(call, call.object_id)
    clocks.remove(call, clock["id"])
    return {"id": clock["id"], "object": clocks.KIND, "deleted": True}


def _attach(call: Call, clock: Json, customer_id: str) -> None:
    stored = call.state.find_object(call.account, "customer", customer_id)
    if stored is None or stored.body.get("deleted"):
        raise missing("customer", customer_id, "customer")
    if stored.body["test_clock"] is not None:
        raise StripeError(400, f"Customer {customer_id} is on a test clock already.", param="customer")
    if call.state.list_objects(call.account, billing.SUBSCRIPTION, name=customer_id):
        message = "The emulator moves only customers who never had a subscription."
        raise StripeError(400, message, param="customer")
    call.state.replace_object(call.account, "customer", {**stored.body, "test_clock": clock["id"]})
