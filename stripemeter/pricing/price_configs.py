"""The original's `priceConfig`: reading it as a price, and writing a price as one.

Belongs here: camelCase names, major units, and what the original could not say (`packed`, `rate`, `version`). Does not:
whether a price can be right (`prices`), Stripe's form (`stripe_prices`).

    {"model": "graduated", "currency": "USD", "tiers": [{"upTo": 1000, "unitPrice": "0.05", "flatPrice": 50},
                                                        {"upTo": null, "unitPrice": "0.03"}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, assert_never

from stripemeter.pricing.currencies import parse_currency, to_major, to_minor
from stripemeter.pricing.prices import Graduated, Percentage, PerUnit, Price, PriceModel, Tier, Transform, Volume
from stripemeter.pricing.reading import (
    elements_of,
    members_of,
    naming,
    parse_number,
    parse_text,
    parse_whole,
    plain,
    refused,
    required,
    within,
)

_OF_EVERY_MODEL = ("model", "currency", "minimumCharge", "maximumCharge", "version")
_TRANSFORM = ("divideBy", "round")
_MODELS = {
    "flat": ("unitPrice", "transformQuantity"),
    "package": ("unitPrice", "packageSize"),
    "tiered": ("tiers",),
    "graduated": ("tiers",),
    "volume": ("tiers",),
    "percentage": ("ratePct",),
}
"""`flat` is a price per unit, `tiered` another word for `graduated`: the original's words."""
_THEIR_NAMES = {
    "up_to": "upTo",
    "unit_minor": "unitPrice",
    "flat_minor": "flatPrice",
    "minimum_minor": "minimumCharge",
    "maximum_minor": "maximumCharge",
    "transform.divide_by": "transformQuantity.divideBy",
    "transform.round": "transformQuantity.round",
    "rate_pct": "ratePct",
}


def parse_price_config(document: object, field: str = "") -> Price:
    """The price of a `priceConfig`; amounts in major units, as numbers or decimal strings.

    Raises:
        InvalidInput: it cannot be right; `field` is the path of what is wrong, below the given one.
    """
    every = {name for names in _MODELS.values() for name in names}
    model_name = required(members_of(document, (*_OF_EVERY_MODEL, *sorted(every)), field), "model", field)
    if not isinstance(model_name, str) or model_name not in _MODELS:
        raise refused(f"must be one of {', '.join(_MODELS)}, not {model_name!r:.40}", within(field, "model"))
    members = members_of(document, (*_OF_EVERY_MODEL, *_MODELS[model_name]), field)
    currency = parse_currency(required(members, "currency", field), within(field, "currency"))
    names = _THEIR_NAMES | ({"transform.divide_by": "packageSize"} if model_name == "package" else {})
    model = _parse_model(model_name, members, currency, field)
    least = _optional_amount(members, "minimumCharge", currency, field)
    most = _optional_amount(members, "maximumCharge", currency, field)
    version = parse_text(members.get("version", ""), within(field, "version"))
    with naming(field, names):
        return Price(currency=currency, model=model, minimum_minor=least, maximum_minor=most, version=version)


def to_price_config(price: Price) -> dict[str, Any]:
    """The `priceConfig` of a price: decimal strings, major units; `parse_price_config` reads the same price from it."""
    config = _model_config(price.model, price.currency) | {"currency": price.currency}
    for name, minor in (("minimumCharge", price.minimum_minor), ("maximumCharge", price.maximum_minor)):
        if minor is not None:
            config[name] = _major(minor, price.currency)
    return config | ({"version": price.version} if price.version else {})


def _parse_model(name: str, members: Mapping[str, Any], currency: str, field: str) -> PriceModel:
    if name == "percentage":
        return Percentage(rate_pct=parse_number(required(members, "ratePct", field), within(field, "ratePct")))
    if name in {"flat", "package"}:
        place = within(field, "unitPrice")
        unit = _in_minor(required(members, "unitPrice", field), currency, place)
        return PerUnit(unit_minor=unit, transform=_parse_transform(name, members, field))
    place = within(field, "tiers")
    tiers = tuple(
        _parse_tier(tier, currency, within(place, number))
        for number, tier in enumerate(elements_of(required(members, "tiers", field), place, least=1))
    )
    return Volume(tiers=tiers) if name == "volume" else Graduated(tiers=tiers)


def _parse_transform(model: str, members: Mapping[str, Any], field: str) -> Transform | None:
    if model == "package":
        size = parse_whole(required(members, "packageSize", field), within(field, "packageSize"))
        return Transform(divide_by=size, round="up")
    if "transformQuantity" not in members:
        return None
    place = within(field, "transformQuantity")
    transform = members_of(members["transformQuantity"], _TRANSFORM, place)
    size = parse_whole(required(transform, "divideBy", place), within(place, "divideBy"))
    return Transform(divide_by=size, round=required(transform, "round", place))


def _parse_tier(document: object, currency: str, field: str) -> Tier:
    members = members_of(document, ("upTo", "unitPrice", "flatPrice"), field)
    return Tier(
        up_to=parse_number(members["upTo"], within(field, "upTo")) if "upTo" in members else None,
        unit_minor=_optional_amount(members, "unitPrice", currency, field),
        flat_minor=_optional_amount(members, "flatPrice", currency, field),
    )


def _optional_amount(members: Mapping[str, Any], name: str, currency: str, field: str) -> Decimal | None:
    return _in_minor(members[name], currency, within(field, name)) if name in members else None


def _in_minor(document: object, currency: str, field: str) -> Decimal:
    number = parse_number(document, field)
    if not number.is_finite():
        raise refused(f"must be finite, not {number}", field)
    return to_minor(number, currency)


def _model_config(model: PriceModel, currency: str) -> dict[str, Any]:
    match model:
        case Percentage(rate_pct=rate_pct):
            return {"model": "percentage", "ratePct": plain(rate_pct)}
        case PerUnit(unit_minor=unit_minor, transform=None):
            return {"model": "flat", "unitPrice": _major(unit_minor, currency)}
        case PerUnit(unit_minor=unit_minor, transform=Transform(divide_by=size, round="up")):
            return {"model": "package", "unitPrice": _major(unit_minor, currency), "packageSize": size}
        case PerUnit(unit_minor=unit_minor, transform=Transform(divide_by=size, round=round_)):
            transform = {"divideBy": size, "round": round_}
            return {"model": "flat", "unitPrice": _major(unit_minor, currency), "transformQuantity": transform}
        case PerUnit():
            raise AssertionError("a transform rounds up or down")
        case Graduated(tiers=tiers):
            return {"model": "graduated", "tiers": [_tier_config(tier, currency) for tier in tiers]}
        case Volume(tiers=tiers):
            return {"model": "volume", "tiers": [_tier_config(tier, currency) for tier in tiers]}
        case _:
            assert_never(model)


def _tier_config(tier: Tier, currency: str) -> dict[str, Any]:
    config: dict[str, Any] = {"upTo": None if tier.up_to is None else plain(tier.up_to)}
    if tier.unit_minor is not None:
        config["unitPrice"] = _major(tier.unit_minor, currency)
    if tier.flat_minor is not None:
        config["flatPrice"] = _major(tier.flat_minor, currency)
    return config


def _major(minor: Decimal, currency: str) -> str:
    return plain(to_major(minor, currency))
