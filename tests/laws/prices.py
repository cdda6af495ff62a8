"""Prices, quantities and contracts at random, for the laws of pricing.

Belongs here: drawing what is likely to go wrong: ties, bounds and their neighbours, free tiers, the largest quantities.
Does not: what must hold of them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

from stripemeter.pricing import (
    CreditGrant,
    Discount,
    Graduated,
    InvoiceInputs,
    MinimumCommitment,
    Percentage,
    PerUnit,
    PrepaidCommitment,
    Price,
    Rounding,
    Tier,
    Transform,
    UsageItem,
    Volume,
)

ROUNDINGS: tuple[Rounding, ...] = ("half_up", "half_even", "ceiling")
_LEAST = Decimal("0.000000000001")
_START = datetime(2026, 1, 1, tzinfo=UTC)


def draw_price(random: Random, *, currency: str | None = None, sellable_at_stripe: bool = False) -> Price:
    """A price that can be right; at Stripe there are no percentages, bounds of the charge or fractional tiers."""
    kinds = ["per_unit", "package", "graduated", "volume", "graduated", "volume"]
    kind = random.choice(kinds if sellable_at_stripe else [*kinds, "percentage"])
    model: PerUnit | Percentage | Graduated | Volume
    if kind == "per_unit":
        model = PerUnit(unit_minor=_amount(random))
    elif kind == "package":
        size = random.choice([1, 3, 4, 60, 1_000])
        model = PerUnit(
            unit_minor=_amount(random), transform=Transform(divide_by=size, round=random.choice(["up", "down"]))
        )
    elif kind == "percentage":
        model = Percentage(rate_pct=Decimal(random.randrange(0, 10_000)).scaleb(-random.randrange(5)))
    else:
        tiers = _tiers(random, whole_bounds=sellable_at_stripe)
        model = Graduated(tiers=tiers) if kind == "graduated" else Volume(tiers=tiers)
    least = None if sellable_at_stripe or random.random() < 0.7 else _amount(random)
    most = None if sellable_at_stripe or random.random() < 0.7 else (least or Decimal(0)) + _amount(random)
    currency = currency or random.choice(["USD", "JPY", "KWD"])
    return Price(
        currency=currency, model=model, minimum_minor=least, maximum_minor=most, version=random.choice(["", "p1"])
    )


def draw_quantity(random: Random, price: Price) -> Decimal:
    """A quantity: small, fractional, negative, huge, or a bound of the price and its neighbours."""
    tiers = price.model.tiers if isinstance(price.model, Graduated | Volume) else ()
    bounds = [tier.up_to for tier in tiers if tier.up_to is not None]
    kind = random.randrange(6)
    if kind == 0 and bounds:
        return random.choice(bounds) + random.choice([-1, 0, 1]) * random.choice([Decimal(1), _LEAST])
    if kind == 1:
        return Decimal(random.randrange(-5, 3))
    if kind == 2:
        return Decimal(random.randrange(10 ** random.randrange(1, 38))).scaleb(-12)
    if kind == 3:
        return Decimal(random.randrange(5_000)).scaleb(-random.randrange(4))
    return Decimal(random.randrange(5_000))


def draw_inputs(random: Random) -> InvoiceInputs:
    """The inputs of an invoice of one currency, with terms that overlap and terms that do not concern it."""
    currency = random.choice(["USD", "JPY", "KWD"])
    items = tuple(
        UsageItem(
            metric=random.choice("abc"),
            quantity=Decimal(random.randrange(3_000)).scaleb(-random.randrange(3)),
            price=draw_price(random, currency=currency),
            is_metered=random.random() < 0.8,
        )
        for _ in range(random.randrange(1, 4))
    )
    metrics = sorted({item.metric for item in items})
    return InvoiceInputs(
        customer_id="ada",
        period_start=_START,
        period_end=_START + timedelta(days=31),
        items=items,
        discounts=tuple(_discount(random, metrics) for _ in range(random.randrange(3))),
        prepaid=tuple(_prepaid(random, currency) for _ in range(random.choice([0, 0, 1, 2]))),
        minimums=tuple(
            MinimumCommitment(
                amount_minor=random.randrange(8_000),
                currency=currency,
                metrics=_scope(random, metrics),
                name=random.choice(["", "base"]),
            )
            for _ in range(random.choice([0, 0, 1, 2]))
        ),
        grants=tuple(_grant(random, metrics, currency) for _ in range(random.randrange(4))),
        tax_pct=Decimal(random.choice(["0", "8.5", "19", "0.036"])),
    )


def _prepaid(random: Random, currency: str) -> PrepaidCommitment:
    has_ended = random.random() < 0.2
    return PrepaidCommitment(
        amount_minor=random.randrange(5_000),
        currency=_currency(random, currency),
        applied_minor=random.choice([0, 0, random.randrange(6_000)]),
        starts_at=_instant(random, -500, -250) if has_ended else _instant(random, -200, 40),
        ends_at=_instant(random, -200, 0) if has_ended else _instant(random, 41, 90),
    )


def _grant(random: Random, metrics: list[str], currency: str) -> CreditGrant:
    return CreditGrant(
        amount_minor=random.randrange(3_000),
        currency=_currency(random, currency),
        applied_minor=random.choice([0, 0, random.randrange(4_000)]),
        priority=random.choice([0, 50, 50, 100]),
        category=random.choice(["promotional", "paid"]),
        effective_at=_instant(random, -20, 40),
        expires_at=_instant(random, 41, 90),
        created_at=_instant(random, -20, 0),
        metrics=_scope(random, metrics),
    )


def _discount(random: Random, metrics: list[str]) -> Discount:
    if random.random() < 0.5:
        return Discount(percent_off=Decimal(random.randrange(1, 1_001)).scaleb(-1), metrics=_scope(random, metrics))
    return Discount(amount_off_minor=random.randrange(2_000), metrics=_scope(random, metrics))


def _tiers(random: Random, *, whole_bounds: bool) -> tuple[Tier, ...]:
    bounds: list[Decimal] = []
    for _ in range(random.randrange(4)):
        step = Decimal(random.choice([1, 5, 10, 1_000]))
        if not whole_bounds and random.random() < 0.2:
            step = Decimal(random.randrange(1, 50)).scaleb(-random.choice([1, 12]))
        bounds.append((bounds[-1] if bounds else Decimal(0)) + step)
    return tuple(_tier(random, up_to) for up_to in (*bounds, None))


def _tier(random: Random, up_to: Decimal | None) -> Tier:
    """A tier; now and then one of a flat amount only, which Stripe has."""
    flat = random.choice([None, None, Decimal(0), _amount(random)])
    unit = None if flat is not None and random.random() < 0.1 else _amount(random)
    return Tier(up_to=up_to, unit_minor=unit, flat_minor=flat)


def _amount(random: Random) -> Decimal:
    kind = random.randrange(4)
    if kind == 0:
        return Decimal(random.choice(["0", "0.5", "0.05", "3.6", "2.5"]))
    if kind == 1:
        return Decimal(random.randrange(10**15)).scaleb(-12)
    return Decimal(random.randrange(1_000)).scaleb(-random.randrange(4))


def _currency(random: Random, currency: str) -> str:
    return currency if random.random() < 0.8 else "EUR"


def _scope(random: Random, metrics: list[str]) -> tuple[str, ...] | None:
    return None if random.random() < 0.6 else (random.choice(metrics),)


def _instant(random: Random, first_day: int, last_day: int) -> datetime | None:
    return None if random.random() < 0.3 else _START + timedelta(days=random.randrange(first_day, last_day))
