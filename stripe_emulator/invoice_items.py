"""Invoice items: an amount of a customer's that waits for the next invoice.

Belongs here: the `/v1/invoiceitems` handlers, which items wait, putting them on an invoice. Does not: the invoice
(`invoice_documents`), usage that a price change left over (`billing`).
Rules G of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import clocks
from stripe_emulator.calls import (
    Call,
    check_implemented,
    find_or_404,
    merged_metadata,
    missing,
    new_id,
    page,
    was_created,
)
from stripe_emulator.wire import Json, StripeError

KIND = "invoiceitem"
_CREATED = {"amount", "currency", "customer", "description", "metadata", "period"}
_LISTED = {"limit", "starting_after", "ending_before", "created", "customer", "pending"}


def create(call: Call) -> Json:
    """`POST /v1/invoiceitems`: a positive amount, of no subscription in particular."""
    check_implemented(call, _CREATED)
    for name in ("customer", "amount", "currency"):
        if name not in call.parameters:
            raise StripeError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    if call.parameters["amount"] <= 0:
        raise StripeError(400, "The emulator takes amounts above 0 only.", param="amount")
    customer = call.parameters["customer"]
    if call.state.find_object(call.account, "customer", customer) is None:
        raise missing("customer", customer, "customer")
    call = clocks.changing(call, customer)
    item: Json = {
        "id": new_id("ii"),
        "object": KIND,
        "amount": call.parameters["amount"],
        "currency": call.parameters["currency"].lower(),
        "customer": customer,
        "date": call.now,
        "description": call.parameters.get("description"),
        "discountable": True,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": merged_metadata({}, call.parameters.get("metadata")),
        "parent": None,
        "period": call.parameters.get("period") or {"start": call.now, "end": call.now},
        "pricing": None,
        "proration": False,
        "quantity": 1,
        "quantity_decimal": "1",
        "tax_rates": [],
        "test_clock": call.clock,
    }
    call.state.insert_object(call.account, KIND, item, name=customer)
    return item


def retrieve(call: Call) -> Json:
    """`GET /v1/invoiceitems/{invoiceitem}`."""
    check_implemented(call, set())
    return find_or_404(call, KIND, "invoiceitem", "invoiceitem").body


def list_all(call: Call) -> Json:
    """`GET /v1/invoiceitems`: newest first, by customer, instant of creation, whether they still wait."""
    check_implemented(call, _LISTED)
    pending = call.parameters.get("pending")
    stored = call.state.list_objects(call.account, KIND, name=call.parameters.get("customer"))
    return page(
        call,
        [
            found.body
            for found in stored
            if pending in (None, found.body["invoice"] is None)
            and was_created(found.body["date"], call.parameters.get("created"))
        ],
    )


def waiting_parts(call: Call, customer: str, currency: str) -> list[Json]:
    """Parts of the customer's next invoice in a currency, oldest first."""
    stored = reversed(call.state.list_objects(call.account, KIND, name=customer))
    return [
        {
            "kind": "amount",
            "item": found.body,
            "start": found.body["period"]["start"],
            "end": found.body["period"]["end"],
        }
        for found in stored
        if found.body["invoice"] is None and found.body["currency"] == currency
    ]


def put_on(call: Call, parts: list[Json], invoice_id: str) -> None:
    """These wait no more."""
    for part in parts:
        call.state.replace_object(call.account, KIND, {**part["item"], "invoice": invoice_id})


def line_of(invoice_id: str, part: Json) -> Json:
    """The line an item becomes."""
    item = part["item"]
    return {
        "id": f"il_{item['id'].rsplit('_', maxsplit=1)[-1]}",
        "object": "line_item",
        "amount": item["amount"],
        "currency": item["currency"],
        "description": item["description"],
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "metadata": item["metadata"],
        "parent": {
            "type": "invoice_item_details",
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": False,
                "proration_details": None,
                "subscription": None,
            },
            "subscription_item_details": None,
        },
        "period": item["period"],
        "pretax_credit_amounts": [],
        "pricing": None,
        "quantity": 1,
        "quantity_decimal": "1",
        "subtotal": item["amount"],
        "taxes": [],
    }
