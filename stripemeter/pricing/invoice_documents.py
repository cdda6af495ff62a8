"""The original's documents: reading the inputs of an invoice, and writing them.

Belongs here: camelCase names, major units, dates. Does not: what the terms mean (`contracts`), prices
(`price_configs`).

    {"customerId": "c", "periodStart": "2026-01-01", "periodEnd": "2026-02-01",
     "usageItems": [{"metric": "calls", "quantity": 25000, "priceConfig": {...}}],
     "commitments": [{"amount": 100, "startDate": "2026-01-01", "endDate": "2026-12-31", "applied": 20}],
     "credits": [{"amount": 10, "reason": "promo"}], "taxRate": 8.5}

Numbers are numbers or decimal strings; written ones are strings, in plain notation.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from stripemeter.pricing.contracts import (
    DEFAULT_PRIORITY,
    CreditGrant,
    Discount,
    InvoiceInputs,
    MinimumCommitment,
    PrepaidCommitment,
    UsageItem,
)
from stripemeter.pricing.currencies import exponent_of, parse_currency, to_minor
from stripemeter.pricing.invoice_writing import amount_text
from stripemeter.pricing.price_configs import parse_price_config, to_price_config
from stripemeter.pricing.reading import (
    elements_of,
    instant_text,
    members_of,
    naming,
    parse_instant,
    parse_number,
    parse_text,
    parse_whole,
    plain,
    refused,
    required,
    within,
)

_INPUTS = (
    "customerId",
    "periodStart",
    "periodEnd",
    "usageItems",
    "discounts",
    "commitments",
    "credits",
    "taxRate",
)
_ITEM = ("metric", "quantity", "priceConfig", "isMetered")
_DISCOUNT = ("name", "percentOff", "amountOff", "metrics")
_PREPAID = ("kind", "name", "amount", "currency", "startDate", "endDate", "applied")
_MINIMUM = ("kind", "name", "amount", "currency", "metrics")
_CREDIT = (
    "reason",
    "amount",
    "currency",
    "applied",
    "priority",
    "category",
    "effectiveAt",
    "expiresAt",
    "createdAt",
    "metrics",
)
_THEIR_NAMES = {
    "period_start": "periodStart",
    "period_end": "periodEnd",
    "items": "usageItems",
    "price": "priceConfig",
    "tax_pct": "taxRate",
    "grants": "credits",
    "amount_minor": "amount",
    "applied_minor": "applied",
    "percent_off": "percentOff",
    "amount_off_minor": "amountOff",
    "starts_at": "startDate",
    "ends_at": "endDate",
    "effective_at": "effectiveAt",
    "expires_at": "expiresAt",
    "created_at": "createdAt",
}


def parse_invoice_inputs(document: object, field: str = "") -> InvoiceInputs:
    """The inputs of an invoice, read from the original's form.

    Args:
        document: decoded JSON or YAML, or a dict written in Python.
        field: the path of the document in a greater one.

    Raises:
        InvalidInput: something is missing, unknown or cannot be right; `field` is its path.
    """
    members = members_of(document, _INPUTS, field)
    place = within(field, "usageItems")
    items = tuple(
        _parse_item(item, within(place, number))
        for number, item in enumerate(elements_of(required(members, "usageItems", field), place, least=1))
    )
    currency = items[0].price.currency
    customer_id = parse_text(required(members, "customerId", field), within(field, "customerId"))
    period_start = parse_instant(required(members, "periodStart", field), within(field, "periodStart"))
    period_end = parse_instant(required(members, "periodEnd", field), within(field, "periodEnd"))
    discounts = tuple(_parse_discount(*at, currency) for at in _elements(members, "discounts", field))
    prepaid, minimums, names = _parse_commitments(members, currency, field)
    grants = tuple(_parse_credit(*at, currency) for at in _elements(members, "credits", field))
    tax_pct = parse_number(members.get("taxRate", 0), within(field, "taxRate"))
    with naming(field, _THEIR_NAMES | names):
        return InvoiceInputs(
            customer_id=customer_id,
            period_start=period_start,
            period_end=period_end,
            items=items,
            discounts=discounts,
            prepaid=prepaid,
            minimums=minimums,
            grants=grants,
            tax_pct=tax_pct,
        )


def inputs_document(inputs: InvoiceInputs) -> dict[str, Any]:
    """The inputs in the original's form; `parse_invoice_inputs` reads the same inputs from it."""
    return {
        "customerId": inputs.customer_id,
        "periodStart": _text(inputs.period_start),
        "periodEnd": _text(inputs.period_end),
        "usageItems": [
            {
                "metric": item.metric,
                "quantity": plain(item.quantity),
                "priceConfig": to_price_config(item.price),
                "isMetered": item.is_metered,
            }
            for item in inputs.items
        ],
        "discounts": [_discount_document(discount, inputs.currency) for discount in inputs.discounts],
        "commitments": [_prepaid_document(prepaid) for prepaid in inputs.prepaid]
        + [_minimum_document(minimum) for minimum in inputs.minimums],
        "credits": [_credit_document(grant) for grant in inputs.grants],
        "taxRate": plain(inputs.tax_pct),
    }


