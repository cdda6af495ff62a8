"""Stripe's invoices in our words.

Belongs here: an invoice with all its lines, read from the SDK's objects. Does not: which invoices, the meaning of
errors (`stripe_sink`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal

import stripe

from stripemeter.billing.sink import Invoice, InvoiceLine
from stripemeter.errors import InvariantBroken

PAGE = 100


def read_invoice(client: stripe.StripeClient, found: stripe.Invoice) -> Invoice:
    """The invoice; the lines that did not come with it are asked for."""
    if found.id is None or found.customer is None:
        raise InvariantBroken("Stripe told of an invoice without an id or a customer")
    lines: Iterable[stripe.InvoiceLineItem] = found.lines.data
    if found.lines.has_more:
        lines = client.v1.invoices.line_items.list(found.id, {"limit": PAGE}).auto_paging_iter()
    customer = found.customer
    return Invoice(
        invoice_id=found.id,
        stripe_customer_id=customer if isinstance(customer, str) else customer.id,
        status=found.status or "draft",
        created_at=_instant(found.created),
        is_advancing=bool(found.auto_advance),
        finalizes_at=_instant_or_none(found.automatically_finalizes_at),
        finalized_at=_instant_or_none(found.status_transitions.finalized_at),
        lines=tuple(_line(line) for line in lines),
    )


def _line(line: stripe.InvoiceLineItem) -> InvoiceLine:
    pricing = line.pricing.price_details if line.pricing is not None else None
    item = line.parent.subscription_item_details if line.parent is not None else None
    price = pricing.price if pricing is not None else None
    return InvoiceLine(
        line_id=line.id,
        stripe_item_id=(item.subscription_item if item is not None else None) or "",
        price_id=price if isinstance(price, str) else (price.id if price is not None else ""),
        start=_instant(line.period.start),
        end=_instant(line.period.end),
        quantity=_quantity(line),
        amount_minor=line.amount,
        currency=line.currency,
    )


def _quantity(line: stripe.InvoiceLineItem) -> Decimal:
    if line.quantity_decimal is not None:
        return Decimal(line.quantity_decimal)
    return Decimal(line.quantity or 0)


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _instant_or_none(seconds: int | None) -> datetime | None:
    return None if seconds is None else _instant(seconds)
