"""Credit notes: what a final invoice is lowered by.

Belongs here: the `/v1/credit_notes` handlers. Does not: billing credits (`credit_grants`), refunds, taxes.
Rules G of `RULES.md`.
"""

from __future__ import annotations

from stripe_emulator import clocks, events
from stripe_emulator import invoice_documents as documents
from stripe_emulator.calls import Call, check_implemented, find_or_404, merged_metadata, new_id, page, was_created
from stripe_emulator.wire import Json, StripeError

KIND = "credit_note"
_CREATED = {"invoice", "lines", "credit_amount", "memo", "metadata"}
_LISTED = {"limit", "starting_after", "ending_before", "created", "customer", "invoice"}


def create(call: Call) -> Json:
    """`POST /v1/credit_notes`: an open invoice owes less, of a paid one the customer's balance gets it."""
    check_implemented(call, _CREATED)
    invoice = documents.find(call, call.parameters["invoice"])
    call = clocks.changing(call, invoice["customer"])
    note_id = new_id("cn")
    lines = [_line(number, line) for number, line in enumerate(call.parameters.get("lines", ()))]
    total = sum(line["amount"] for line in lines)
    if total <= 0:
        raise StripeError(400, "The total of a credit note must be above 0.", param="lines")
    credited = call.parameters.get("credit_amount", 0)
    lowered = _lowered(invoice, total, credited, call.now)
    number = len(_of_invoice(call, invoice["id"])) + 1
    note: Json = {
        "id": note_id,
        "object": KIND,
        "amount": total,
        "amount_shipping": 0,
        "created": call.now,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": call.now,
        "invoice": invoice["id"],
        "lines": {"object": "list", "data": lines, "has_more": False, "url": f"/v1/credit_notes/{note_id}/lines"},
        "livemode": False,
        "memo": call.parameters.get("memo"),
        "metadata": merged_metadata({}, call.parameters.get("metadata")),
        "number": f"{invoice['number']}-CN-{number:02}",
        "out_of_band_amount": None,
        "pdf": f"https://pay.stripe.com/credit_notes/{note_id}/pdf",
        "post_payment_amount": credited,
        "pre_payment_amount": total - credited,
        "pretax_credit_amounts": [],
        "reason": None,
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "total": total,
        "total_excluding_tax": total,
        "total_taxes": [],
        "type": "post_payment" if credited else "pre_payment",
        "voided_at": None,
    }
    call.state.insert_object(call.account, KIND, note, name=invoice["customer"])
    call.state.replace_object(call.account, documents.KIND, lowered)
    if credited:
        customer = call.state.find_object(call.account, "customer", invoice["customer"])
        assert customer is not None  # an invoice has one
        balance = customer.body["balance"] - credited
        call.state.replace_object(call.account, "customer", {**customer.body, "balance": balance})
    events.tell(call, "invoice.updated", lowered)
    return note


def retrieve(call: Call) -> Json:
    """`GET /v1/credit_notes/{id}`."""
    check_implemented(call, set())
    return find_or_404(call, KIND, "credit note", "id").body


def list_all(call: Call) -> Json:
    """`GET /v1/credit_notes`: newest first, by customer, invoice, instant of creation."""
    check_implemented(call, _LISTED)
    invoice = call.parameters.get("invoice")
    stored = call.state.list_objects(call.account, KIND, name=call.parameters.get("customer"))
    return page(
        call,
        [
            found.body
            for found in stored
            if invoice in (None, found.body["invoice"])
            and was_created(found.body["created"], call.parameters.get("created"))
        ],
    )


def _lowered(invoice: Json, total: int, credited: int, now: int) -> Json:
    """The invoice as it is with the note.

    Raises:
        StripeError: it is not final, or has not so much left, or the amounts do not add up.
    """
    before, after = invoice["pre_payment_credit_notes_amount"], invoice["post_payment_credit_notes_amount"]
    if invoice["status"] == "open":
        if credited:
            raise StripeError(400, "An open invoice has no payment to credit.", param="credit_amount")
        _check_left(total, invoice["amount_remaining"])
        left = invoice["amount_remaining"] - total
        lowered = {**invoice, "amount_remaining": left, "pre_payment_credit_notes_amount": before + total}
        if left:
            return lowered
        paid_at = {**invoice["status_transitions"], "paid_at": now}
        return {**lowered, "status": "paid", "auto_advance": False, "status_transitions": paid_at}
    if invoice["status"] == "paid":
        if credited != total:
            text = "The sum of credit amount, refund amount and out of band amount must equal the credit note's total."
            raise StripeError(400, text, param="credit_amount")
        _check_left(total, invoice["amount_paid"] - after)
        return {**invoice, "post_payment_credit_notes_amount": after + total}
    raise StripeError(400, f"Credit notes are for open and paid invoices. This invoice is {invoice['status']}.")


def _check_left(total: int, left: int) -> None:
    if total > left:
        raise StripeError(400, f"The credit note's total ({total}) is above what can be credited ({left}).")


def _of_invoice(call: Call, invoice_id: str) -> list[Json]:
    stored = call.state.list_objects(call.account, KIND)
    return [found.body for found in stored if found.body["invoice"] == invoice_id]


def _line(number: int, given: Json) -> Json:
    if given["type"] != "custom_line_item" or not {"description", "quantity", "unit_amount"} <= given.keys():
        text = "The emulator takes custom_line_item with description, quantity and unit_amount only."
        raise StripeError(400, text, param=f"lines[{number}]")
    return {
        "id": new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": given["quantity"] * given["unit_amount"],
        "description": given["description"],
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "metadata": {},
        "pretax_credit_amounts": [],
        "quantity": given["quantity"],
        "tax_rates": [],
        "taxes": [],
        "type": "custom_line_item",
        "unit_amount": given["unit_amount"],
        "unit_amount_decimal": str(given["unit_amount"]),
    }
