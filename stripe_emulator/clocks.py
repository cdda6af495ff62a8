"""Test clocks: customers who live in a time of their own.

Belongs here: which time a customer lives in, the limits of a clock, its end. Does not: routes (`clock_routes`), what
happens when it advances (`alarms`).
Rules T of `RULES.md`.
"""

from __future__ import annotations

from dataclasses import replace

from stripe_emulator import billing, events
from stripe_emulator.calls import Call, missing
from stripe_emulator.periods import boundary
from stripe_emulator.wire import Json, StripeError

KIND = "test_helpers.test_clock"
DELETION = "test_helpers.test_clock.deletion"
MAX_CUSTOMERS = 3
MAX_SUBSCRIPTIONS = 3
MAX_INTERVALS = 2
LIFETIME_SECONDS = 30 * 86_400
_TWO_YEARS = {"interval": "year", "interval_count": 2}


def find(call: Call, clock_id: str, param: str = "test_clock") -> Json:
    """A test clock.

    Raises:
        StripeError: Stripe's 404.
    """
    stored = call.state.find_object(call.account, KIND, clock_id)
    if stored is None:
        raise missing("test clock", clock_id, param)
    return stored.body


def in_time_of(call: Call, customer_id: str) -> Call:
    """The call in the time a customer lives in; of one on no clock (or of nobody) the call as it is."""
    stored = call.state.find_object(call.account, "customer", customer_id)
    clock_id = stored.body.get("test_clock") if stored is not None else None
    return call if clock_id is None else _on(call, find(call, clock_id))


def changing(call: Call, customer_id: str) -> Call:
    """The call in the time of a customer whose objects it is about to change.

    Raises:
        StripeError: 429 while the clock advances.
    """
    moved = in_time_of(call, customer_id)
    if moved.clock is not None:
        check_ready(find(call, moved.clock))
    return moved


def attaching(call: Call, clock_id: str) -> Call:
    """The call in the time of a clock that takes one customer more.

    Raises:
        StripeError: no such clock, one that advances, or one with all the customers it may have.
    """
    clock = find(call, clock_id)
    check_ready(clock)
    if len(customers_of(call, clock_id)) >= MAX_CUSTOMERS:
        raise StripeError(400, f"A test clock has at most {MAX_CUSTOMERS} customers.", param="test_clock")
    return _on(call, clock)


def check_ready(clock: Json) -> None:
    """Nothing, when what lives on a clock can be changed.

    Raises:
        StripeError: 429 while it advances.
    """
    if clock["status"] != "ready":
        message = f"Test clock advancement underway - cannot perform modifications to {clock['id']}"
        raise StripeError(429, message)


def check_subscriptions(call: Call, customer_id: str) -> None:
    """Nothing, when a customer can have one subscription more.

    Raises:
        StripeError: one on a test clock has all it may have.
    """
    if call.clock is not None and len(_living(call, customer_id)) >= MAX_SUBSCRIPTIONS:
        message = f"A customer on a test clock has at most {MAX_SUBSCRIPTIONS} subscriptions."
        raise StripeError(400, message, param="customer")


def customers_of(call: Call, clock_id: str) -> list[Json]:
    """The customers who live on a clock."""
    stored = call.state.list_objects(call.account, "customer")
    return [found.body for found in stored if found.body.get("test_clock") == clock_id]


def furthest(call: Call, clock: Json) -> int:
    """The last instant a clock may advance to: two intervals of its shortest subscription, two years without any."""
    start = clock["frozen_time"]
    limits = [
        boundary(start, item["price"]["recurring"], MAX_INTERVALS)
        for customer in customers_of(call, clock["id"])
        for subscription in _living(call, customer["id"])
        for item in billing.items(call, subscription["id"])
    ]
    return min(limits, default=boundary(start, _TWO_YEARS, 1))


def arrive(call: Call, clock_id: str) -> None:
    """A clock that advanced is ready at its new time."""
    clock = find(call, clock_id)
    target = clock["status_details"]["advancing"]["target_frozen_time"]
    ready = {**clock, "frozen_time": target, "status": "ready", "status_details": {}}
    call.state.replace_object(call.account, KIND, ready)
    events.tell(call, f"{KIND}.ready", ready)


def remove(call: Call, clock_id: str) -> None:
    """A clock, its subscriptions (canceled without an invoice) and its customers are gone."""
    clock = find(call, clock_id)
    for customer in customers_of(call, clock_id):
        delete_customer(_on(call, clock), customer["id"])
    call.state.forget_alarms(call.account, clock_id)
    for kind in (KIND, DELETION):
        call.set_alarm(kind, clock_id, None)
    call.state.remove_object(call.account, KIND, clock_id)
    events.tell(call, f"{KIND}.deleted", clock)


def delete_customer(call: Call, customer_id: str) -> Json:
    """A customer is gone, their subscriptions are canceled without an invoice."""
    for subscription in _living(call, customer_id):
        billing.end_subscription(call, subscription, is_invoiced=False)
    gone = {"id": customer_id, "object": "customer", "deleted": True}
    call.state.replace_object(call.account, "customer", gone)
    return gone


def _on(call: Call, clock: Json) -> Call:
    """While it advances, everything on a clock has already happened up to its new time."""
    advancing = clock["status_details"].get("advancing")
    now = clock["frozen_time"] if advancing is None else advancing["target_frozen_time"]
    return replace(call, now=now, clock=clock["id"])


def _living(call: Call, customer_id: str) -> list[Json]:
    stored = call.state.list_objects(call.account, billing.SUBSCRIPTION, name=customer_id)
    return [found.body for found in stored if found.body["status"] != "canceled"]