def _parse_item(document: object, field: str) -> UsageItem:
    members = members_of(document, _ITEM, field)
    return UsageItem(
        metric=parse_text(required(members, "metric", field), within(field, "metric")),
        quantity=parse_number(required(members, "quantity", field), within(field, "quantity")),
        price=parse_price_config(required(members, "priceConfig", field), within(field, "priceConfig")),
        is_metered=_parse_flag(members.get("isMetered", True), within(field, "isMetered")),
    )


def _parse_discount(document: object, field: str, currency: str) -> Discount:
    members = members_of(document, _DISCOUNT, field)
    percent = members.get("percentOff")
    return Discount(
        name=parse_text(members.get("name", ""), within(field, "name")),
        percent_off=None if percent is None else parse_number(percent, within(field, "percentOff")),
        amount_off_minor=_money(members, "amountOff", currency, field) if "amountOff" in members else None,
        metrics=_parse_metrics(members, field),
    )


def _parse_commitments(
    members: Mapping[str, Any], currency: str, field: str
) -> tuple[tuple[PrepaidCommitment, ...], tuple[MinimumCommitment, ...], dict[str, str]]:
    """The commitments of each kind, and which element of the one list each was."""
    prepaid: list[PrepaidCommitment] = []
    minimums: list[MinimumCommitment] = []
    names: dict[str, str] = {}
    for number, (document, place) in enumerate(_elements(members, "commitments", field)):
        kind = members_of(document, sorted({*_PREPAID, *_MINIMUM}), place).get("kind", "prepaid")
        if kind == "prepaid":
            names[f"prepaid[{len(prepaid)}]"] = f"commitments[{number}]"
            prepaid.append(_parse_prepaid(document, place, currency))
        elif kind == "minimum":
            names[f"minimums[{len(minimums)}]"] = f"commitments[{number}]"
            minimums.append(_parse_minimum(document, place, currency))
        else:
            raise refused(f"must be prepaid or minimum, not {kind!r:.40}", within(place, "kind"))
    return tuple(prepaid), tuple(minimums), names


def _parse_prepaid(document: object, field: str, invoice_currency: str) -> PrepaidCommitment:
    members = members_of(document, _PREPAID, field)
    currency = parse_currency(members.get("currency", invoice_currency), within(field, "currency"))
    return PrepaidCommitment(
        amount_minor=_money(members, "amount", currency, field),
        currency=currency,
        applied_minor=_money(members, "applied", currency, field) if "applied" in members else 0,
        starts_at=_instant(members, "startDate", field),
        ends_at=_instant(members, "endDate", field),
        name=parse_text(members.get("name", ""), within(field, "name")),
    )


def _parse_minimum(document: object, field: str, invoice_currency: str) -> MinimumCommitment:
    members = members_of(document, _MINIMUM, field)
    currency = parse_currency(members.get("currency", invoice_currency), within(field, "currency"))
    return MinimumCommitment(
        amount_minor=_money(members, "amount", currency, field),
        currency=currency,
        metrics=_parse_metrics(members, field),
        name=parse_text(members.get("name", ""), within(field, "name")),
    )


