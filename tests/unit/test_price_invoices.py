"""Invoices: the original's dict in, Decimal out; discounts, commitments, credits and tax in their order."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.pricing import (
    CreditGrant,
    Discount,
    Invoice,
    InvoiceInputs,
    InvoiceSimulator,
    MinimumCommitment,
    PerUnit,
    PrepaidCommitment,
    Price,
    UsageItem,
    parse_price_config,
    price_invoice,
    prorate,
)

Terms: TypeAlias = Any
"""What the product's own types check; a test says only what it is about."""

JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
FLAT_CENT: dict[str, Any] = {"model": "flat", "currency": "USD", "unitPrice": "0.01"}


def flat(unit_price: str, currency: str = "USD", **members: Terms) -> dict[str, Any]:
    """A price per unit."""
    return {"model": "flat", "currency": currency, "unitPrice": unit_price, **members}


def tiered(model: str, *tiers: tuple[Any, ...]) -> dict[str, Any]:
    """A tiered `priceConfig`: (upTo, unitPrice) or (upTo, unitPrice, flatPrice)."""
    names = ("upTo", "unitPrice", "flatPrice")
    return {"model": model, "currency": "USD", "tiers": [dict(zip(names, tier, strict=False)) for tier in tiers]}


def simulate(*usage: tuple[str, Any, dict[str, Any]], **members: Terms) -> Invoice:
    """The invoice of January for (metric, quantity, priceConfig)."""
    return InvoiceSimulator().simulate(
        {
            "customerId": "ada",
            "periodStart": "2026-01-01",
            "periodEnd": "2026-02-01",
            "usageItems": [
                {"metric": metric, "quantity": quantity, "priceConfig": price} for metric, quantity, price in usage
            ],
            **members,
        }
    )


def usage_of(*minor: int, metered: bool = True) -> tuple[UsageItem, ...]:
    """Items that cost so many cents, metrics a, b, c ..."""
    price = Price(currency="USD", model=PerUnit(unit_minor=Decimal(1)))
    return tuple(
        UsageItem(metric="abcdef"[number], quantity=Decimal(amount), price=price, is_metered=metered)
        for number, amount in enumerate(minor)
    )


def january(items: tuple[UsageItem, ...], **terms: Terms) -> Invoice:
    """The invoice of January for these items and terms."""
    return price_invoice(
        InvoiceInputs(customer_id="ada", period_start=JANUARY, period_end=FEBRUARY, items=items, **terms)
    )


def credit(amount_minor: int, **terms: Terms) -> CreditGrant:
    """A grant in dollars."""
    return CreditGrant(**{"amount_minor": amount_minor, "currency": "USD", **terms})


def applied(invoice: Invoice) -> list[tuple[str, int, int | None]]:
    """Name, what it took off, what it has left; in the order taken."""
    return [(taken.name, taken.applied_minor, taken.remaining_minor) for taken in invoice.deductions]


def test_twenty_five_thousand_calls_cost_220() -> None:
    """The README's example: 10 000 at 0.01 and 15 000 at 0.008, given as floats, come out as Decimal."""
    invoice = simulate(("calls", 25_000, tiered("tiered", (10_000, 0.01), (50_000, 0.008), (None, 0.005))))
    assert (invoice.total, invoice.subtotal, invoice.tax, invoice.credits) == (220, 220, 0, 0)
    assert all(
        isinstance(amount, Decimal) for amount in (invoice.total, invoice.subtotal, invoice.tax, invoice.credits)
    )
    assert [(line.metric, line.line.tier, line.line.amount_minor) for line in invoice.lines] == [
        ("calls", 1, 10_000),
        ("calls", 2, 12_000),
    ]


def test_typed_inputs_make_the_same_invoice_as_the_dict() -> None:
    """Either form is taken."""
    price = parse_price_config(FLAT_CENT)
    typed = InvoiceInputs(
        customer_id="ada",
        period_start=JANUARY,
        period_end=FEBRUARY,
        items=(UsageItem(metric="calls", quantity=Decimal(5_000), price=price),),
    )
    assert InvoiceSimulator().simulate(typed) == simulate(("calls", "5000", FLAT_CENT))


def test_the_originals_document() -> None:
    """`to_dict` has one line item per usage item, and every line below; amounts are texts."""
    document = simulate(
        ("calls", 7, flat("10")),
        ("seats", 13, {"model": "package", "currency": "USD", "unitPrice": 5, "packageSize": 4}),
        taxRate=10,
    ).to_dict()
    assert {name: document[name] for name in ("customerId", "periodStart", "currency", "subtotal", "tax", "total")} == {
        "customerId": "ada",
        "periodStart": "2026-01-01T00:00:00Z",
        "currency": "USD",
        "subtotal": "90.00",
        "tax": "9.00",
        "total": "99.00",
    }
    assert [
        (item["metric"], item["quantity"], item["unitPrice"], item["subtotal"]) for item in document["lineItems"]
    ] == [
        ("calls", "7", "10.00", "70.00"),
        ("seats", "13", "5.00", "20.00"),
    ]
    assert [line["units"] for line in document["lines"]] == ["7", "4"]


