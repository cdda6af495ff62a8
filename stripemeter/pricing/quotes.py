"""Quotes: the price of a quantity, line by line.

Belongs here: which lines there are, and the amount of each. Does not: rounding (`rounding`), many customers at once
(`quote_frames`, by the same steps), what becomes of the sum (`invoices`).

Lines are what is priced and rounded. Source: stripe.md 2.6: one line per tier reached, a tier's flat amount a line of
its own with quantity 0; quantity 0 bills the first tier's flat amount in every tiered model; a negative total bills
as 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from stripemeter.pricing.currencies import EXACT, to_major
from stripemeter.pricing.prices import DECIMALS, UNIT, Price, Step, Transform, Volume, scaled
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, Rounding, round_line

LineKind = Literal["units", "flat", "minimum", "maximum", "true_up"]
"""Units of a tier, its flat amount, what a minimum adds, what a maximum takes off, what a commitment adds."""

_SQUARE = UNIT * UNIT
_NOTHING = Decimal(0)


class Line(NamedTuple):
    """An amount and where it comes from. A tuple, because invoices are priced by the hundred thousand.

    Of `units`, `unrounded_minor` is `units * unit_minor`. Of `flat` it is `unit_minor`; of `minimum` and `maximum` it
    is `unit_minor` less the lines before it, and `amount_minor` is the rounded bound less those.
    """

    kind: LineKind
    tier: int
    """From 1; 0 where the price has no tiers."""
    units: Decimal
    """After packing; 0 for what is not charged by the unit."""
    unit_minor: Decimal
    unrounded_minor: Decimal
    amount_minor: int
    price_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a quantity costs: `total_minor` is the sum of its lines, in minor units of `price.currency`."""

    price: Price
    quantity: Decimal
    rounding: Rounding
    lines: tuple[Line, ...]
    total_minor: int

    @property
    def total(self) -> Decimal:
        """The sum in major units."""
        return to_major(self.total_minor, self.price.currency)


def quote(price: Price, quantity: Decimal, rounding: Rounding = DEFAULT_ROUNDING) -> Quote:
    """The price of a quantity, with its lines.

    Args:
        price: what a unit costs.
        quantity: at most 26 digits and 12 decimals; below 0 it bills as 0.
        rounding: of each line.

    Raises:
        InvalidInput: the quantity is out of bounds.
    """
    units = max(scaled(quantity, "quantity"), 0)
    if price.transform is not None:
        units = _packed(units, price.transform) * UNIT
    lines: list[Line] = []
    for step, of_step in _steps_reached(price, units):
        _add_lines(lines, price.version, step, of_step, rounding)
    total = sum([line.amount_minor for line in lines])
    bound = _bound_line(price, total, rounding)
    if bound is not None:
        lines.append(bound)
        total += bound.amount_minor
    return Quote(price=price, quantity=quantity, rounding=rounding, lines=tuple(lines), total_minor=total)


def _steps_reached(price: Price, units: int) -> Iterator[tuple[Step, int]]:
    """Each step that `units` reach, with the units it prices; the first is always reached."""
    is_volume = isinstance(price.model, Volume)
    for step in price.steps:
        is_last = step.end is None or units <= step.end
        if not is_volume:
            yield step, (units if is_last else step.end or 0) - step.start
        elif is_last:
            yield step, units
        if is_last:
            return


def _add_lines(lines: list[Line], version: str, step: Step, units: int, rounding: Rounding) -> None:
    """Append the line of a step's units, and that of its flat amount."""
    tier, unit, flat, unit_minor, flat_minor = step.tier, step.unit, step.flat, step.unit_minor, step.flat_minor
    exact_units = Decimal(units).scaleb(-DECIMALS, EXACT)
    amount = round_line(units * unit, _SQUARE, rounding)
    lines.append(Line("units", tier, exact_units, unit_minor, EXACT.multiply(exact_units, unit_minor), amount, version))
    if flat is not None and flat_minor is not None:
        amount = round_line(flat, UNIT, rounding)
        lines.append(Line("flat", tier, _NOTHING, flat_minor, flat_minor, amount, version))


def _bound_line(price: Price, total: int, rounding: Rounding) -> Line | None:
    """What lifts the sum of the lines to the minimum, or lowers it to the maximum: the bound itself is rounded."""
    if price.minimum is not None and price.minimum_minor is not None:
        least = round_line(price.minimum, UNIT, rounding)
        if total < least:
            return _bound("minimum", price.minimum_minor, least, total, price)
    if price.maximum is not None and price.maximum_minor is not None:
        most = round_line(price.maximum, UNIT, rounding)
        if total > most:
            return _bound("maximum", price.maximum_minor, most, total, price)
    return None


def _bound(kind: LineKind, bound_minor: Decimal, rounded: int, total: int, price: Price) -> Line:
    unrounded = EXACT.subtract(bound_minor, total)
    return Line(kind, 0, _NOTHING, bound_minor, unrounded, rounded - total, price.version)


def _packed(units: int, transform: Transform) -> int:
    """Packages of a number of units."""
    size = transform.divide_by * UNIT
    return (units + size - 1) // size if transform.round == "up" else units // size
