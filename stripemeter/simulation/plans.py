"""Plans: what a customer subscribes to: fees and prices of usage; and the terms of a contract.

Belongs here: their documents; credit grants, commitments and discounts in the original's form. Does not: who is on
which plan when (`accounts`).

    {"name": "pro", "currency": "USD", "fees": [{"name": "base", "amount": 29, "cadence": "month"}],
     "usage": [{"metric": "api_calls", "priceConfig": {...}}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from stripemeter.errors import InvalidInput
from stripemeter.metering.segments import Cadence
from stripemeter.pricing import (
    CreditGrant,
    Discount,
    InvoiceInputs,
    MinimumCommitment,
    PrepaidCommitment,
    Price,
    parse_price_config,
)
from stripemeter.pricing.currencies import parse_currency, to_minor
from stripemeter.pricing.invoice_documents import parse_invoice_inputs
from stripemeter.pricing.reading import (
    elements_of,
    members_of,
    parse_number,
    parse_text,
    plain,
    refused,
    required,
    within,
)

_PLAN = ("name", "currency", "fees", "usage")
_FEE = ("name", "amount", "cadence")
_USAGE = ("metric", "priceConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fee:
    """A fixed amount for each of its own periods, owed for the time it is held."""

    name: str
    amount_minor: int
    cadence: Cadence


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What somebody on it owes; `prices` by metric."""

    name: str
    currency: str
    fees: tuple[Fee, ...]
    prices: Mapping[str, Price]


def parse_plan(document: object, field: str) -> Plan:
    """The plan of a document.

    Raises:
        InvalidInput: it cannot be right; `field` is the path of what is wrong.
    """
    members = members_of(document, _PLAN, field)
    name = parse_name(required(members, "name", field), within(field, "name"))
    currency = parse_currency(required(members, "currency", field), within(field, "currency"))
    fees: dict[str, Fee] = {}
    for number, element in enumerate(elements_of(members.get("fees", []), within(field, "fees"))):
        fee = _parse_fee(element, currency, f"{field}.fees[{number}]")
        if fee.name in fees:
            raise refused(f"{fee.name!r} stands twice in the plan", f"{field}.fees[{number}].name")
        fees[fee.name] = fee
    prices: dict[str, Price] = {}
    for number, element in enumerate(elements_of(members.get("usage", []), within(field, "usage"))):
        place = f"{field}.usage[{number}]"
        metric, price = parse_price(element, currency, place)
        if metric in prices or metric in fees:
            raise refused(f"{metric!r} stands twice in the plan", f"{place}.metric")
        prices[metric] = price
    if not fees and not prices:
        raise refused("needs fees or usage: a plan without either bills nothing", field)
    return Plan(name=name, currency=currency, fees=tuple(fees.values()), prices=prices)


def parse_price(document: object, currency: str, field: str) -> tuple[str, Price]:
    """Metric and price of `{"metric", "priceConfig"}`."""
    members = members_of(document, _USAGE, field)
    metric = parse_name(required(members, "metric", field), within(field, "metric"))
    place = within(field, "priceConfig")
    price = parse_price_config(required(members, "priceConfig", field), place)
    if price.currency != currency:
        raise refused(f"must be the plan's, {currency}", within(place, "currency"))
    return metric, price


def parse_grant(document: object, currency: str, field: str) -> CreditGrant:
    """A credit grant in the original's form; it needs a `reason`, by which it is known."""
    grant = _terms("credits", document, currency, field).grants[0]
    parse_name(grant.name, within(field, "reason"))
    return grant


def parse_commitment(document: object, currency: str, field: str) -> PrepaidCommitment | MinimumCommitment:
    """A commitment in the original's form; it needs a `name`, by which it is known."""
    terms = _terms("commitments", document, currency, field)
    commitment = terms.prepaid[0] if terms.prepaid else terms.minimums[0]
    parse_name(commitment.name, within(field, "name"))
    return commitment


def parse_discount(document: object, currency: str, field: str) -> Discount:
    """A discount in the form of the invoice's."""
    return _terms("discounts", document, currency, field).discounts[0]


def parse_name(document: object, field: str) -> str:
    """A name of 1 to 100 characters."""
    name = parse_text(document, field)
    if not 1 <= len(name) <= 100:
        raise refused(f"must have 1 to 100 characters, not {len(name)}: it is known by it", field)
    return name


def _parse_fee(document: object, currency: str, field: str) -> Fee:
    members = members_of(document, _FEE, field)
    place = within(field, "amount")
    number = parse_number(required(members, "amount", field), place)
    minor = to_minor(number, currency)
    if minor != minor.to_integral_value() or not 0 <= minor < 10**24:
        raise refused(f"must be an amount of {currency}, not negative, not {plain(number)}", place)
    cadence = members.get("cadence", "month")
    if cadence not in get_args(Cadence):
        raise refused(f"must be one of {', '.join(get_args(Cadence))}, not {cadence!r:.40}", within(field, "cadence"))
    name = parse_name(required(members, "name", field), within(field, "name"))
    return Fee(name=name, amount_minor=int(minor), cadence=cadence)


def _terms(member: str, document: object, currency: str, field: str) -> InvoiceInputs:
    """Terms as an invoice would read them; complaints at the places they have here."""
    metrics = document.get("metrics") if isinstance(document, Mapping) else None
    # An invoice refuses a minimum for usage it does not have; here nobody has any yet.
    named = metrics[0] if isinstance(metrics, list) and metrics and isinstance(metrics[0], str) else "usage"
    free = {"model": "flat", "currency": currency, "unitPrice": 0}
    inputs: dict[str, Any] = {
        "customerId": "any",
        "periodStart": "2000-01-01",
        "periodEnd": "2000-02-01",
        "usageItems": [{"metric": named, "quantity": 0, "priceConfig": free}],
        member: [document],
    }
    try:
        return parse_invoice_inputs(inputs)
    except InvalidInput as error:
        here = field + error.field.removeprefix(f"{member}[0]")
        if error.field.startswith("usageItems"):
            here = within(field, "metrics[0]")
        raise refused(str(error).removeprefix(f"{error.field}: "), here) from error
