"""What a quantity costs, line by line.

Belongs here: prices with quantities to invoice line amounts, in whole fractions. Does not: which quantity, which
period, what an invoice looks like (`invoices`).

Written from Stripe's documents alone, so that it can judge another implementation. Rules L1-L7 of `RULES.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from stripe_emulator.wire import Json

Rounding = Literal["half_up", "half_even", "ceiling"]
ROUNDINGS: tuple[Rounding, ...] = ("half_up", "half_even", "ceiling")


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedLine:
    """One invoice line: `amount` in minor units; `tier` counts from 1 and is None for prices without tiers."""

    quantity: Fraction
    unit_amount: Fraction
    amount: int
    tier: int | None = None
    is_flat: bool = False


def price_lines(price: Json, quantity: Fraction, rounding: Rounding) -> list[PricedLine]:
    """The lines of a quantity; a negative quantity bills like 0.

    Args:
        price: a Stripe price with its tiers; `up_to` is a number, None or "inf".
        quantity: what was used.
        rounding: how a line becomes whole minor units; the direction of small fractions is unknown.
    """
    billed = max(quantity, Fraction(0))
    if price["billing_scheme"] == "per_unit":
        return [_per_unit(price, billed, rounding)]
    if price["tiers_mode"] == "volume":
        return _volume(price["tiers"], billed, rounding)
    return _graduated(price["tiers"], billed, rounding)


def _per_unit(price: Json, quantity: Fraction, rounding: Rounding) -> PricedLine:
    unit = Fraction(price["unit_amount_decimal"])
    transform = price.get("transform_quantity")
    units = quantity
    if transform is not None:
        packages = quantity / transform["divide_by"]
        units = Fraction(math.ceil(packages) if transform["round"] == "up" else math.floor(packages))
    return PricedLine(quantity=quantity, unit_amount=unit, amount=_round(units * unit, rounding))


def _volume(tiers: list[Json], quantity: Fraction, rounding: Rounding) -> list[PricedLine]:
    """The tier the whole quantity reaches."""
    for number, tier in enumerate(tiers, start=1):
        bound = _bound(tier)
        if bound is None or quantity <= bound:
            return _tier_lines(number, tier, quantity, rounding)
    raise ValueError("the last tier must be open-ended")


def _graduated(tiers: list[Json], quantity: Fraction, rounding: Rounding) -> list[PricedLine]:
    """Every tier the quantity reaches; the first one always."""
    lines: list[PricedLine] = []
    start = Fraction(0)
    for number, tier in enumerate(tiers, start=1):
        if number > 1 and quantity <= start:
            break
        bound = _bound(tier)
        end = quantity if bound is None else min(bound, quantity)
        lines += _tier_lines(number, tier, end - start, rounding)
        start = end if bound is None else bound
    return lines


def _tier_lines(number: int, tier: Json, quantity: Fraction, rounding: Rounding) -> list[PricedLine]:
    unit = Fraction(tier.get("unit_amount_decimal") or 0)
    lines = [PricedLine(quantity=quantity, unit_amount=unit, amount=_round(quantity * unit, rounding), tier=number)]
    flat = tier.get("flat_amount_decimal")
    if flat is not None:
        amount = _round(Fraction(flat), rounding)
        lines.append(
            PricedLine(quantity=Fraction(0), unit_amount=Fraction(flat), amount=amount, tier=number, is_flat=True)
        )
    return lines


def _bound(tier: Json) -> Fraction | None:
    return None if tier["up_to"] in (None, "inf") else Fraction(tier["up_to"])


def _round(amount: Fraction, rounding: Rounding) -> int:
    if rounding == "ceiling":
        return math.ceil(amount)
    if rounding == "half_even":
        return round(amount)
    return math.floor(amount + Fraction(1, 2))
