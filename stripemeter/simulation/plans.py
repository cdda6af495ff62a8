"""Plans: what a customer subscribes to: fees, prices of usage, discounts, tax.

Belongs here: their documents, credit grants and commitments in the original's form. Does not: who is on which plan when
(`accounts`).

    {"name": "pro", "currency": "USD", "fees": [{"name": "base", "amount": 29, "cadence": "month"}],
     "usage": [{"metric": "api_calls", "priceConfig": {...}}], "taxRate": 8.5}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, get_args

from stripemeter.errors import InvalidInput
from stripemeter.metering.segments import Cadence
from stripemeter.pricing import CreditGrant, Discount, InvoiceInputs, MinimumCommitment, PrepaidCommitment, Price
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

PLAN = ("name", "currency", "fees", "usage", "discounts", "taxRate")
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
    discounts: tuple[Discount, ...]
    tax_pct: Decimal


def parse_plan(document: object, field: str) -> Plan:
    """The plan of a document.

    Raises:
        InvalidInput: it cannot be right; `field` is the path of what is wrong.
    """
    members = members_of(document, PLAN, field)
    name = parse_text(required(members, "name", field), within(field, "name"))
    currency = parse_currency(required(members, "currency", field), within(field, "currency"))
    listed = elements_of(members.get("fees", []), within(field, "fees"))
    fees = tuple(_parse_fee(fee, currency, f"{field}.fees[{number}]") for number, fee in enumerate(listed))
    usage = elements_of(members.get("usage", []), within(field, "usage"))
    if not fees and not usage:
        raise refused("needs fees or usage: a plan without either bills nothing", field)
    terms = _terms(
        [members_of(item, _USAGE, f"{field}.usage[{number}]") for number, item in enumerate(usage)],
        currency,
        {name: members[name] for name in ("discounts", "taxRate") if name in members},
        {"usageItems": f"{field}.usage", "discounts": f"{field}.discounts", "taxRate": f"{field}.taxRate"},
    )
    prices: dict[str, Price] = {}
    for number in range(len(usage)):
        item = terms.items[number]
        if item.price.currency != currency:
            raise refused(f"must be the plan's, {currency}", f"{field}.usage[{number}].priceConfig.currency")
        if item.metric in prices or item.metric in {fee.name for fee in fees}:
            raise refused(f"{item.metric!r} stands twice in the plan", f"{field}.usage[{number}].metric")
        prices[item.metric] = item.price
    return Plan(
        name=name, currency=currency, fees=fees, prices=prices, discounts=terms.discounts, tax_pct=terms.tax_pct
    )


def parse_price(document: object, field: str) -> tuple[str, Price]:
    """Metric and price of `{"metric", "priceConfig"}`."""
    members = members_of(document, _USAGE, field)
    terms = _terms([members], "USD", {}, {"usageItems[0]": field})
    return terms.items[0].metric, terms.items[0].price


def parse_grant(document: object, currency: str, field: str) -> CreditGrant:
    """A credit grant in the original's form; it needs a `reason`, by which it is known."""
    return _with_name(_of(document, "credits", currency, field).grants[0], "reason", field)


def parse_commitment(document: object, currency: str, field: str) -> PrepaidCommitment | MinimumCommitment:
    """A commitment in the original's form; it needs a `name`, by which it is known."""
    terms = _of(document, "commitments", currency, field)
    return _with_name((*terms.prepaid, *terms.minimums)[0], "name", field)


def _parse_fee(document: object, currency: str, field: str) -> Fee:
    members = members_of(document, _FEE, field)
    place = within(field, "amount")
    minor = to_minor(parse_number(required(members, "amount", field), place), currency)
    if minor != minor.to_integral_value() or minor < 0:
        raise refused(f"must be an amount of {currency}, not negative, not {plain(minor)} minor units", place)
    cadence = members.get("cadence", "month")
    if cadence not in get_args(Cadence):
        raise refused(f"must be one of {', '.join(get_args(Cadence))}, not {cadence!r:.40}", within(field, "cadence"))
    name = parse_text(required(members, "name", field), within(field, "name"))
    return Fee(name=name, amount_minor=int(minor), cadence=cadence)


def _of(document: object, member: str, currency: str, field: str) -> InvoiceInputs:
    metrics = document.get("metrics") if isinstance(document, Mapping) else None
    # An invoice refuses a minimum for usage it does not have; here nobody has any yet.
    named = metrics[0] if isinstance(metrics, list) and metrics else "usage"
    usage = [{"metric": named, "priceConfig": _free(currency)}]
    return _terms(
        usage, currency, {member: [document]}, {f"{member}[0]": field, "usageItems[0].metric": f"{field}.metrics[0]"}
    )


def _terms(
    usage: list[Mapping[str, Any]], currency: str, terms: Mapping[str, Any], places: Mapping[str, str]
) -> InvoiceInputs:
    """The original's terms as an invoice would read them; complaints at the places they have here."""
    items = [{**item, "quantity": 0} for item in usage] or [
        {"metric": "usage", "quantity": 0, "priceConfig": _free(currency)}
    ]
    period = {"customerId": "any", "periodStart": "2000-01-01", "periodEnd": "2000-02-01"}
    try:
        return parse_invoice_inputs({**period, "usageItems": items, **terms})
    except InvalidInput as error:
        raise _moved(error, places) from error


def _moved(error: InvalidInput, places: Mapping[str, str]) -> InvalidInput:
    for place, here in places.items():
        if error.field.startswith(place):
            path = here + error.field.removeprefix(place)
            return refused(str(error).removeprefix(f"{error.field}: "), path)
    return error


def _free(currency: str) -> dict[str, Any]:
    return {"model": "flat", "currency": currency, "unitPrice": 0}


def _with_name(terms: Any, member: str, field: str) -> Any:  # noqa: ANN401 - one of three kinds, which comes back
    if not terms.name:
        raise refused("is missing: it is known by it", within(field, member))
    return terms
