"""What a window of an invoice should cost by our own price function, beside what it costs.

Belongs here: comparing the amounts of one window. Does not: prices (`stripemeter.pricing`), quantities
(`closing_proof`).

Stripe rounds each line, and does not say in which direction a fraction goes: a window is as we price it when one of the
known directions makes it so, and which one is written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import get_args

from stripemeter.billing.sink import InvoiceLine
from stripemeter.pricing.prices import Price
from stripemeter.pricing.quotes import quote
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, Rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowAmounts:
    """What a window costs.

    Args:
        currency: of the lines; '' without lines.
        billed_minor: the sum of the invoice's lines.
        priced_minor: the sum of ours for what we counted; None: it cannot be said, `unpriced` says why.
        rounding: the direction that makes them equal, else the one assumed.
        unpriced: why there is no amount of ours; empty when there is one.
    """

    currency: str
    billed_minor: int
    priced_minor: int | None
    rounding: str
    unpriced: str

    @property
    def differs(self) -> bool:
        """Whether Stripe bills another amount than we make of what we counted."""
        return self.priced_minor is not None and self.priced_minor != self.billed_minor


def compare_amounts(lines: Sequence[InvoiceLine], terms: Price | str, counted: Decimal | None) -> WindowAmounts:
    """A window's lines against the price of what we counted.

    Args:
        lines: of the window, any order.
        terms: its price, or why there is none.
        counted: our quantity; None: nobody can say.
    """
    currency = lines[0].currency if lines else ""
    billed = sum(line.amount_minor for line in lines)
    if counted is None:
        return _unpriced(currency, billed, "what we counted of it cannot be told")
    if isinstance(terms, str):
        return _unpriced(currency, billed, terms)
    if currency and currency.upper() != terms.currency:
        return _unpriced(currency, billed, f"billed in {currency}, and the price is in {terms.currency.lower()}")
    totals: dict[Rounding, int] = {
        rounding: quote(terms, counted, rounding).total_minor for rounding in get_args(Rounding)
    }
    agreed = next((rounding for rounding, total in totals.items() if total == billed), DEFAULT_ROUNDING)
    return WindowAmounts(
        currency=currency, billed_minor=billed, priced_minor=totals[agreed], rounding=agreed, unpriced=""
    )


def _unpriced(currency: str, billed: int, reason: str) -> WindowAmounts:
    return WindowAmounts(currency=currency, billed_minor=billed, priced_minor=None, rounding="", unpriced=reason)
