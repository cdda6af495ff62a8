"""Prices: what one unit costs, or what each tier costs.

Belongs here: the `/v1/prices` handlers. Does not: what a quantity costs (`pricing`).
Rules R1-R5 of `RULES.md`.
"""

from __future__ import annotations

import re
from decimal import Decimal

from stripe_emulator.calls import Call, check_implemented, find_or_404, merged_metadata, missing, new_id, page
from stripe_emulator.meters import KIND as METER
from stripe_emulator.products import KIND as PRODUCT
from stripe_emulator.wire import Json, StripeError, plain

KIND = "price"
_CREATED = {
    "active",
    "billing_scheme",
    "currency",
    "lookup_key",
    "metadata",
    "nickname",
    "product",
    "recurring",
    "tax_behavior",
    "tiers",
    "tiers_mode",
    "transfer_lookup_key",
    "transform_quantity",
    "unit_amount",
    "unit_amount_decimal",
}
_MUTABLE = {"active", "lookup_key", "metadata", "nickname", "tax_behavior", "transfer_lookup_key"}
_DECIMAL = re.compile(r"[0-9]+(\.[0-9]{1,12})?")


def create(call: Call) -> Json:
    """`POST /v1/prices`.

    Raises:
        StripeError: amounts, tiers or a meter that do not fit together.
    """
    check_implemented(call, _CREATED, {"tiers"})
    given = call.parameters
    if "product" not in given:
        raise StripeError(400, "Missing required param: product.", code="parameter_missing", param="product")
    product = call.state.find_object(call.account, PRODUCT, given["product"])
    if product is None or product.body.get("deleted"):
        raise missing("product", given["product"], "product")
    scheme = given.get("billing_scheme", "per_unit")
    price: Json = {
        "id": new_id("price"),
        "object": "price",
        "active": given.get("active", True),
        "billing_scheme": scheme,
        "created": call.now,
        "currency": given["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": merged_metadata({}, given.get("metadata")),
        "nickname": given.get("nickname"),
        "product": given["product"],
        "recurring": _recurring(call),
        "tax_behavior": given.get("tax_behavior", "unspecified"),
        "tiers_mode": given.get("tiers_mode"),
        "transform_quantity": given.get("transform_quantity"),
        "type": "recurring" if "recurring" in given else "one_time",
        **_amounts(given, "unit_amount"),
    }
    price["tiers"] = _tiers(call, scheme)
    _claim_lookup_key(call, price)
    call.state.insert_object(call.account, KIND, price, name=price["product"])
    return shown(call, price)


def retrieve(call: Call) -> Json:
    """`GET /v1/prices/{price}`: tiers only when expanded."""
    check_implemented(call, set(), {"tiers"})
    return shown(call, find_or_404(call, KIND, "price", "price").body)


def update(call: Call) -> Json:
    """`POST /v1/prices/{price}`: never the amounts."""
    check_implemented(call, _MUTABLE, {"tiers"})
    price = dict(find_or_404(call, KIND, "price", "price").body)
    for name in call.parameters.keys() & {"active", "nickname", "tax_behavior"}:
        price[name] = call.parameters[name]
    price["metadata"] = merged_metadata(price["metadata"], call.parameters.get("metadata"))
    _claim_lookup_key(call, price)
    call.state.replace_object(call.account, KIND, price)
    return shown(call, price)


def list_all(call: Call) -> Json:
    """`GET /v1/prices`: newest first, by product, lookup keys, activity, currency, type."""
    check_implemented(
        call,
        {"active", "currency", "limit", "lookup_keys", "product", "starting_after", "ending_before", "type"},
        {"data.tiers"},
    )
    keys = call.parameters.get("lookup_keys")
    stored = call.state.list_objects(call.account, KIND, name=call.parameters.get("product"))
    return page(
        call,
        [
            shown(call, found.body)
            for found in stored
            if (keys is None or found.body["lookup_key"] in keys)
            and all(call.parameters.get(name) in (None, found.body[name]) for name in ("active", "currency", "type"))
        ],
    )


def shown(call: Call, price: Json) -> Json:
    """A price as it is answered: with its tiers only when the request expands them."""
    expanded = set(call.parameters.get("expand", ())) & {"tiers", "data.tiers"}
    return price if expanded and price["tiers"] is not None else {k: v for k, v in price.items() if k != "tiers"}


def find(call: Call, price_id: str, param: str) -> Json:
    """An active price with its tiers.

    Raises:
        StripeError: there is none, or it is inactive.
    """
    stored = call.state.find_object(call.account, KIND, price_id)
    if stored is None:
        raise missing("price", price_id, param)
    if not stored.body["active"]:
        raise StripeError(400, "The price specified is inactive. This field only accepts active prices.", param=param)
    return stored.body


def _recurring(call: Call) -> Json | None:
    given = call.parameters.get("recurring")
    if given is None:
        return None
    usage_type, meter = given.get("usage_type", "licensed"), given.get("meter")
    if usage_type == "metered" and meter is None:
        raise StripeError(
            400,
            "Starting with Stripe version `2025-03-31.basil`, metered prices must be backed by meters.",
            param="recurring[meter]",
        )
    if usage_type == "licensed" and meter is not None:
        raise StripeError(400, "A licensed price cannot have a meter.", param="recurring[meter]")
    if meter is not None:
        stored = call.state.find_object(call.account, METER, meter)
        if stored is None:
            raise missing("meter", meter, "recurring[meter]")
        if stored.body["status"] != "active":
            raise StripeError(400, "The meter of a new price must be active.", param="recurring[meter]")
    return {
        "interval": given["interval"],
        "interval_count": given.get("interval_count", 1),
        "meter": meter,
        "usage_type": usage_type,
    }


def _tiers(call: Call, scheme: str) -> list[Json] | None:
    given = call.parameters
    if scheme == "per_unit":
        for name in given.keys() & {"tiers", "tiers_mode"}:
            raise StripeError(400, f"You may only specify {name} with billing_scheme `tiered`.", param=name)
        if "unit_amount" not in given and "unit_amount_decimal" not in given:
            raise StripeError(
                400, "Missing required param: unit_amount.", code="parameter_missing", param="unit_amount"
            )
        return None
    for name in sorted(given.keys() & {"unit_amount", "unit_amount_decimal", "transform_quantity"}):
        raise StripeError(400, f"You may not specify {name} with billing_scheme `tiered`.", param=name)
    for name in ("tiers", "tiers_mode"):
        if not given.get(name):
            raise StripeError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    tiers = [
        {
            **_amounts(tier, "unit_amount"),
            **_amounts(tier, "flat_amount"),
            "up_to": None if tier["up_to"] == "inf" else tier["up_to"],
        }
        for tier in given["tiers"]
    ]
    bounds = [tier["up_to"] for tier in tiers]
    closed = bounds[:-1]
    if bounds[-1] is not None or None in closed or closed != sorted(set(closed)):
        raise StripeError(400, "Tiers must have ascending `up_to`, and the last must be `inf`.", param="tiers")
    return tiers


def _amounts(given: Json, name: str) -> Json:
    whole, exact = given.get(name), given.get(f"{name}_decimal")
    if whole is not None and exact is not None:
        raise StripeError(400, f"You may only specify one of these parameters: {name}, {name}_decimal.", param=name)
    text = exact if exact is not None else None if whole is None else str(whole)
    if text is None:
        return {name: None, f"{name}_decimal": None}
    if _DECIMAL.fullmatch(text) is None:
        raise StripeError(400, f"Invalid decimal: {text}; at most 12 decimal places", param=f"{name}_decimal")
    amount = Decimal(text)
    return {name: int(amount) if amount == int(amount) else None, f"{name}_decimal": plain(amount)}


def _claim_lookup_key(call: Call, price: Json) -> None:
    key = call.parameters.get("lookup_key")
    if key is None:
        return
    for stored in call.state.list_objects(call.account, KIND):
        if key and stored.body["lookup_key"] == key and stored.body["id"] != price["id"]:
            if not call.parameters.get("transfer_lookup_key"):
                message = f"A price (`{stored.body['id']}`) already uses that lookup key."
                raise StripeError(400, message, param="lookup_key")
            call.state.replace_object(call.account, KIND, {**stored.body, "lookup_key": None})
    price["lookup_key"] = key or None
