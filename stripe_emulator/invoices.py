"""Invoices over HTTP: what is owed for a period, from draft to paid or void.

Belongs here: the `/v1/invoices` handlers. Does not: how they are made (`invoice_documents`) and when (`billing`).
"""

from __future__ import annotations

from stripe_emulator import billing, clocks, credit_ledger, events, knobs, payments
from stripe_emulator import invoice_documents as documents
from stripe_emulator.calls import Call, check_implemented, merged_metadata, new_id, page, was_created
from stripe_emulator.wire import Json, StripeError

_PAGED = {"limit", "starting_after", "ending_before"}


def retrieve(call: Call) -> Json:
    """`GET /v1/invoices/{invoice}`."""
    check_implemented(call, set())
    return documents.find(call, call.object_id)


def list_all(call: Call) -> Json:
    """`GET /v1/invoices`: newest first, by customer, subscription, status, instant of creation."""
    check_implemented(call, _PAGED | {"created", "customer", "status", "subscription"})
    status, subscription = call.parameters.get("status"), call.parameters.get("subscription")
    stored = call.state.list_objects(call.account, documents.KIND, name=call.parameters.get("customer"))
    return page(
        call,
        [
            found.body
            for found in stored
            if status in (None, found.body["status"])
            and subscription in (None, found.body["parent"]["subscription_details"]["subscription"])
            and was_created(found.body["created"], call.parameters.get("created"))
        ],
    )


def list_lines(call: Call) -> Json:
    """`GET /v1/invoices/{invoice}/lines`: in the invoice's order."""
    check_implemented(call, _PAGED)
    return page(call, documents.lines_of(call, call.object_id)["lines"])


def create_preview(call: Call) -> Json:
    """`POST /v1/invoices/create_preview`: what a subscription's next invoice would be with the usage known now."""
    check_implemented(call, {"customer", "subscription"})
    if "subscription" not in call.parameters:
        raise StripeError(400, "The emulator previews subscriptions: name one.", param="subscription")
    subscription = billing.subscription(call, call.parameters["subscription"])
    if call.parameters.get("customer", subscription["customer"]) != subscription["customer"]:
        raise StripeError(400, "This subscription belongs to another customer.", param="customer")
    billing.check_alive(subscription)
    call = clocks.in_time_of(call, subscription["customer"])
    parts = billing.preview_parts(call, subscription)
    invoice_id = new_id("upcoming_in")
    lines = documents.draft_lines(call, subscription["customer"], invoice_id, parts)
    preview = documents.compose(call, subscription, invoice_id, parts, lines, reason="upcoming")
    preview["lines"] = {**preview["lines"], "data": lines, "has_more": False}
    return preview


def update(call: Call) -> Json:
    """`POST /v1/invoices/{invoice}`: `auto_advance` starts and stops the clock of a draft."""
    check_implemented(call, {"auto_advance", "description", "metadata"})
    invoice = dict(documents.find(call, call.object_id))
    call = clocks.changing(call, invoice["customer"])
    if invoice["status"] != "draft" and "auto_advance" in call.parameters:
        raise StripeError(400, "Finalized invoices can't be updated in this way", param="auto_advance")
    if "auto_advance" in call.parameters:
        is_advancing = call.parameters["auto_advance"]
        deadline = max(call.now, invoice["created"] + knobs.grace_seconds(call.state)) if is_advancing else None
        invoice |= {"auto_advance": is_advancing, "automatically_finalizes_at": deadline}
        call.set_alarm(documents.KIND, invoice["id"], deadline)
    if "description" in call.parameters:
        invoice["description"] = call.parameters["description"] or None
    invoice["metadata"] = merged_metadata(invoice["metadata"], call.parameters.get("metadata"))
    call.state.replace_object(call.account, documents.KIND, invoice)
    events.tell(call, "invoice.updated", invoice)
    return invoice


def finalize(call: Call) -> Json:
    """`POST /v1/invoices/{invoice}/finalize`: `auto_advance` says whether it is collected from then on."""
    check_implemented(call, {"auto_advance"})
    invoice = documents.find(call, call.object_id)
    call = clocks.changing(call, invoice["customer"])
    documents.finalize(call, {**invoice, "auto_advance": _advances(call, invoice)})
    payments.attempt_first(call, invoice["id"])
    return documents.find(call, invoice["id"])


def void(call: Call) -> Json:
    """`POST /v1/invoices/{invoice}/void`: an open one; credits applied to it go back."""
    check_implemented(call, set())
    invoice = documents.find(call, call.object_id)
    call = clocks.changing(call, invoice["customer"])
    if invoice["status"] != "open":
        raise StripeError(400, f"You can only void open invoices. This invoice is {invoice['status']}.")
    voided = {
        **invoice,
        "auto_advance": False,
        "amount_remaining": 0,
        "next_payment_attempt": None,
        "status": "void",
        "status_transitions": {**invoice["status_transitions"], "voided_at": call.now},
    }
    call.state.replace_object(call.account, documents.KIND, voided)
    credit_ledger.reinstate(call, invoice)
    events.tell(call, "invoice.voided", voided)
    payments.close(call, voided)
    return voided


def _advances(call: Call, invoice: Json) -> bool:
    return bool(call.parameters.get("auto_advance", invoice["auto_advance"]))