WORKFLOW = (
    ("compute", 5_000, tiered("tiered", (100, "0.5"), (1_000, "0.35"), (None, "0.25"))),
    ("workflows", 250, tiered("graduated", (10, 0, 0), (100, 2, 50), (None, "1.5", 200))),
    ("requests", 2_500_000, tiered("volume", (100_000, "0.0001"), (1_000_000, "0.00008"), (None, "0.00005"))),
    ("transfer", 1_500, tiered("tiered", (100, "0.09"), (1_000, "0.085"), (None, "0.08"))),
)


def test_a_commitment_and_credits_pay_all_and_keep_the_rest() -> None:
    """original.md, WorkflowCloud: nothing is due, and no balance is used up for nothing."""
    invoice = simulate(
        *WORKFLOW,
        commitments=[{"amount": 10_000, "startDate": "2026-01-01", "endDate": "2026-12-31", "applied": 0}],
        credits=[{"amount": 1_000, "reason": "support"}, {"amount": 500, "reason": "promotion"}],
        taxRate=0,
    )
    assert (invoice.subtotal, invoice.credits, invoice.total) == (Decimal("2270.50"), Decimal("2270.50"), 0)
    assert applied(invoice) == [("", 227_050, 772_950), ("support", 0, 100_000), ("promotion", 0, 50_000)]


@pytest.mark.parametrize(
    ("members", "total", "tax"),
    [
        ({"commitments": [{"amount": 20}], "credits": [{"amount": 10}, {"amount": 5}]}, "15", "0"),
        ({"commitments": [{"amount": 5, "applied": 50}]}, "50", "0"),
        ({"credits": [{"amount": 100}]}, "0", "0"),
        ({"credits": [{"amount": 100}], "taxRate": 10}, "0", "0"),
        ({"taxRate": "8.5"}, "54.25", "4.25"),
        ({"discounts": [{"percentOff": 10}, {"amountOff": 5}], "taxRate": 10}, "44", "4"),
        ({"commitments": [{"kind": "minimum", "amount": 80}], "taxRate": 10}, "88", "8"),
        ({"commitments": [{"kind": "minimum", "amount": 40}]}, "50", "0"),
    ],
)
def test_what_fifty_dollars_of_usage_come_to(members: dict[str, Any], total: str, tax: str) -> None:
    """original.md, part 3, and its neighbours: deductions come before tax and never go below zero."""
    invoice = simulate(("calls", 5_000, FLAT_CENT), **members)
    assert (invoice.total, invoice.tax) == (Decimal(total), Decimal(tax))


def test_what_a_credit_did_not_pay_remains() -> None:
    """A credit of 100 on a bill of 10: 10 applied, 90 left."""
    assert applied(january(usage_of(1_000), grants=(credit(10_000, name="c"),))) == [("c", 1_000, 9_000)]


def test_tax_of_a_fraction_of_a_percent_is_exact() -> None:
    """.036 % of 125.00 is 0.045, which a float makes 0.04."""
    assert simulate(("calls", 12_500, FLAT_CENT), taxRate=".036".rjust(5, "0")).tax == Decimal("0.05")


def test_two_metrics_and_tax() -> None:
    """original.md: 19.00 and 10 % are 20.90."""
    assert simulate(("a", 1_000, FLAT_CENT), ("b", 900, FLAT_CENT), taxRate=10).total == Decimal("20.90")


def test_stripes_order_of_credits() -> None:
    """Priority, then expiry, then promotional before paid, then effective, then created; whatever order."""
    in_order = [
        credit(1, name="first priority", priority=0, category="paid"),
        credit(1, name="soonest expiry", expires_at=datetime(2026, 3, 1, tzinfo=UTC), category="paid"),
        credit(1, name="promotional, effective first", effective_at=datetime(2025, 1, 1, tzinfo=UTC)),
        credit(
            1,
            name="created first",
            effective_at=datetime(2025, 6, 1, tzinfo=UTC),
            created_at=datetime(2024, 1, 1, tzinfo=UTC),
        ),
        credit(
            1,
            name="created later",
            effective_at=datetime(2025, 6, 1, tzinfo=UTC),
            created_at=datetime(2024, 2, 1, tzinfo=UTC),
        ),
        credit(1, name="paid", category="paid", effective_at=datetime(2024, 1, 1, tzinfo=UTC)),
        credit(1, name="last priority", priority=100),
    ]
    invoice = january(usage_of(4), grants=tuple(reversed(in_order)))
    assert [taken.name for taken in invoice.deductions] == [grant.name for grant in in_order]
    assert [taken.applied_minor for taken in invoice.deductions] == [1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("terms", "pays"),
    [
        ({"expires_at": FEBRUARY}, False),
        ({"expires_at": datetime(2026, 2, 1, 0, 0, 1, tzinfo=UTC)}, True),
        ({"expires_at": datetime(2026, 1, 15, tzinfo=UTC)}, False),
        ({"effective_at": FEBRUARY}, True),
        ({"effective_at": datetime(2026, 2, 1, 0, 0, 1, tzinfo=UTC)}, False),
        ({"currency": "EUR"}, False),
        ({"metrics": ("b",)}, False),
        ({"metrics": ("a",)}, True),
    ],
)
def test_when_a_credit_pays(terms: dict[str, Any], pays: bool) -> None:
    """The period's end must be at or after it takes effect and before it expires, in its currency and scope."""
    assert applied(january(usage_of(300), grants=(credit(100, **terms),))) == [("", 100 * pays, 100 - 100 * pays)]


