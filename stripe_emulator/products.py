"""Products: what a price is the price of.

Belongs here: the `/v1/products` handlers. Does not: prices.
"""

from __future__ import annotations

from stripe_emulator.calls import Call, check_implemented, find_or_404, merged_metadata, missing, new_id, page
from stripe_emulator.state import StoredObject
from stripe_emulator.wire import Json, StripeError

KIND = "product"
_SETTABLE = {"active", "description", "metadata", "name", "unit_label", "url"}


def create(call: Call) -> Json:
    """`POST /v1/products`."""
    check_implemented(call, _SETTABLE | {"id"})
    product_id = call.parameters.get("id") or new_id("prod")
    if call.state.find_object(call.account, KIND, product_id) is not None:
        raise StripeError(400, f"Product already exists: {product_id}", code="resource_already_exists", param="id")
    product: Json = {
        "id": product_id,
        "object": "product",
        "active": True,
        "created": call.now,
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": {},
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "unit_label": None,
        "updated": call.now,
        "url": None,
    }
    product = _with_changes(call, product)
    call.state.insert_object(call.account, KIND, product)
    return product


def retrieve(call: Call) -> Json:
    """`GET /v1/products/{id}`."""
    check_implemented(call, set())
    return _living(call).body


def update(call: Call) -> Json:
    """`POST /v1/products/{id}`."""
    check_implemented(call, _SETTABLE)
    product = _with_changes(call, _living(call).body)
    call.state.replace_object(call.account, KIND, product)
    return product


def delete(call: Call) -> Json:
    """`DELETE /v1/products/{id}`: only one without prices.

    Raises:
        StripeError: it has prices.
    """
    product = _living(call).body
    if call.state.list_objects(call.account, "price", name=product["id"]):
        raise StripeError(400, "This product cannot be deleted because it has one or more user-created prices.")
    gone = {"id": product["id"], "object": "product", "deleted": True}
    call.state.replace_object(call.account, KIND, gone)
    return gone


def list_all(call: Call) -> Json:
    """`GET /v1/products`: newest first, filtered by `active` and `ids`."""
    check_implemented(call, {"active", "ids", "limit", "starting_after", "ending_before"})
    active, ids = call.parameters.get("active"), call.parameters.get("ids")
    stored = [found.body for found in call.state.list_objects(call.account, KIND)]
    return page(
        call,
        [
            product
            for product in stored
            if not product.get("deleted")
            and active in (None, product["active"])
            and (ids is None or product["id"] in ids)
        ],
    )


def _living(call: Call) -> StoredObject:
    stored = find_or_404(call, KIND, "product", "id")
    if stored.body.get("deleted"):
        raise missing("product", call.object_id, "id")
    return stored


def _with_changes(call: Call, product: Json) -> Json:
    changed = {**product, "updated": call.now}
    for name in call.parameters.keys() & _SETTABLE - {"metadata"}:
        value = call.parameters[name]
        changed[name] = None if value == "" else value
    changed["metadata"] = merged_metadata(product["metadata"], call.parameters.get("metadata"))
    return changed
