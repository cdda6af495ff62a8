"""Invoices: the price of a period.

Belongs here: the order of things, and the sum. Does not: prices of quantities (`quotes`), deductions (`deductions`),
documents (`invoice_documents`,
`invoice_writing`).

Order: lines, discounts, what a minimum commitment adds, prepaid commitments, credit grants, tax on the rest.
Source: stripe.md 2.7: credits come after discounts and before tax; the original: commitments, credits, tax.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from stripemeter.pricing.contracts import InvoiceInputs, MinimumCommitment, concerns
from stripemeter.pricing.currencies import to_major
from stripemeter.pricing.deductions import Deduction, take_credits, take_discounts, take_prepaid
from stripemeter.pricing.invoice_writing import invoice_document
from stripemeter.pricing.prices import UNIT, scaled
from stripemeter.pricing.quotes import Line, Quote, quote
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, Rounding, round_line


class InvoiceLine(NamedTuple):
    """A line and what it is for: a metric, or the name of a minimum commitment."""

    metric: str
    line: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """The price of a period; `total_minor` is subtotal less deductions plus tax, never below zero.

    Args:
        inputs: all it depends on: the same inputs and rounding make the same invoice.
        rounding: of each line, percentage discount and tax.
        quotes: one per item, in order.
        true_ups: what minimum commitments add, those that add something.
        deductions: in the order they were taken off.
        subtotal_minor: sum of all lines.
        tax_minor: on what is left.
        total_minor: to be paid.
    """

    inputs: InvoiceInputs
    rounding: Rounding
    quotes: tuple[Quote, ...]
    true_ups: tuple[InvoiceLine, ...]
    deductions: tuple[Deduction, ...]
    subtotal_minor: int
    tax_minor: int
    total_minor: int

    @property
    def currency(self) -> str:
        """The currency of every amount but those of deductions that do not concern it."""
        return self.inputs.currency

    @property
    def lines(self) -> tuple[InvoiceLine, ...]:
        """Every line, item by item, then the true-ups; they sum to the subtotal."""
        of_items = [
            InvoiceLine(item.metric, line)
            for item, quoted in zip(self.inputs.items, self.quotes, strict=True)
            for line in quoted.lines
        ]
        return (*of_items, *self.true_ups)

    @property
    def discounts_minor(self) -> int:
        """Taken off by discounts."""
        return sum(taken.applied_minor for taken in self.deductions if taken.kind == "discount")

    @property
    def credits_minor(self) -> int:
        """Paid by prepaid commitments and credit grants."""
        return sum(taken.applied_minor for taken in self.deductions if taken.kind != "discount")

    @property
    def subtotal(self) -> Decimal:
        """Sum of all lines in major units."""
        return to_major(self.subtotal_minor, self.currency)

    @property
    def discounts(self) -> Decimal:
        """Taken off by discounts, in major units."""
        return to_major(self.discounts_minor, self.currency)

    @property
    def credits(self) -> Decimal:
        """Paid by prepaid commitments and credit grants, in major units."""
        return to_major(self.credits_minor, self.currency)

    @property
    def tax(self) -> Decimal:
        """Exclusive tax in major units."""
        return to_major(self.tax_minor, self.currency)

    @property
    def total(self) -> Decimal:
        """To be paid, in major units."""
        return to_major(self.total_minor, self.currency)

    def to_dict(self) -> dict[str, Any]:
        """The original's invoice, JSON-able, with its lines and what was taken off (`invoice_writing`)."""
        return invoice_document(self)


def price_invoice(inputs: InvoiceInputs, rounding: Rounding = DEFAULT_ROUNDING) -> Invoice:
    """The invoice of a period."""
    quotes = tuple(quote(item.price, item.quantity, rounding) for item in inputs.items)
    left = [quoted.total_minor for quoted in quotes]
    deductions = take_discounts(inputs, left, rounding) if inputs.discounts else []
    true_ups = _true_ups(inputs, left)
    subtotal = sum(quoted.total_minor for quoted in quotes) + sum(added.line.amount_minor for added in true_ups)
    left += [added.line.amount_minor for added in true_ups]
    deductions += take_prepaid(inputs, left)
    deductions += take_credits(inputs, left)
    tax = round_line(sum(left) * scaled(inputs.tax_pct, "tax_pct"), 100 * UNIT, rounding)
    return Invoice(
        inputs=inputs,
        rounding=rounding,
        quotes=quotes,
        true_ups=true_ups,
        deductions=tuple(deductions),
        subtotal_minor=subtotal,
        tax_minor=tax,
        total_minor=sum(left) + tax,
    )


def _true_ups(inputs: InvoiceInputs, left: list[int]) -> tuple[InvoiceLine, ...]:
    added = ((minimum, minimum.amount_minor - _spent(minimum, inputs, left)) for minimum in inputs.minimums)
    return tuple(
        InvoiceLine(
            minimum.name or "minimum commitment",
            Line("true_up", 0, Decimal(0), Decimal(minimum.amount_minor), Decimal(missing), missing, ""),
        )
        for minimum, missing in added
        if missing > 0
    )


def _spent(minimum: MinimumCommitment, inputs: InvoiceInputs, left: list[int]) -> int:
    return sum(
        amount for item, amount in zip(inputs.items, left, strict=True) if concerns(minimum.metrics, item.metric)
    )
