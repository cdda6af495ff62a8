"""Inputs of an invoice that cannot be right are refused, naming the member in the words of the document."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.pricing import (
    CreditGrant,
    Discount,
    InvoiceInputs,
    InvoiceSimulator,
    MinimumCommitment,
    PerUnit,
    PrepaidCommitment,
    Price,
    UsageItem,
)

FLAT_CENT: dict[str, Any] = {"model": "flat", "currency": "USD", "unitPrice": "0.01"}
PRICE = "usageItems[0].priceConfig"


def flat(unit_price: str, currency: str = "USD", **members: object) -> dict[str, Any]:
    """A price per unit."""
    return {"model": "flat", "currency": currency, "unitPrice": unit_price, **members}


def tiered(model: str, *tiers: tuple[Any, ...]) -> dict[str, Any]:
    """A tiered `priceConfig`: (upTo, unitPrice) or (upTo, unitPrice, flatPrice)."""
    names = ("upTo", "unitPrice", "flatPrice")
    return {"model": model, "currency": "USD", "tiers": [dict(zip(names, tier, strict=False)) for tier in tiers]}


INPUTS: dict[str, Any] = {
    "customerId": "ada",
    "periodStart": "2026-01-01",
    "periodEnd": "2026-02-01",
    "usageItems": [{"metric": "calls", "quantity": 1, "priceConfig": FLAT_CENT}],
}


def item(**members: object) -> dict[str, Any]:
    """The members of inputs with one item like that."""
    return {"usageItems": [{"metric": "calls", "quantity": 1, "priceConfig": FLAT_CENT, **members}]}


@pytest.mark.parametrize(
    ("members", "field", "reason"),
    [
        (item(priceConfig=tiered("tiered", (100, 1))), f"{PRICE}.tiers[0].upTo", "the last tier must have no end"),
        (item(priceConfig=tiered("tiered", (100, 1), (50, 1), (None, 1))), f"{PRICE}.tiers[1].upTo", "overlap"),
        (item(priceConfig=tiered("tiered", (None, "-1"))), f"{PRICE}.tiers[0].unitPrice", "negative"),
        (
            item(priceConfig=flat("1", minimumCharge=10, maximumCharge=8)),
            f"{PRICE}.minimumCharge",
            "more than the maximum",
        ),
        (item(priceConfig=flat("1", currency="USDX")), f"{PRICE}.currency", "unknown currency"),
        (item(priceConfig=flat("1", tiers=[])), f"{PRICE}.tiers", "no such member"),
        (
            item(priceConfig={"model": "package", "currency": "USD", "unitPrice": 1, "packageSize": -4}),
            f"{PRICE}.packageSize",
            "from 1",
        ),
        (
            item(priceConfig={"model": "package", "currency": "USD", "unitPrice": 1, "packageSize": "2.5"}),
            f"{PRICE}.packageSize",
            "whole",
        ),
        (item(priceConfig={"model": "stairs", "currency": "USD"}), f"{PRICE}.model", "one of"),
        (item(priceConfig={"model": "flat", "currency": "USD"}), f"{PRICE}.unitPrice", "missing"),
        (item(quantity=-1), "usageItems[0].quantity", "negative"),
        (item(quantity="many"), "usageItems[0].quantity", "number"),
        (item(quantity=True), "usageItems[0].quantity", "number"),
        (item(quantity="1e40"), "usageItems[0].quantity", "26 digits"),
        (item(metric=""), "usageItems[0].metric", "1 to 100"),
        ({"usageItems": []}, "usageItems", "at least 1"),
        (
            {"usageItems": [*INPUTS["usageItems"], {"metric": "b", "quantity": 1, "priceConfig": flat("1", "EUR")}]},
            "usageItems[1].priceConfig.currency",
            "two invoices",
        ),
        ({"periodEnd": "2026-01-01"}, "periodEnd", "after the period's start"),
        ({"periodEnd": "2026-02-01T00:00:00"}, "periodEnd", "time zone"),
        ({"periodStart": "yesterday"}, "periodStart", "date"),
        ({"taxRate": -1}, "taxRate", "percent"),
        ({"discount": []}, "discount", "no such member"),
        ({"discounts": [{"percentOff": 101}]}, "discounts[0].percentOff", "at most 100"),
        ({"discounts": [{"percentOff": 5, "amountOff": 5}]}, "discounts[0]", "either"),
        ({"commitments": [{"amount": -5}]}, "commitments[0].amount", "negative"),
        ({"commitments": [{"amount": "0.001"}]}, "commitments[0].amount", "2 decimals"),
        (
            {
                "commitments": [
                    {"kind": "minimum", "amount": 5},
                    {"amount": 5, "startDate": "2026-02-01", "endDate": "2026-01-01"},
                ]
            },
            "commitments[1].endDate",
            "after its start",
        ),
        (
            {"commitments": [{"amount": 5}, {"kind": "minimum", "amount": 5, "currency": "EUR"}]},
            "commitments[1].currency",
            "invoice's",
        ),
        (
            {"commitments": [{"kind": "minimum", "amount": 5, "metrics": ["other"]}]},
            "commitments[0].metrics",
            "no metric",
        ),
        ({"commitments": [{"kind": "gift", "amount": 5}]}, "commitments[0].kind", "prepaid or minimum"),
        ({"credits": [{"amount": 5, "priority": 101}]}, "credits[0].priority", "0 to 100"),
        ({"credits": [{"amount": 5, "category": "free"}]}, "credits[0].category", "promotional or paid"),
        ({"credits": [{"amount": "NaN"}]}, "credits[0].amount", "number"),
    ],
)
def test_inputs_that_cannot_be_right_are_refused(members: dict[str, Any], field: str, reason: str) -> None:
    """The path of what is wrong, in the words of the document it came in."""
    with pytest.raises(InvalidInput, match=reason) as refusal:
        InvoiceSimulator().simulate({**INPUTS, **members})
    assert (refusal.value.field, str(refusal.value).startswith(f"{field}: ")) == (field, True)


CALLS = UsageItem(
    metric="calls", quantity=Decimal(1), price=Price(currency="USD", model=PerUnit(unit_minor=Decimal(1)))
)
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - what is refused


def grant(**terms: Any) -> CreditGrant:  # noqa: ANN401 - one of its members
    """A grant of one dollar."""
    return CreditGrant(**{"amount_minor": 100, "currency": "USD", **terms})


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"items": ()}, "items"),
        ({"period_start": NAIVE}, "period_start"),
        ({"tax_pct": Decimal(-1)}, "tax_pct"),
        ({"tax_pct": Decimal("NaN")}, "tax_pct"),
        ({"discounts": (Discount(),)}, "discounts[0]"),
        ({"discounts": (Discount(amount_off_minor=-1),)}, "discounts[0].amount_off_minor"),
        ({"discounts": (Discount(percent_off=Decimal(0)),)}, "discounts[0].percent_off"),
        ({"discounts": (Discount(amount_off_minor=1, metrics=()),)}, "discounts[0].metrics"),
        ({"prepaid": (PrepaidCommitment(amount_minor=1, currency="XYZ"),)}, "prepaid[0].currency"),
        ({"prepaid": (PrepaidCommitment(amount_minor=1, currency="USD", ends_at=NAIVE),)}, "prepaid[0].ends_at"),
        ({"minimums": (MinimumCommitment(amount_minor=-1, currency="USD"),)}, "minimums[0].amount_minor"),
        ({"minimums": (MinimumCommitment(amount_minor=1, currency="USD", metrics=()),)}, "minimums[0].metrics"),
        ({"grants": (grant(), grant(amount_minor=-1))}, "grants[1].amount_minor"),
        ({"grants": (grant(amount_minor=Decimal("0.5")),)}, "grants[0].amount_minor"),
        ({"grants": (grant(applied_minor=-1),)}, "grants[0].applied_minor"),
        ({"grants": (grant(priority=-1),)}, "grants[0].priority"),
        ({"grants": (grant(created_at=NAIVE),)}, "grants[0].created_at"),
        ({"grants": (grant(metrics=()),)}, "grants[0].metrics"),
    ],
)
def test_typed_inputs_that_cannot_be_right_are_refused(terms: dict[str, Any], field: str) -> None:
    """In the names of the types."""
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    given = {"customer_id": "ada", "period_start": start, "period_end": end, "items": (CALLS,), **terms}
    with pytest.raises(InvalidInput) as refusal:
        InvoiceInputs(**given)
    assert refusal.value.field == field
