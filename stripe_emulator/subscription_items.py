"""Subscription items: one price each; what changing the price does to the usage before it.

Belongs here: the `/v1/subscription_items` handlers and item changes through a subscription. Does not: periods'
ends (`billing`).
Rules P7, P8, P10, P11 of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import billing, clocks, prices
from stripe_emulator.calls import Call, check_implemented, merged_metadata, missing, new_id, page
from stripe_emulator.wire import Json, StripeError

KIND = billing.ITEM
_CHANGED = {"metadata", "price", "proration_behavior", "proration_date", "quantity"}


def create(call: Call) -> Json:
    """`POST /v1/subscription_items`: bills usage from now on (P10)."""
    check_implemented(call, _CHANGED | {"subscription"})
    subscription = billing.subscription(call, call.parameters["subscription"])
    billing.check_alive(subscription)
    call = clocks.changing(call, subscription["customer"])
    return shown(_add(call, subscription, call.parameters, ""))


def retrieve(call: Call) -> Json:
    """`GET /v1/subscription_items/{item}`."""
    check_implemented(call, set())
    return shown(_find(call, call.object_id))


def update(call: Call) -> Json:
    """`POST /v1/subscription_items/{item}`."""
    check_implemented(call, _CHANGED)
    item = _find(call, call.object_id)
    subscription = billing.subscription(call, item["subscription"])
    billing.check_alive(subscription)
    call = clocks.changing(call, subscription["customer"])
    change(call, subscription, {**call.parameters, "id": item["id"]}, call.parameters)
    return shown(_find(call, call.object_id))


def delete(call: Call) -> Json:
    """`DELETE /v1/subscription_items/{item}`."""
    check_implemented(call, {"clear_usage", "proration_behavior"})
    item = _find(call, call.object_id)
    subscription = billing.subscription(call, item["subscription"])
    billing.check_alive(subscription)
    call = clocks.changing(call, subscription["customer"])
    change(call, subscription, {"id": item["id"], "deleted": True, **call.parameters}, call.parameters)
    return {"id": item["id"], "object": "subscription_item", "deleted": True}


def list_all(call: Call) -> Json:
    """`GET /v1/subscription_items`: of one subscription."""
    check_implemented(call, {"limit", "starting_after", "ending_before", "subscription"})
    subscription = billing.subscription(call, call.parameters["subscription"])
    return page(call, [shown(item) for item in billing.items(call, subscription["id"])])


def change(call: Call, subscription: Json, given: Json, request: Json) -> None:
    """Add an item, or change or remove the one named by `id`.

    In flexible mode the usage before a price change or a removal becomes an invoice item at the old price, unless
    `proration_behavior` is none; in classic mode, and with none, nobody bills it.
    """
    if "proration_date" in request:
        raise StripeError(400, "The emulator does not implement parameter: proration_date", param="proration_date")
    for name in sorted(given.keys() - _CHANGED - {"clear_usage", "deleted", "id", "subscription"} - {"expand"}):
        raise StripeError(400, f"The emulator does not implement parameter: items[{name}]", param="items")
    if "id" not in given:
        _add(call, subscription, given, "items")
        return
    item = _find(call, given["id"])
    if item["subscription"] != subscription["id"]:
        raise missing("subscription_item", given["id"], "items")
    is_kept = (
        subscription["billing_mode"]["type"] == "flexible"
        and request.get("proration_behavior", "create_prorations") != "none"
        and not given.get("clear_usage", False)
    )
    if given.get("deleted"):
        if len(billing.items(call, subscription["id"])) == 1:
            raise StripeError(400, "A subscription must have at least one active item.", param="item")
        billing.close_item(call, item, is_kept=is_kept)
        call.state.remove_object(call.account, KIND, item["id"])
        return
    if "price" in given and given["price"] != item["price"]["id"]:
        price = price_of(call, given, "items")
        others = [other["price"] for other in billing.items(call, subscription["id"]) if other["id"] != item["id"]]
        check_together([price, *others])
        _check_interval(price, item["price"])
        billing.close_item(call, item, is_kept=is_kept)
        item = {**item, "price": price, "_billed_from": call.now}
        item = _with_quantity(item, given, price)
    elif "quantity" in given:
        item = _with_quantity(item, given, item["price"])
    item["metadata"] = merged_metadata(item["metadata"], given.get("metadata"))
    call.state.replace_object(call.account, KIND, item)


def insert(call: Call, subscription: Json, given: Json, price: Json) -> Json:
    """A new item, without a period yet."""
    item: Json = {
        "id": new_id("si"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": call.now,
        "current_period_end": call.now,
        "current_period_start": call.now,
        "discounts": [],
        "metadata": merged_metadata({}, given.get("metadata")),
        "price": price,
        "subscription": subscription["id"],
        "tax_rates": [],
        "_billed_from": call.now,
    }
    item = _with_quantity(item, given, price)
    call.state.insert_object(call.account, KIND, item, name=subscription["id"])
    return item


def shown(item: Json) -> Json:
    """An item as it is answered: its price without tiers."""
    price = {name: value for name, value in item["price"].items() if name != "tiers"}
    return {**{name: value for name, value in item.items() if not name.startswith("_")}, "price": price}


def price_of(call: Call, given: Json, param: str) -> Json:
    """The recurring price an item names.

    Raises:
        StripeError: none named, none there, or not recurring.
    """
    param = f"{param}[price]" if param else "price"
    if "price" not in given:
        raise StripeError(400, f"Missing required param: {param}.", code="parameter_missing", param=param)
    price = prices.find(call, given["price"], param)
    if price["recurring"] is None:
        raise StripeError(400, "The price specified is set to `type=one_time`; subscriptions need recurring ones.")
    return price


def check_together(found: list[Json]) -> None:
    """Nothing, when prices can share a subscription; Stripe's mixed intervals are not implemented."""
    for price in found[1:]:
        _check_interval(price, found[0])
        if price["currency"] != found[0]["currency"]:
            raise StripeError(400, "All prices on a subscription must have the same currency.", param="items")


def _check_interval(price: Json, other: Json) -> None:
    names = ("interval", "interval_count")
    if any(price["recurring"][name] != other["recurring"][name] for name in names):
        raise StripeError(400, "The emulator does not implement prices of different intervals.", param="items")


def _add(call: Call, subscription: Json, given: Json, param: str) -> Json:
    price = price_of(call, given, param)
    others = billing.items(call, subscription["id"])
    check_together([price, *(other["price"] for other in others)])
    item = insert(call, subscription, given, price)
    for name in ("current_period_start", "current_period_end"):
        item[name] = others[0][name]
    call.state.replace_object(call.account, KIND, item)
    return item


def _with_quantity(item: Json, given: Json, price: Json) -> Json:
    if price["recurring"]["usage_type"] == "metered":
        if "quantity" in given:
            message = "You cannot set the quantity of an item with a metered price: usage is."
            raise StripeError(400, message, param="quantity")
        return {name: value for name, value in item.items() if name != "quantity"}
    return {**item, "quantity": given.get("quantity", item.get("quantity", 1))}


def _find(call: Call, item_id: str) -> Json:
    stored = call.state.find_object(call.account, KIND, item_id)
    if stored is None:
        raise missing("subscription_item", item_id, "item")
    return stored.body
