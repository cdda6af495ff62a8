"""Customers and the account: who is billed, and by whom.

Belongs here: the `/v1/customers` and `/v1/account` handlers. Does not: payment methods, subscriptions, balances.
"""

from __future__ import annotations

from stripe_emulator import clocks, payment_methods
from stripe_emulator.calls import Call, find_or_404, missing, new_id, page
from stripe_emulator.state import StoredObject
from stripe_emulator.wire import Json, StripeError

KIND = "customer"
_SETTABLE = {
    "address",
    "description",
    "email",
    "invoice_settings",
    "metadata",
    "name",
    "phone",
    "preferred_locales",
    "shipping",
}


def create(call: Call) -> Json:
    """`POST /v1/customers`: with `test_clock` in the time of that clock, for good; `payment_method` is attached."""
    apart = ("payment_method", "test_clock")
    given = {name: value for name, value in call.parameters.items() if name not in apart}
    if "test_clock" in call.parameters:
        call = clocks.attaching(call, call.parameters["test_clock"])
    customer: Json = {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": call.now,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": None,
        "invoice_prefix": new_id("x")[2:10].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": call.clock,
    }
    settings = given.pop("invoice_settings", {})
    customer = _with_changes(call, customer, given)
    call.state.insert_object(call.account, KIND, customer)
    if "payment_method" in call.parameters:
        given_id = call.parameters["payment_method"]
        method = payment_methods.attach(call, given_id, customer["id"])
        # A test card is named by the same word where it becomes the default.
        if settings.get("default_payment_method") == given_id:
            settings = {**settings, "default_payment_method": method["id"]}
    if settings:
        customer = _with_changes(call, customer, {"invoice_settings": settings})
        call.state.replace_object(call.account, KIND, customer)
    return customer


def retrieve(call: Call) -> Json:
    """`GET /v1/customers/{customer}`: a deleted one answers as deleted."""
    return find_or_404(call, KIND, "customer", "id").body


def update(call: Call) -> Json:
    """`POST /v1/customers/{customer}`."""
    customer = _with_changes(call, _living(call).body, call.parameters)
    call.state.replace_object(call.account, KIND, customer)
    return customer


def delete(call: Call) -> Json:
    """`DELETE /v1/customers/{customer}`: with their subscriptions."""
    customer_id = _living(call).body["id"]
    return clocks.delete_customer(clocks.changing(call, customer_id), customer_id)


def list_all(call: Call) -> Json:
    """`GET /v1/customers`: newest first, by `email` and `created`; those of a test clock only when it is named."""
    clock = call.parameters.get("test_clock")
    email, created = call.parameters.get("email"), call.parameters.get("created")
    customers = [stored.body for stored in call.state.list_objects(call.account, KIND)]
    return page(
        call,
        [
            customer
            for customer in customers
            if not customer.get("deleted")
            and customer["test_clock"] == clock
            and (email is None or customer["email"] == email)
            and _is_created_in(customer["created"], created)
        ],
    )


def retrieve_account(call: Call) -> Json:
    """`GET /v1/account`: the account an API key stands for."""
    return {
        "id": call.account,
        "object": "account",
        "business_type": None,
        "charges_enabled": True,
        "country": "US",
        "created": 1,
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": True,
        "type": "standard",
    }


def is_known(call: Call, customer_id: str) -> bool:
    """Whether a customer exists and is not deleted."""
    stored = call.state.find_object(call.account, KIND, customer_id)
    return stored is not None and not stored.body.get("deleted")


def _living(call: Call) -> StoredObject:
    stored = find_or_404(call, KIND, "customer", "id")
    if stored.body.get("deleted"):
        raise missing("customer", call.object_id, "id")
    return stored


def _with_changes(call: Call, customer: Json, parameters: Json) -> Json:
    unknown = sorted(parameters.keys() - _SETTABLE - {"expand"})
    if unknown:
        raise StripeError(400, f"The emulator does not implement parameter: {unknown[0]}", param=unknown[0])
    changed = dict(customer)
    for name in parameters.keys() & _SETTABLE:
        value = parameters[name]
        if name == "metadata":
            kept = {} if value == "" else {**customer["metadata"], **value}
            changed[name] = {key: text for key, text in kept.items() if text != ""}
        elif name == "invoice_settings":
            changed[name] = {**customer[name], **_invoice_settings(call, customer["id"], value)}
        elif name == "preferred_locales":
            changed[name] = value
        else:
            changed[name] = None if value == "" else value
    return changed


def _invoice_settings(call: Call, customer_id: str, given: Json) -> Json:
    for name in sorted(given.keys() - {"default_payment_method"}):
        param = f"invoice_settings[{name}]"
        raise StripeError(400, f"The emulator does not implement parameter: {param}", param=param)
    method_id = given.get("default_payment_method")
    if method_id:
        payment_methods.of_customer(call, method_id, customer_id)
    return {"default_payment_method": method_id or None}


def _is_created_in(created: int, wanted: int | Json | None) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, int):
        return created == wanted
    bounds: dict[str, int] = wanted
    return bounds.get("gt", created - 1) < created < bounds.get("lt", created + 1) and bounds.get(
        "gte", created
    ) <= created <= bounds.get("lte", created)
