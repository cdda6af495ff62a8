"""Stripe's Price object: reading one as a price, and writing the members that make a price.

Belongs here: which of Stripe's members say what is charged. Does not: asking Stripe (`stripemeter.billing`), whether a
price can be right (`prices`).

Source: Stripe API, Price: `unit_amount_decimal` and `flat_amount_decimal` hold at most 12 decimals of a minor unit;
tiers are in an answer only when asked for (`expand[]=tiers`); the last tier's `up_to` is null in answers, `inf` in
requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, assert_never

from stripemeter.pricing.currencies import parse_currency
from stripemeter.pricing.prices import Graduated, Percentage, PerUnit, Price, PriceModel, Tier, Transform, Volume
from stripemeter.pricing.reading import (
    elements_of,
    naming,
    parse_number,
    parse_text,
    parse_whole,
    plain,
    refused,
    required,
    within,
)

_THEIR_NAMES = {
    "unit_minor": "unit_amount_decimal",
    "flat_minor": "flat_amount_decimal",
    "transform.divide_by": "transform_quantity.divide_by",
    "transform.round": "transform_quantity.round",
}


def price_from_stripe(document: object, field: str = "") -> Price:
    """The price of a Stripe Price, with its id as version. Members that do not say what is charged are not looked at.

    Raises:
        InvalidInput: its amount is the customer's choice, its tiers were not expanded, or it cannot be right.
    """
    if not isinstance(document, Mapping):
        raise refused(f"must be a Price object, not a {type(document).__name__}", field)
    if document.get("custom_unit_amount") is not None:
        raise refused(
            "the customer chooses the amount: there is no price to compute", within(field, "custom_unit_amount")
        )
    members = {name: value for name, value in document.items() if value is not None}
    currency = parse_currency(required(members, "currency", field), within(field, "currency"))
    version = parse_text(members.get("id", ""), within(field, "id"))
    model = _parse_model(members, field)
    with naming(field, _THEIR_NAMES):
        return Price(currency=currency, model=model, version=version)


def price_to_stripe(price: Price) -> dict[str, Any]:
    """The members of a Stripe Price that say what is charged, as Stripe answers them.

    `price_from_stripe` reads the same price from it.

    Raises:
        InvalidInput: Stripe's Price cannot say it: a percentage, a minimum or maximum charge, a bound with a fraction.
    """
    for name, minor in (("minimum_minor", price.minimum_minor), ("maximum_minor", price.maximum_minor)):
        if minor is not None:
            raise refused("a Stripe Price has no minimum or maximum charge", name)
    document = _model_members(price.model) | {"currency": price.currency.lower()}
    return document | ({"id": price.version} if price.version else {})


def _parse_model(members: Mapping[str, Any], field: str) -> PriceModel:
    scheme = members.get("billing_scheme", "per_unit")
    if scheme == "per_unit":
        return PerUnit(unit_minor=_unit_amount(members, field), transform=_parse_transform(members, field))
    if scheme != "tiered":
        raise refused(f"must be per_unit or tiered, not {scheme!r:.40}", within(field, "billing_scheme"))
    place = within(field, "tiers")
    if "tiers" not in members:
        raise refused("is missing: ask Stripe for the price with expand[]=tiers", place)
    tiers = tuple(
        _parse_tier(tier, within(place, number)) for number, tier in enumerate(elements_of(members["tiers"], place))
    )
    mode = members.get("tiers_mode")
    if mode == "graduated":
        return Graduated(tiers=tiers)
    if mode == "volume":
        return Volume(tiers=tiers)
    raise refused(f"must be graduated or volume, not {mode!r:.40}", within(field, "tiers_mode"))


def _parse_transform(members: Mapping[str, Any], field: str) -> Transform | None:
    transform = members.get("transform_quantity")
    if transform is None:
        return None
    place = within(field, "transform_quantity")
    if not isinstance(transform, Mapping):
        raise refused(f"must be an object, not a {type(transform).__name__}", place)
    size = parse_whole(required(transform, "divide_by", place), within(place, "divide_by"))
    return Transform(divide_by=size, round=required(transform, "round", place))


def _parse_tier(document: object, field: str) -> Tier:
    if not isinstance(document, Mapping):
        raise refused(f"must be an object, not a {type(document).__name__}", field)
    up_to = document.get("up_to")
    return Tier(
        up_to=None if up_to is None or up_to == "inf" else parse_number(up_to, within(field, "up_to")),
        unit_minor=_amount(document, "unit_amount", field),
        flat_minor=_amount(document, "flat_amount", field),
    )


def _unit_amount(members: Mapping[str, Any], field: str) -> Decimal:
    amount = _amount(members, "unit_amount", field)
    if amount is None:
        raise refused("is missing", within(field, "unit_amount_decimal"))
    return amount


def _amount(members: Mapping[str, Any], name: str, field: str) -> Decimal | None:
    """The amount of `name`: its decimal form where there is one, else the whole one; None without any.

    Raises:
        InvalidInput: both are there and differ.
    """
    whole, exact = members.get(name), members.get(f"{name}_decimal")
    if exact is None:
        return None if whole is None else Decimal(parse_whole(whole, within(field, name)))
    number = parse_number(exact, within(field, f"{name}_decimal"))
    if whole is not None and number != parse_whole(whole, within(field, name)):
        raise refused(f"is {plain(number)}, but {name} is {whole}", within(field, f"{name}_decimal"))
    return number


def _model_members(model: PriceModel) -> dict[str, Any]:
    match model:
        case PerUnit(unit_minor=unit_minor, transform=transform):
            packing = None if transform is None else {"divide_by": transform.divide_by, "round": transform.round}
            amounts = _amount_members("unit_amount", unit_minor)
            return {"billing_scheme": "per_unit", **amounts, "transform_quantity": packing}
        case Graduated(tiers=tiers):
            return {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": _tier_members(tiers)}
        case Volume(tiers=tiers):
            return {"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": _tier_members(tiers)}
        case Percentage():
            raise refused("a Stripe Price has no percentage", "model")
        case _:
            assert_never(model)


def _tier_members(tiers: tuple[Tier, ...]) -> list[dict[str, Any]]:
    return [
        {
            "up_to": _bound(tier.up_to, f"tiers[{number}].up_to"),
            **_amount_members("unit_amount", tier.unit_minor),
            **_amount_members("flat_amount", tier.flat_minor),
        }
        for number, tier in enumerate(tiers)
    ]


def _bound(up_to: Decimal | None, field: str) -> int | None:
    if up_to is None:
        return None
    if up_to != int(up_to):
        raise refused(f"Stripe's tiers end at whole units, not at {up_to}", field)
    return int(up_to)


def _amount_members(name: str, amount: Decimal | None) -> dict[str, Any]:
    """Both forms, as Stripe answers: the whole one is null for an amount with a fraction."""
    if amount is None:
        return {name: None, f"{name}_decimal": None}
    return {name: int(amount) if amount == int(amount) else None, f"{name}_decimal": plain(amount)}
