"""Exact arithmetic on finished numbers: a sum of two, and an average of a sum and a count.

Belongs here: the only rounding a quantity ever meets. Does not: sums and counts (`aggregation`), money.
"""

from __future__ import annotations

from decimal import Context, Decimal

_EXACT = Context(prec=200)
AVERAGE_DECIMALS = 12
"""Decimals of an average: as many as a quantity has, so the average of equal quantities is that quantity."""


def add(quantity: Decimal, delta: Decimal) -> Decimal:
    """`quantity + delta`, every digit of it."""
    return _EXACT.add(quantity, delta)


def average(quantity_sum: Decimal, event_count: int) -> Decimal:
    """`quantity_sum / event_count` with AVERAGE_DECIMALS decimals, half away from zero; rounded once.

    Args:
        quantity_sum: at most AVERAGE_DECIMALS decimals, any size.
        event_count: at least 1.
    """
    digits = Context(prec=len(quantity_sum.as_tuple().digits) + 2 * AVERAGE_DECIMALS + 20)
    scaled = int(quantity_sum.scaleb(AVERAGE_DECIMALS, digits))
    whole = (2 * abs(scaled) + event_count) // (2 * event_count)
    return Decimal(whole if scaled >= 0 else -whole).scaleb(-AVERAGE_DECIMALS, digits)