def test_credits_pay_metered_usage_only_and_line_by_line() -> None:
    """A fixed fee is not paid by credit; items are paid in the order of the invoice."""
    items = (*usage_of(50, metered=False), *usage_of(30, 40)[1:])
    invoice = january((items[0], *usage_of(0, 30, 40)[1:]), grants=(credit(55),))
    assert [taken.by_item for taken in invoice.deductions] == [(0, 30, 25)]
    assert invoice.total_minor == 65


def test_a_true_up_is_drawn_from_prepaid_money_but_not_from_credit() -> None:
    """A minimum counts usage after discounts; credit grants pay usage only. Source: stripe.md 2.7, metered lines."""
    invoice = january(
        usage_of(1_000),
        discounts=(Discount(percent_off=Decimal(50)),),
        minimums=(MinimumCommitment(amount_minor=800, currency="USD", name="base"),),
        prepaid=(PrepaidCommitment(amount_minor=600, currency="USD"),),
        grants=(credit(1_000),),
    )
    assert [(line.metric, line.line.kind, line.line.amount_minor) for line in invoice.lines] == [
        ("a", "units", 1_000),
        ("base", "true_up", 300),
    ]
    assert [(taken.kind, taken.by_item) for taken in invoice.deductions] == [
        ("discount", (500,)),
        ("commitment", (500, 100)),
        ("credit", (0, 0)),
    ]
    assert (invoice.subtotal_minor, invoice.total_minor) == (1_300, 200)


def test_a_minimum_that_is_just_reached_adds_no_line() -> None:
    """Nothing is missing, so there is nothing to say."""
    minimums = (
        MinimumCommitment(amount_minor=500, currency="USD"),
        MinimumCommitment(amount_minor=501, currency="USD"),
    )
    assert [added.line.amount_minor for added in january(usage_of(500), minimums=minimums).true_ups] == [1]


@pytest.mark.parametrize(
    ("starts", "ends", "serves"),
    [
        (datetime(2025, 1, 1, tzinfo=UTC), JANUARY, False),
        (datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), True),
        (FEBRUARY, datetime(2027, 1, 1, tzinfo=UTC), False),
        (datetime(2026, 1, 31, tzinfo=UTC), None, True),
    ],
)
def test_a_prepaid_commitment_serves_periods_that_touch_it(
    starts: datetime, ends: datetime | None, serves: bool
) -> None:
    """Half-open on both sides: a commitment that ends where the period starts does not serve it."""
    prepaid = PrepaidCommitment(amount_minor=100, currency="USD", starts_at=starts, ends_at=ends)
    assert january(usage_of(70), prepaid=(prepaid,)).total_minor == (0 if serves else 70)


def test_a_percentage_off_is_rounded_once_and_shared_by_the_items() -> None:
    """A third off three items of one cent is one cent, borne by the first; each item keeps its own rest."""
    invoice = january(usage_of(1, 1, 1), discounts=(Discount(percent_off=Decimal("33.3"), name="third"),))
    assert [(taken.applied_minor, taken.by_item) for taken in invoice.deductions] == [(1, (1, 0, 0))]


def test_a_discount_of_one_metric_takes_nothing_off_the_others() -> None:
    """An amount off is no more than what it is off from."""
    invoice = january(usage_of(100, 200), discounts=(Discount(amount_off_minor=500, metrics=("b",)),))
    assert [taken.by_item for taken in invoice.deductions] == [(0, 200)]


def test_a_proration_is_of_exact_time_and_rounded_down() -> None:
    """16 of 31 days of 100.00 are 51.61; the credit for them is 51.62, towards minus infinity."""
    half = {"used_from": datetime(2026, 1, 16, tzinfo=UTC), "used_until": FEBRUARY}
    amounts = [
        prorate(full, period_start=JANUARY, period_end=FEBRUARY, **half).amount_minor for full in (10_000, -10_000)
    ]
    assert amounts == [5_161, -5_162]


def test_a_proration_of_no_time_is_refused() -> None:
    """A part of nothing is no number; a part outside the period is none of it."""
    with pytest.raises(InvalidInput, match="period_end: must be after"):
        prorate(1, period_start=JANUARY, period_end=JANUARY, used_from=JANUARY, used_until=JANUARY)
    with pytest.raises(InvalidInput, match="used_from: the part must be within"):
        prorate(
            1, period_start=JANUARY, period_end=FEBRUARY, used_from=JANUARY, used_until=datetime(2026, 2, 2, tzinfo=UTC)
        )
