"""Invoices written for others: the original's document, and a line in words.

Belongs here: the form of amounts, lines, quotes and invoices in documents. Does not: reading documents
(`invoice_documents`), pages (`rendering`).

Amounts are texts in major units of their currency.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from stripemeter.pricing.currencies import exponent_of, to_major
from stripemeter.pricing.deductions import Deduction
from stripemeter.pricing.quotes import Line, Quote
from stripemeter.pricing.reading import instant_text, plain

if TYPE_CHECKING:
    from stripemeter.pricing.invoices import Invoice, InvoiceLine  # whose to_dict this is


def invoice_document(invoice: Invoice) -> dict[str, Any]:
    """The original's invoice, and in `lines`, `applied...` and `taxable` what it comes from.

    `subtotal + adjustments - credits + tax` is `total`; `adjustments` are the discounts, negative.
    """
    currency = invoice.currency
    inputs = invoice.inputs
    taxable = invoice.subtotal_minor - invoice.discounts_minor - invoice.credits_minor
    return {
        "customerId": inputs.customer_id,
        "periodStart": instant_text(inputs.period_start),
        "periodEnd": instant_text(inputs.period_end),
        "currency": currency,
        "lineItems": [
            _item_document(item.metric, quoted) for item, quoted in zip(inputs.items, invoice.quotes, strict=True)
        ]
        + [_true_up_document(added, currency) for added in invoice.true_ups],
        "lines": [{"metric": line.metric, **line_document(line.line, currency)} for line in invoice.lines],
        "subtotal": amount_text(invoice.subtotal_minor, currency),
        "adjustments": amount_text(-invoice.discounts_minor, currency),
        "credits": amount_text(invoice.credits_minor, currency),
        "taxable": amount_text(taxable, currency),
        "taxRate": plain(inputs.tax_pct),
        "tax": amount_text(invoice.tax_minor, currency),
        "total": amount_text(invoice.total_minor, currency),
        "appliedDiscounts": [_deduction_document(taken) for taken in invoice.deductions if taken.kind == "discount"],
        "appliedCommitments": [
            _deduction_document(taken) for taken in invoice.deductions if taken.kind == "commitment"
        ],
        "appliedCredits": [_deduction_document(taken) for taken in invoice.deductions if taken.kind == "credit"],
    }


def describe(line: Line, currency: str) -> str:
    """A line in words."""
    unit = f"{amount_text(line.unit_minor, currency)} {currency}"
    tier = f" (tier {line.tier})" if line.tier else ""
    match line.kind:
        case "units":
            return f"{plain(line.units)} at {unit}{tier}"
        case "flat":
            return f"flat {unit}{tier}"
        case "minimum":
            return f"minimum charge {unit}"
        case "maximum":
            return f"maximum charge {unit}"
        case "true_up":
            return f"up to the commitment of {unit}"


def line_document(line: Line, currency: str) -> dict[str, Any]:
    """A line with all it was computed from."""
    return {
        "kind": line.kind,
        "tier": line.tier,
        "units": plain(line.units),
        "unitPrice": amount_text(line.unit_minor, currency),
        "unrounded": amount_text(line.unrounded_minor, currency),
        "amount": amount_text(line.amount_minor, currency),
        "priceVersion": line.price_version,
        "description": describe(line, currency),
    }


def amount_text(minor: Decimal | int, currency: str) -> str:
    """An amount in minor units as text in major units, with at least the currency's decimals: 1050 USD is "10.50"."""
    text = plain(to_major(minor, currency))
    decimals = len(text.partition(".")[2])
    missing = exponent_of(currency) - decimals
    return text if missing <= 0 else f"{text}{'' if decimals else '.'}{'0' * missing}"


def _item_document(metric: str, quoted: Quote) -> dict[str, Any]:
    """The original's line item; `unitPrice` is null where the quantity has several prices."""
    currency = quoted.price.currency
    prices = {line.unit_minor for line in quoted.lines if line.kind == "units"}
    return {
        "metric": metric,
        "quantity": plain(quoted.quantity),
        "unitPrice": amount_text(prices.pop(), currency) if len(prices) == 1 else None,
        "subtotal": amount_text(quoted.total_minor, currency),
        "description": "; ".join(describe(line, currency) for line in quoted.lines),
    }


def _true_up_document(added: InvoiceLine, currency: str) -> dict[str, Any]:
    return {
        "metric": added.metric,
        "quantity": "0",
        "unitPrice": None,
        "subtotal": amount_text(added.line.amount_minor, currency),
        "description": describe(added.line, currency),
    }


def _deduction_document(taken: Deduction) -> dict[str, Any]:
    remaining = taken.remaining_minor
    return {
        "position": taken.position,
        "name": taken.name,
        "currency": taken.currency,
        "applied": amount_text(taken.applied_minor, taken.currency),
        "remaining": None if remaining is None else amount_text(remaining, taken.currency),
        "byItem": [amount_text(amount, taken.currency) for amount in taken.by_item],
    }
