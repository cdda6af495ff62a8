"""What late usage of a window costs, once its invoice is final.

Belongs here: the amount and how it came about. Does not: prices (`stripemeter.pricing`), which usage is late
(`late_charges`).

It is the price of all usage of the window less the price of what was billed: in which tier late usage falls is decided
by what is on the invoice already. Stripe does not say in which direction it rounds: the direction is taken that makes
our price of the billed quantity what the invoice bills, and without one nothing is charged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from stripemeter.billing.sink import InvoiceLine
from stripemeter.metering.closings import evidence_text
from stripemeter.metering.deltas import fixed_point
from stripemeter.pipeline.closing_amounts import compare_amounts
from stripemeter.pricing.derivations import quote_record
from stripemeter.pricing.prices import Price
from stripemeter.pricing.quotes import quote
from stripemeter.pricing.rounding import parse_rounding
from stripemeter.store.late_charges import ChargeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class LatePrice:
    """What is to be charged, without its sign; `derivation`: both quotes, as JSON that computes again."""

    kind: ChargeKind
    amount_minor: int
    currency: str
    derivation: str
    derivation_sha256: str


def price_late(lines: Sequence[InvoiceLine], terms: Price | str, *, before: Decimal, after: Decimal) -> LatePrice | str:
    """The price from one quantity of a window to another, or why it cannot be said.

    Args:
        lines: the window's on its final invoice.
        terms: of the window's price, or why there are none.
        before: what is billed already, by the invoice and earlier charges.
        after: all of the window's usage.
    """
    if isinstance(terms, str):
        return terms
    if after < 0:
        return f"the window's usage is below 0 ({fixed_point(after)})"
    billed = compare_amounts(lines, terms, sum((line.quantity for line in lines), Decimal(0)))
    if billed.unpriced or billed.differs:
        ours = billed.unpriced or f"by our price it would be {billed.priced_minor}"
        return f"the invoice bills {billed.billed_minor} in minor units for it: {ours}"
    rounding = parse_rounding(billed.rounding)
    was, is_now = quote(terms, before, rounding), quote(terms, after, rounding)
    more = is_now.total_minor - was.total_minor
    text, sha256 = evidence_text({"before": quote_record(was), "after": quote_record(is_now), "amountMinor": more})
    return LatePrice(
        kind="invoice_item" if more > 0 else "credit_note" if more < 0 else "nothing",
        amount_minor=abs(more),
        currency=terms.currency,
        derivation=text,
        derivation_sha256=sha256,
    )
