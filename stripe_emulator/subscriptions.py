"""Subscriptions: who pays for which prices, and from which anchor the periods run.

Belongs here: the `/v1/subscriptions` handlers. Does not: items and price changes (`subscription_items`), what happens
at the end of a period (`billing`), invoices.
Rules P2, P7, P11, P13, P14 and B1-B3 of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import billing, clocks, subscription_items
from stripe_emulator.calls import Call, check_implemented, merged_metadata, missing, new_id, page
from stripe_emulator.customers import is_known
from stripe_emulator.periods import next_anchor, period_around
from stripe_emulator.wire import Json, StripeError

KIND = billing.SUBSCRIPTION
_CREATED = {
    "billing_cycle_anchor",
    "billing_cycle_anchor_config",
    "billing_mode",
    "cancel_at_period_end",
    "collection_method",
    "currency",
    "customer",
    "days_until_due",
    "description",
    "items",
    "metadata",
    "proration_behavior",
}
_UPDATED = {
    "billing_cycle_anchor",
    "cancel_at_period_end",
    "description",
    "items",
    "metadata",
    "proration_behavior",
    "proration_date",
}


def create(call: Call) -> Json:
    """`POST /v1/subscriptions`: active at once, its first period open.

    Raises:
        StripeError: unknown customer, no items, prices of different intervals or currencies, an anchor out of reach.
    """
    check_implemented(call, _CREATED)
    given = call.parameters
    if not is_known(call, given.get("customer", "")):
        raise missing("customer", given.get("customer", ""), "customer")
    call = clocks.changing(call, given["customer"])
    clocks.check_subscriptions(call, given["customer"])
    if not given.get("items"):
        raise StripeError(400, "Missing required param: items.", code="parameter_missing", param="items")
    prices = [subscription_items.price_of(call, item, f"items[{at}]") for at, item in enumerate(given["items"])]
    subscription_items.check_together(prices)
    config = given.get("billing_cycle_anchor_config")
    anchor = given.get("billing_cycle_anchor", call.now if config is None else next_anchor(config, call.now))
    recurring = prices[0]["recurring"]
    limit = period_around(call.now, recurring, call.now)[1]
    if config is None and not call.now <= anchor <= limit:
        message = "billing_cycle_anchor must be between now and the next natural billing date."
        raise StripeError(400, message, param="billing_cycle_anchor")
    mode = given.get("billing_mode", {}).get("type", "flexible")
    subscription: Json = {
        "id": new_id("sub"),
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": anchor,
        "billing_cycle_anchor_config": None
        if config is None
        else {name: config.get(name) for name in ("day_of_month", "hour", "minute", "month", "second")},
        "billing_mode": {"type": mode, "flexible": None} if mode == "classic" else {"type": mode},
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": given.get("cancel_at_period_end", False),
        "canceled_at": None,
        "collection_method": given.get("collection_method", "charge_automatically"),
        "created": call.now,
        "currency": prices[0]["currency"],
        "customer": given["customer"],
        "days_until_due": given.get("days_until_due"),
        "description": given.get("description"),
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"issuer": {"type": "self"}},
        "latest_invoice": None,
        "livemode": False,
        "metadata": merged_metadata({}, given.get("metadata")),
        "schedule": None,
        "start_date": call.now,
        "status": "active",
        "test_clock": call.clock,
        "trial_end": None,
        "trial_start": None,
    }
    call.state.insert_object(call.account, KIND, subscription, name=given["customer"])
    for item, price in zip(given["items"], prices, strict=True):
        subscription_items.insert(call, subscription, item, price)
    billing.open_first_period(call, subscription)
    return shown(call, subscription["id"])


def retrieve(call: Call) -> Json:
    """`GET /v1/subscriptions/{subscription_exposed_id}`."""
    check_implemented(call, set())
    return shown(call, call.object_id)


def update(call: Call) -> Json:
    """`POST /v1/subscriptions/{subscription_exposed_id}`: items, the anchor (now), the end."""
    check_implemented(call, _UPDATED)
    given = call.parameters
    subscription = billing.subscription(call, call.object_id)
    billing.check_alive(subscription)
    call = clocks.changing(call, subscription["customer"])
    for item in given.get("items", ()):
        subscription_items.change(call, subscription, item, given)
    anchor = given.get("billing_cycle_anchor", "unchanged")
    if anchor == "now":
        billing.restart_period(call, subscription)
        subscription = billing.subscription(call, call.object_id)
    elif anchor != "unchanged":
        raise StripeError(
            400, "billing_cycle_anchor must be either unset, 'now', or 'unchanged'.", param="billing_cycle_anchor"
        )
    for name in given.keys() & {"cancel_at_period_end", "description"}:
        subscription[name] = given[name]
    if "cancel_at_period_end" in given:
        subscription["canceled_at"] = call.now if given["cancel_at_period_end"] else None
    subscription["metadata"] = merged_metadata(subscription["metadata"], given.get("metadata"))
    call.state.replace_object(call.account, KIND, subscription)
    return shown(call, call.object_id)


def cancel(call: Call) -> Json:
    """`DELETE /v1/subscriptions/{subscription_exposed_id}`: at once; its usage is billed with `invoice_now` only."""
    check_implemented(call, {"invoice_now", "prorate"})
    subscription = billing.subscription(call, call.object_id)
    billing.check_alive(subscription)
    call = clocks.changing(call, subscription["customer"])
    billing.end_subscription(call, subscription, is_invoiced=call.parameters.get("invoice_now", False))
    return shown(call, call.object_id)


def list_all(call: Call) -> Json:
    """`GET /v1/subscriptions`: newest first; canceled ones only with `status` canceled or all.

    Those on test clocks only when the clock or the customer is named.
    """
    check_implemented(call, {"customer", "limit", "price", "starting_after", "ending_before", "status", "test_clock"})
    status, price = call.parameters.get("status"), call.parameters.get("price")
    customer, clock = call.parameters.get("customer"), call.parameters.get("test_clock")
    found = [
        shown(call, stored.body["id"])
        for stored in call.state.list_objects(call.account, KIND, name=customer)
        if (clock is None and customer is not None) or stored.body["test_clock"] == clock
    ]
    return page(
        call,
        [
            subscription
            for subscription in found
            if (status == "all" or _is_asked_for(subscription["status"], status))
            and (price is None or any(item["price"]["id"] == price for item in subscription["items"]["data"]))
        ],
    )


def shown(call: Call, subscription_id: str) -> Json:
    """A subscription with its items."""
    subscription = billing.subscription(call, subscription_id)
    items = [subscription_items.shown(item) for item in billing.items(call, subscription_id)]
    url = f"/v1/subscription_items?subscription={subscription_id}"
    return {**subscription, "items": {"object": "list", "data": items, "has_more": False, "url": url}}


def _is_asked_for(status: str, asked: str | None) -> bool:
    return status != "canceled" if asked is None else status == asked
