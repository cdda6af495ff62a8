"""Stripe's invoice items and credit notes: amounts of ours beside metered usage.

Belongs here: making one, finding the one that was made. Does not: which amounts, retries (`pipeline.late_charges`), the
meaning of errors (`stripe_sink`).

Each carries our identity in its metadata: an amount whose answer was lost is found by it, whenever somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import stripe

from stripemeter.billing.sink import LateAmount
from stripemeter.billing.stripe_invoices import PAGE

IDENTITY = "stripemeter_late_charge"
"""The member of the metadata."""


def create_amount(client: stripe.StripeClient, amount: LateAmount, *, idempotency_key: str) -> str:
    """The id of what the amount becomes: an item on the customer's next invoice, or a credit note on its own."""
    if amount.kind == "invoice_item":
        return client.v1.invoice_items.create(_item(amount), {"idempotency_key": idempotency_key}).id
    status = client.v1.invoices.retrieve(amount.invoice_id).status
    return client.v1.credit_notes.create(_note(amount, status), {"idempotency_key": idempotency_key}).id


def find_amount(client: stripe.StripeClient, amount: LateAmount, *, created_from: datetime) -> str | None:
    """The id of what the amount has become; None: nothing yet.

    Args:
        client: the account's.
        amount: found by its identity.
        created_from: of a customer's invoice items none before is looked at.
    """
    since = int(created_from.timestamp())
    items, notes = client.v1.invoice_items, client.v1.credit_notes
    found: Iterable[stripe.InvoiceItem | stripe.CreditNote]
    if amount.kind == "invoice_item":
        of_customer: Any = {"customer": amount.stripe_customer_id, "created": {"gte": since}, "limit": PAGE}
        found = items.list(of_customer).auto_paging_iter()
    else:
        found = notes.list({"invoice": amount.invoice_id, "limit": PAGE}).auto_paging_iter()
    return next((one.id for one in found if _identity(one.metadata) == amount.identity), None)


def _item(amount: LateAmount) -> Any:  # noqa: ANN401 - the SDK's own parameters
    return {
        "customer": amount.stripe_customer_id,
        "amount": amount.amount_minor,
        "currency": amount.currency.lower(),
        "description": amount.description,
        "period": {"start": int(amount.starts_at.timestamp()), "end": int(amount.ends_at.timestamp())},
        "metadata": {IDENTITY: amount.identity},
    }


def _note(amount: LateAmount, status: str | None) -> Any:  # noqa: ANN401 - the SDK's own parameters
    """Source: Stripe API 2026-10-28, CreditNote.create.

    Of a paid invoice what is refunded, credited and out of band adds up to the note's total; an open one owes less.
    """
    line = {
        "type": "custom_line_item",
        "description": amount.description,
        "quantity": 1,
        "unit_amount": amount.amount_minor,
    }
    note: dict[str, Any] = {"invoice": amount.invoice_id, "lines": [line], "metadata": {IDENTITY: amount.identity}}
    return note | ({"credit_amount": amount.amount_minor} if status == "paid" else {})


def _identity(metadata: Any) -> str | None:  # noqa: ANN401 - the SDK's own object
    return metadata[IDENTITY] if metadata is not None and IDENTITY in metadata else None
