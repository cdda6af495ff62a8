"""Prices: what a unit costs, and the refusal of prices that cannot be right.

Belongs here: the models, their bounds, and the steps a price is computed by (one description, read by `quotes` and
`quote_frames`). Does not: amounts (`quotes`), formats (`price_configs`, `stripe_prices`).

Amounts are minor units of the price's currency and may have decimals, as Stripe's `unit_amount_decimal`: 0.01 USD is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias, assert_never

from stripemeter.errors import InvalidInput
from stripemeter.pricing.currencies import EXACT, exponent_of, parse_currency

DECIMALS = 12
"""Decimals of a quantity, a bound and an amount. Source: numeric(38,12); Stripe, `unit_amount_decimal`."""
UNIT: int = 10**DECIMALS
"""What one is, where quantities and unit prices are whole numbers."""
MOST_WHOLE_DIGITS = 26
MOST_TIERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A range of units and its price.

    Args:
        up_to: the last unit of the tier, inclusive; None for the last tier, which has no end.
        unit_minor: price of a unit; None (Stripe's flat-only tier) costs nothing by the unit.
        flat_minor: charged once when the tier is reached; None shows no line, 0 shows one.
    """

    up_to: Decimal | None
    unit_minor: Decimal | None = None
    flat_minor: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """Units are sold by `divide_by`: what is left over counts as one more (`up`) or not (`down`)."""

    divide_by: int
    round: Literal["up", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PerUnit:
    """Every unit, or every package of `transform`, costs the same."""

    unit_minor: Decimal
    transform: Transform | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """Each unit costs what its tier says; every tier reached charges its flat amount."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """All units cost what the tier of the last one says, whose flat amount is the only one charged."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentage:
    """The quantity is itself an amount in major units (what passed through); `rate_pct` of it is charged."""

    rate_pct: Decimal


PriceModel: TypeAlias = PerUnit | Graduated | Volume | Percentage


class Step(NamedTuple):
    """A range a quantity is priced by, in whole numbers of which UNIT make one; `end` is None where there is none."""

    tier: int
    start: int
    end: int | None
    unit: int
    flat: int | None
    unit_minor: Decimal
    flat_minor: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price that can be right.

    Args:
        currency: a known code in any case; kept in upper case.
        model: how units become an amount.
        minimum_minor: at least this is charged, usage or none; None without one.
        maximum_minor: at most this is charged; None without one.
        version: which price this was, shown in every line; Stripe's price id where there is one.

    Raises:
        InvalidInput: it cannot be right; `field` names the member.
    """

    currency: str
    model: PriceModel
    minimum_minor: Decimal | None = None
    maximum_minor: Decimal | None = None
    version: str = ""
    steps: tuple[Step, ...] = field(init=False, repr=False, compare=False)
    minimum: int | None = field(init=False, repr=False, compare=False)
    maximum: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "currency", parse_currency(self.currency, "currency"))
        object.__setattr__(self, "steps", _steps(self.model, exponent_of(self.currency)))
        object.__setattr__(self, "minimum", _scaled_or_none(self.minimum_minor, "minimum_minor"))
        object.__setattr__(self, "maximum", _scaled_or_none(self.maximum_minor, "maximum_minor"))
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise _refused("minimum_minor", f"{self.minimum_minor} is more than the maximum, {self.maximum_minor}")

    @property
    def transform(self) -> Transform | None:
        """How units are packed; None where each is priced by itself."""
        return self.model.transform if isinstance(self.model, PerUnit) else None


def scaled(number: object, name: str) -> int:
    """A Decimal as a whole number of which UNIT make one.

    Raises:
        InvalidInput: not a finite Decimal (or int) of at most 26 digits before and 12 after the point.
    """
    if not isinstance(number, Decimal | int) or isinstance(number, bool):
        raise _refused(name, f"must be a Decimal, not a {type(number).__name__}")
    decimal = Decimal(number)
    if not decimal.is_finite() or (decimal and decimal.adjusted() >= MOST_WHOLE_DIGITS):
        raise _refused(name, f"must be finite and have at most {MOST_WHOLE_DIGITS} digits before the point")
    shifted = decimal.scaleb(DECIMALS, EXACT)
    whole = int(shifted)
    if whole != shifted:
        raise _refused(name, f"must have at most {DECIMALS} decimals")
    return whole


def _steps(model: PriceModel, exponent: int) -> tuple[Step, ...]:
    match model:
        case PerUnit(unit_minor=unit_minor, transform=transform):
            if transform is not None:
                _check_transform(transform)
            return (_only_step(unit_minor, "unit_minor"),)
        case Percentage(rate_pct=rate_pct):
            _amount(rate_pct, "rate_pct")
            # Of an amount in major units: a percent of 1 USD is 1 cent, of 1 JPY a hundredth of a yen.
            per_unit = rate_pct.scaleb(exponent - 2, EXACT)
            return (_only_step(per_unit, "rate_pct"),)
        case Graduated(tiers=tiers) | Volume(tiers=tiers):
            return _tier_steps(tiers)
        case _:
            assert_never(model)


def _only_step(unit_minor: Decimal, name: str) -> Step:
    return Step(0, 0, None, _amount(unit_minor, name), None, unit_minor, None)


def _tier_steps(tiers: Sequence[Tier]) -> tuple[Step, ...]:
    if not 1 <= len(tiers) <= MOST_TIERS:
        raise _refused("tiers", f"must have 1 to {MOST_TIERS} tiers, not {len(tiers)}")
    steps: list[Step] = []
    start = 0
    for number, tier in enumerate(tiers, start=1):
        place = f"tiers[{number - 1}]"
        end = None if tier.up_to is None else scaled(tier.up_to, f"{place}.up_to")
        if (end is None) != (number == len(tiers)):
            raise _refused(
                f"{place}.up_to",
                f"the last tier must have no end, not end at {tier.up_to}"
                if end is not None
                else "only the last tier may have no end",
            )
        if end is not None and end <= start:
            raise _refused(
                f"{place}.up_to", f"must be greater than where the tier before ends: tiers overlap at {tier.up_to}"
            )
        if tier.unit_minor is None and tier.flat_minor is None:
            raise _refused(f"{place}.unit_minor", "a tier needs a unit price, a flat price, or both")
        unit_minor = Decimal(0) if tier.unit_minor is None else tier.unit_minor
        unit = _amount(unit_minor, f"{place}.unit_minor")
        flat = None if tier.flat_minor is None else _amount(tier.flat_minor, f"{place}.flat_minor")
        steps.append(Step(number, start, end, unit, flat, unit_minor, tier.flat_minor))
        start = end if end is not None else start
    return tuple(steps)


def _check_transform(transform: Transform) -> None:
    size = transform.divide_by
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < 10**18:
        raise _refused("transform.divide_by", f"must be a whole number from 1, not {size}")
    if transform.round not in {"up", "down"}:
        raise _refused("transform.round", f"must be 'up' or 'down', not {transform.round!r:.40}")


def _amount(number: Decimal, name: str) -> int:
    whole = scaled(number, name)
    if whole < 0:
        raise _refused(name, f"must not be negative, not {number}")
    return whole


def _scaled_or_none(number: Decimal | None, name: str) -> int | None:
    return None if number is None else _amount(number, name)


def _refused(name: str, message: str) -> InvalidInput:
    return InvalidInput(f"{name}: {message}", field=name)
