"""Plans as code: what one customer is charged each billing period, as a document that can be read, kept and compared.

Belongs here: the document of a plan, the refusal of a plan that cannot be right, the invoice it makes of a period.
Does not: a metric's price (`price_configs`), what two plans differ in (`plan_diffs`), many customers (`plan_frames`).

    name: usage
    currency: USD
    metrics:
      api_calls: {model: graduated, tiers: [{upTo: 1000, unitPrice: 0.05}, {unitPrice: 0.03}]}
    fees: [{name: platform, amount: 49}]
    minimums: [{name: floor, amount: 100, metrics: [api_calls]}]
    free: [page_views]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from stripemeter.errors import InvalidInput
from stripemeter.pricing.contracts import InvoiceInputs, MinimumCommitment, UsageItem, concerns
from stripemeter.pricing.currencies import parse_currency, to_major, to_minor
from stripemeter.pricing.price_configs import parse_price_config, to_price_config
from stripemeter.pricing.prices import PerUnit, Price
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

_MEMBERS = ("name", "currency", "metrics", "fees", "minimums", "free")
_MOST_NAME = 100
"""Characters of a metric and of a fee: those of an invoice item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fee:
    """An amount charged each billing period, usage or none."""

    name: str
    amount_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a customer is charged each billing period.

    Args:
        name: for reports.
        currency: of every amount, upper case.
        metrics: the price of each metric, at least one metric or fee.
        fees: by name, no name twice and none that is a metric's.
        minimums: each owed by itself, as those of an invoice.
        free: metrics that cost nothing on purpose; any other metric without a price is named in reports.

    Raises:
        InvalidInput: it cannot be right; `field` is the path of what is wrong.
    """

    name: str
    currency: str
    metrics: Mapping[str, Price]
    fees: tuple[Fee, ...] = ()
    minimums: tuple[MinimumCommitment, ...] = ()
    free: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not self.metrics and not self.fees:
            raise refused("a plan needs a metric or a fee: nothing would ever be charged", "metrics")
        for metric, price in self.metrics.items():
            if price.currency != self.currency:
                raise refused(f"is {price.currency}, but the plan is in {self.currency}", f"metrics.{metric}.currency")
        _check_names(self)


def parse_plan(document: object, field: str = "") -> Plan:
    """The plan of a document; amounts in major units, as numbers or decimal strings.

    Args:
        document: plain values, as a YAML or JSON file holds them.
        field: where it stands, for complaints.

    Raises:
        InvalidInput: it cannot be right; `field` is the path of what is wrong, below the given one.
    """
    members = members_of(document, _MEMBERS, field)
    name = _parse_name(required(members, "name", field), within(field, "name"))
    currency = parse_currency(required(members, "currency", field), within(field, "currency"))
    try:
        return Plan(
            name=name,
            currency=currency,
            metrics=_parse_metrics(members.get("metrics", {}), currency, within(field, "metrics")),
            fees=_parse_fees(members.get("fees", ()), currency, within(field, "fees")),
            minimums=_parse_minimums(members.get("minimums", ()), currency, within(field, "minimums")),
            free=_parse_names(members.get("free", ()), within(field, "free")),
        )
    except InvalidInput as error:
        if not field or error.field.startswith(field):
            raise
        raise InvalidInput(f"{field}.{error}", field=within(field, error.field)) from error


def plan_document(plan: Plan) -> dict[str, Any]:
    """The document of a plan, names sorted; `parse_plan` reads the same plan from it."""
    document: dict[str, Any] = {
        "name": plan.name,
        "currency": plan.currency,
        "metrics": {metric: _without_currency(plan.metrics[metric]) for metric in sorted(plan.metrics)},
    }
    if plan.fees:
        document["fees"] = [
            {"name": fee.name, "amount": _major(fee.amount_minor, plan.currency)}
            for fee in sorted(plan.fees, key=lambda fee: fee.name)
        ]
    if plan.minimums:
        document["minimums"] = [_minimum_document(minimum) for minimum in plan.minimums]
    if plan.free:
        document["free"] = sorted(plan.free)
    return document


def plan_invoice(
    plan: Plan,
    *,
    customer_id: str,
    period_start: datetime,
    period_end: datetime,
    quantities: Mapping[str, Decimal],
) -> InvoiceInputs | None:
    """The inputs of the invoice a plan makes of a customer's whole billing period; None: it has no item.

    Every metric of `quantities` that the plan prices is an item, with 0, too; then the fees. A minimum is owed where
    one of its metrics is on the invoice. What is below 0 after adjustments bills as 0.
    """
    items = [
        UsageItem(metric=metric, quantity=max(quantities[metric], Decimal(0)), price=plan.metrics[metric])
        for metric in sorted(plan.metrics)
        if metric in quantities
    ]
    items += [
        UsageItem(metric=fee.name, quantity=Decimal(1), price=fee_price(fee, plan.currency), is_metered=False)
        for fee in plan.fees
    ]
    if not items:
        return None
    return InvoiceInputs(
        customer_id=customer_id,
        period_start=period_start,
        period_end=period_end,
        items=tuple(items),
        minimums=tuple(
            minimum for minimum in plan.minimums if any(concerns(minimum.metrics, item.metric) for item in items)
        ),
    )


def fee_price(fee: Fee, currency: str) -> Price:
    """A fee as the price of one of it."""
    return Price(currency=currency, model=PerUnit(unit_minor=Decimal(fee.amount_minor)), version=fee.name)


def _check_names(plan: Plan) -> None:
    names = [*plan.metrics, *(fee.name for fee in plan.fees)]
    for number, fee in enumerate(plan.fees):
        if names.count(fee.name) > 1:
            raise refused(f"{fee.name!r} is the name of another fee or of a metric", f"fees[{number}].name")
    for number, minimum in enumerate(plan.minimums):
        for place, metric in enumerate(minimum.metrics or ()):
            if metric not in names:
                where = f"minimums[{number}].metrics[{place}]"
                raise refused(f"{metric!r} is neither a metric nor a fee of the plan", where)
    for metric in sorted(plan.free):
        if metric in plan.metrics:
            raise refused(f"{metric!r} has a price in this plan", "free")


def _parse_metrics(document: object, currency: str, field: str) -> dict[str, Price]:
    if not isinstance(document, Mapping):
        raise refused(f"must be an object of metrics, not a {type(document).__name__}", field)
    found = {}
    for metric, config in document.items():
        place = within(field, f"{metric!s:.40}")
        name = _parse_name(metric, place)
        if not isinstance(config, Mapping):
            raise refused(f"must be a priceConfig, not a {type(config).__name__}", place)
        found[name] = parse_price_config({"currency": currency, **config}, place)
    return found


def _parse_fees(document: object, currency: str, field: str) -> tuple[Fee, ...]:
    fees = []
    for number, element in enumerate(elements_of(document, field)):
        place = within(field, number)
        members = members_of(element, ("name", "amount"), place)
        name = _parse_name(required(members, "name", place), within(place, "name"))
        amount = _parse_amount(required(members, "amount", place), currency, within(place, "amount"))
        fees.append(Fee(name=name, amount_minor=amount))
    return tuple(fees)


def _parse_minimums(document: object, currency: str, field: str) -> tuple[MinimumCommitment, ...]:
    minimums = []
    for number, element in enumerate(elements_of(document, field)):
        place = within(field, number)
        members = members_of(element, ("name", "amount", "metrics"), place)
        amount = _parse_amount(required(members, "amount", place), currency, within(place, "amount"))
        name = parse_text(members.get("name", ""), within(place, "name"))
        metrics = None
        if "metrics" in members:
            metrics = tuple(sorted(_parse_names(members["metrics"], within(place, "metrics"), least=1)))
        minimums.append(MinimumCommitment(amount_minor=amount, currency=currency, metrics=metrics, name=name))
    return tuple(minimums)


def _parse_names(document: object, field: str, *, least: int = 0) -> frozenset[str]:
    listed = elements_of(document, field, least=least)
    return frozenset(_parse_name(name, within(field, number)) for number, name in enumerate(listed))


def _parse_name(document: object, field: str) -> str:
    name = parse_text(document, field)
    if not 1 <= len(name) <= _MOST_NAME:
        raise refused(f"must have 1 to {_MOST_NAME} characters, not {len(name)}", field)
    return name


def _parse_amount(document: object, currency: str, field: str) -> int:
    number = parse_number(document, field)
    minor = to_minor(number, currency)
    if not 0 <= minor < 10**26 or minor != int(minor):
        raise refused(f"must be an amount of whole {currency} minor units, not negative, not {document}", field)
    return int(minor)


def _minimum_document(minimum: MinimumCommitment) -> dict[str, Any]:
    document: dict[str, Any] = {"name": minimum.name} if minimum.name else {}
    document["amount"] = _major(minimum.amount_minor, minimum.currency)
    if minimum.metrics is not None:
        document["metrics"] = list(minimum.metrics)
    return document


def _without_currency(price: Price) -> dict[str, Any]:
    """The priceConfig less what the plan says once."""
    return {name: value for name, value in to_price_config(price).items() if name != "currency"}


def _major(minor: int, currency: str) -> str:
    return plain(to_major(minor, currency))