def _parse_credit(document: object, field: str, invoice_currency: str) -> CreditGrant:
    members = members_of(document, _CREDIT, field)
    currency = parse_currency(members.get("currency", invoice_currency), within(field, "currency"))
    return CreditGrant(
        amount_minor=_money(members, "amount", currency, field),
        currency=currency,
        applied_minor=_money(members, "applied", currency, field) if "applied" in members else 0,
        priority=parse_whole(members.get("priority", DEFAULT_PRIORITY), within(field, "priority")),
        category=members.get("category", "promotional"),
        effective_at=_instant(members, "effectiveAt", field),
        expires_at=_instant(members, "expiresAt", field),
        created_at=_instant(members, "createdAt", field),
        metrics=_parse_metrics(members, field),
        name=parse_text(members.get("reason", ""), within(field, "reason")),
    )


def _elements(members: Mapping[str, Any], name: str, field: str) -> list[tuple[object, str]]:
    place = within(field, name)
    return [
        (element, within(place, number)) for number, element in enumerate(elements_of(members.get(name, []), place))
    ]


def _parse_metrics(members: Mapping[str, Any], field: str) -> tuple[str, ...] | None:
    if "metrics" not in members:
        return None
    place = within(field, "metrics")
    metrics = elements_of(members["metrics"], place, least=1)
    return tuple(parse_text(metric, within(place, number)) for number, metric in enumerate(metrics))


def _parse_flag(document: object, field: str) -> bool:
    if not isinstance(document, bool):
        raise refused(f"must be true or false, not {document!r:.40}", field)
    return document


def _instant(members: Mapping[str, Any], name: str, field: str) -> datetime | None:
    return parse_instant(members[name], within(field, name)) if name in members else None


def _money(members: Mapping[str, Any], name: str, currency: str, field: str) -> int:
    """Minor units of an amount somebody owes or owns, which is whole and not negative."""
    place = within(field, name)
    number = parse_number(required(members, name, field), place)
    if not number.is_finite() or not 0 <= number < 10**24:
        raise refused(f"must not be negative, and have at most 24 digits, not {number!s:.40}", place)
    if number != round(number, exponent_of(currency)):
        raise refused(f"{currency} has {exponent_of(currency)} decimals: {number!s:.40} is no amount of it", place)
    return int(to_minor(number, currency))


def _discount_document(discount: Discount, currency: str) -> dict[str, Any]:
    document: dict[str, Any] = {"name": discount.name, "metrics": _listed(discount.metrics)}
    if discount.percent_off is not None:
        document["percentOff"] = plain(discount.percent_off)
    if discount.amount_off_minor is not None:
        document["amountOff"] = amount_text(discount.amount_off_minor, currency)
    return document


def _prepaid_document(prepaid: PrepaidCommitment) -> dict[str, Any]:
    currency = prepaid.currency.upper()
    return {
        "kind": "prepaid",
        "name": prepaid.name,
        "amount": amount_text(prepaid.amount_minor, currency),
        "currency": currency,
        "applied": amount_text(prepaid.applied_minor, currency),
        "startDate": _text(prepaid.starts_at),
        "endDate": _text(prepaid.ends_at),
    }


def _minimum_document(minimum: MinimumCommitment) -> dict[str, Any]:
    currency = minimum.currency.upper()
    return {
        "kind": "minimum",
        "name": minimum.name,
        "amount": amount_text(minimum.amount_minor, currency),
        "currency": currency,
        "metrics": _listed(minimum.metrics),
    }


def _credit_document(grant: CreditGrant) -> dict[str, Any]:
    currency = grant.currency.upper()
    return {
        "reason": grant.name,
        "amount": amount_text(grant.amount_minor, currency),
        "currency": currency,
        "applied": amount_text(grant.applied_minor, currency),
        "priority": grant.priority,
        "category": grant.category,
        "effectiveAt": _text(grant.effective_at),
        "expiresAt": _text(grant.expires_at),
        "createdAt": _text(grant.created_at),
        "metrics": _listed(grant.metrics),
    }


def _listed(metrics: tuple[str, ...] | None) -> list[str] | None:
    return None if metrics is None else list(metrics)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant_text(instant)
