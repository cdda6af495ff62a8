"""Laws of pricing: what lines add up to, what deductions may take, and that a record computes to itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stripemeter.errors import InvalidInput, InvariantBroken
from stripemeter.pricing import (
    Graduated,
    InvoiceInputs,
    InvoiceSimulator,
    Percentage,
    PerUnit,
    Price,
    Quote,
    Rounding,
    Tier,
    Volume,
    invoice_record,
    parse_price_config,
    price_from_stripe,
    price_invoice,
    price_to_stripe,
    quote,
    quote_record,
    recompute_invoice,
    recompute_quote,
    render_html,
    render_json,
    render_text,
    to_price_config,
)
from stripemeter.pricing.deductions import Deduction
from tests.laws.prices import ROUNDINGS, draw_inputs, draw_price, draw_quantity

RANDOMS = st.randoms(use_true_random=False)
ROUNDING = st.sampled_from(ROUNDINGS)


def draw_quote(random: Random, rounding: Rounding) -> Quote:
    """A quote at random."""
    price = draw_price(random)
    return quote(price, draw_quantity(random, price), rounding)


@given(RANDOMS, ROUNDING)
@settings(max_examples=150)
def test_lines_sum_to_the_total_which_is_never_negative(random: Random, rounding: Rounding) -> None:
    """Each rounded amount is as near to its exact one as the rounding says; only a maximum takes off."""
    quoted = draw_quote(random, rounding)
    assert quoted.total_minor == sum(line.amount_minor for line in quoted.lines) >= 0
    for line in quoted.lines:
        off = line.amount_minor - Fraction(line.unrounded_minor)
        assert (0 <= off < 1) if rounding == "ceiling" else abs(off) <= Fraction(1, 2)
        assert line.amount_minor >= 0 or line.kind == "maximum"
        if line.kind == "units":
            assert Fraction(line.units) * Fraction(line.unit_minor) == Fraction(line.unrounded_minor)


@given(RANDOMS)
@settings(max_examples=150)
def test_graduated_tiers_share_the_quantity_and_charge_each_flat_amount_once(random: Random) -> None:
    """Units of the lines are the quantity; a tier's flat amount is charged if and only if the tier is reached."""
    price = draw_price(random)
    if not isinstance(price.model, Graduated):
        return
    quantity = draw_quantity(random, price)
    lines = quote(price, quantity).lines
    assert sum(Fraction(line.units) for line in lines) == max(Fraction(quantity), 0)
    starts = [Decimal(0), *(tier.up_to for tier in price.model.tiers if tier.up_to is not None)]
    reached = [
        number
        for number, (tier, start) in enumerate(zip(price.model.tiers, starts, strict=True), start=1)
        if number == 1 or quantity > start
    ]
    assert [line.tier for line in lines if line.kind == "units"] == reached
    flats = [number for number in reached if price.model.tiers[number - 1].flat_minor is not None]
    assert [line.tier for line in lines if line.kind == "flat"] == flats


@given(RANDOMS)
@settings(max_examples=150)
def test_volume_prices_all_units_in_one_tier(random: Random) -> None:
    """One line of units and at most one flat amount, of the tier of the last unit; more may cost less."""
    price = draw_price(random)
    if not isinstance(price.model, Volume):
        return
    quantity = draw_quantity(random, price)
    lines = [line for line in quote(price, quantity).lines if line.kind in {"units", "flat"}]
    holding = next(
        number
        for number, tier in enumerate(price.model.tiers, start=1)
        if tier.up_to is None or max(quantity, Decimal(0)) <= tier.up_to
    )
    assert {line.tier for line in lines} == {holding}
    assert [line.kind for line in lines] == ["units", "flat"][: len(lines)]
    assert Fraction(lines[0].units) == max(Fraction(quantity), 0)


@given(RANDOMS, ROUNDING)
@settings(max_examples=100)
def test_more_usage_never_costs_less_where_units_are_priced_one_by_one(random: Random, rounding: Rounding) -> None:
    """Of every model but volume."""
    price = draw_price(random)
    if isinstance(price.model, Volume):
        return
    less, more = sorted([draw_quantity(random, price), draw_quantity(random, price)])
    assert quote(price, less, rounding).total_minor <= quote(price, more, rounding).total_minor


@given(RANDOMS)
@settings(max_examples=100)
def test_usage_may_be_split_where_each_unit_costs_the_same(random: Random) -> None:
    """Exact amounts of the parts add up to that of the whole: per unit and percentage, not packages or tiers."""
    price = draw_price(random)
    if not isinstance(price.model, PerUnit | Percentage) or price.transform is not None:
        return
    parts = [abs(draw_quantity(random, price)) / 2 for _ in range(2)]
    parts = [part.quantize(Decimal("0.001")) for part in parts if part < 10**20]
    exact = [Fraction(quote(price, part).lines[0].unrounded_minor) for part in (*parts, sum(parts, Decimal(0)))]
    assert sum(exact[:-1]) == exact[-1]


@given(RANDOMS, ROUNDING)
@settings(max_examples=100)
def test_a_quote_computes_to_itself_from_its_record(random: Random, rounding: Rounding) -> None:
    """Through JSON and back, to the same price, the same lines and the same total."""
    quoted = draw_quote(random, rounding)
    record = json.loads(render_json(quoted))
    assert record == quote_record(quoted)
    assert recompute_quote(record) == quoted
    assert all(line["amount"] in render_text(quoted) for line in record["lines"])


@given(RANDOMS)
@settings(max_examples=100)
def test_a_price_survives_both_documents(random: Random) -> None:
    """The original's form says every price; Stripe's says those it can sell."""
    price = draw_price(random)
    assert parse_price_config(json.loads(json.dumps(to_price_config(price)))) == price
    at_stripe = draw_price(random, sellable_at_stripe=True)
    document = json.loads(json.dumps(price_to_stripe(at_stripe)))
    assert price_from_stripe(document) == at_stripe
    assert price_to_stripe(price_from_stripe(document)) == document


@pytest.mark.parametrize(
    ("price", "field"),
    [
        (Price(currency="USD", model=Percentage(rate_pct=Decimal(1))), "model"),
        (Price(currency="USD", model=PerUnit(unit_minor=Decimal(1)), minimum_minor=Decimal(1)), "minimum_minor"),
        (
            Price(
                currency="USD",
                model=Volume(
                    tiers=(Tier(up_to=Decimal("1.5"), unit_minor=Decimal(1)), Tier(up_to=None, unit_minor=Decimal(1)))
                ),
            ),
            "tiers[0].up_to",
        ),
    ],
)
def test_what_stripe_cannot_sell_is_not_exported(price: Price, field: str) -> None:
    """A price that would lose something on the way is refused."""
    with pytest.raises(InvalidInput) as refusal:
        price_to_stripe(price)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"custom_unit_amount": {"enabled": True}}, "custom_unit_amount"),
        ({"billing_scheme": "tiered", "tiers_mode": "volume"}, "tiers"),
        (
            {"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": [{"up_to": 5, "unit_amount": 1}]},
            "tiers[0].up_to",
        ),
        ({"billing_scheme": "tiered", "tiers": [{"up_to": None, "unit_amount": 1}]}, "tiers_mode"),
        ({"unit_amount": None, "unit_amount_decimal": None}, "unit_amount_decimal"),
        ({"unit_amount": 5, "unit_amount_decimal": "6"}, "unit_amount_decimal"),
        ({"unit_amount_decimal": "-1", "unit_amount": None}, "unit_amount_decimal"),
        ({"transform_quantity": {"divide_by": 0, "round": "up"}}, "transform_quantity.divide_by"),
        ({"currency": "gold"}, "currency"),
    ],
)
def test_a_stripe_price_that_cannot_be_priced_is_refused(members: dict[str, object], field: str) -> None:
    """In Stripe's words: which member, and why."""
    with pytest.raises(InvalidInput) as refusal:
        price_from_stripe({"id": "price_1", "currency": "usd", "unit_amount": 5, "unit_amount_decimal": "5", **members})
    assert refusal.value.field == field


def usable(inputs: InvoiceInputs, taken: Deduction) -> bool:
    """Whether the period lets this grant pay."""
    grant = inputs.grants[taken.position]
    ever, forever = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    is_current = (grant.effective_at or ever) <= inputs.period_end < (grant.expires_at or forever)
    return is_current and grant.currency == inputs.currency


@given(RANDOMS, ROUNDING)
@settings(max_examples=150)
def test_an_invoice_adds_up_and_nothing_goes_below_zero(random: Random, rounding: Rounding) -> None:
    """subtotal - discounts - credits + tax = total >= 0; no item pays more than it costs; balances are conserved."""
    inputs = draw_inputs(random)
    invoice = price_invoice(inputs, rounding)
    assert invoice.subtotal_minor == sum(line.line.amount_minor for line in invoice.lines)
    taxable = invoice.subtotal_minor - invoice.discounts_minor - invoice.credits_minor
    assert (taxable >= 0, invoice.total_minor) == (True, taxable + invoice.tax_minor)
    off = abs(Fraction(taxable) * Fraction(inputs.tax_pct) / 100 - invoice.tax_minor)
    assert off < 1 if rounding == "ceiling" else off <= Fraction(1, 2)
    left = [quoted.total_minor for quoted in invoice.quotes] + [added.line.amount_minor for added in invoice.true_ups]
    for taken in invoice.deductions:
        assert sum(taken.by_item) == taken.applied_minor
        for number, amount in enumerate(taken.by_item):
            left[number] -= amount
            assert amount >= 0
            assert left[number] >= 0
    for taken in invoice.deductions:
        if taken.kind != "discount":
            terms = (inputs.prepaid if taken.kind == "commitment" else inputs.grants)[taken.position]
            assert taken.applied_minor + (taken.remaining_minor or 0) == max(
                terms.amount_minor - terms.applied_minor, 0
            )
            assert taken.applied_minor == 0 or terms.currency == inputs.currency


@given(RANDOMS)
@settings(max_examples=150)
def test_a_credit_is_used_only_when_those_before_it_have_nothing_for_it(random: Random) -> None:
    """Stripe's order: a grant pays an item only when each usable one before it that may pay the item is used up."""
    inputs = draw_inputs(random)
    credits_ = [taken for taken in price_invoice(inputs).deductions if taken.kind == "credit"]
    ever, forever = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    keys = [
        (
            grant.priority,
            grant.expires_at or forever,
            {"promotional": 0, "paid": 1}[grant.category],
            grant.effective_at or ever,
            grant.created_at or ever,
        )
        for grant in (inputs.grants[taken.position] for taken in credits_)
    ]
    assert keys == sorted(keys)
    for later, taken in enumerate(credits_):
        for number, item in enumerate(inputs.items):
            if not taken.by_item[number]:
                continue
            assert item.is_metered
            for earlier in credits_[:later]:
                scope = inputs.grants[earlier.position].metrics
                if usable(inputs, earlier) and (scope is None or item.metric in scope):
                    assert earlier.remaining_minor == 0


@given(RANDOMS)
@settings(max_examples=100)
def test_a_minimum_commitment_is_reached_whatever_was_used(random: Random) -> None:
    """What its metrics cost after discounts, and its true-up, come to the minimum or more."""
    inputs = draw_inputs(random)
    invoice = price_invoice(inputs)
    left = [quoted.total_minor for quoted in invoice.quotes]
    for taken in invoice.deductions:
        if taken.kind == "discount":
            left = [amount - part for amount, part in zip(left, taken.by_item, strict=True)]
    expected = []
    for minimum in inputs.minimums:
        spent = sum(
            amount
            for amount, item in zip(left, inputs.items, strict=True)
            if minimum.metrics is None or item.metric in minimum.metrics
        )
        expected += [minimum.amount_minor - spent] if spent < minimum.amount_minor else []
    assert [added.line.amount_minor for added in invoice.true_ups] == expected


@given(RANDOMS, ROUNDING)
@settings(max_examples=100)
def test_an_invoice_computes_to_itself_from_its_record(random: Random, rounding: Rounding) -> None:
    """Through JSON and back; the dict form of its inputs makes the same invoice as the typed one."""
    invoice = price_invoice(draw_inputs(random), rounding)
    record = json.loads(render_json(invoice))
    assert record == invoice_record(invoice)
    assert recompute_invoice(record).to_dict() == invoice.to_dict() == record["invoice"]
    assert InvoiceSimulator(rounding).simulate(record["inputs"]).total == invoice.total


def test_a_record_that_no_longer_computes_to_itself_is_found() -> None:
    """The first difference is named: which amount, what it was, what it is."""
    record = quote_record(quote(Price(currency="USD", model=PerUnit(unit_minor=Decimal("0.5"))), Decimal(3)))
    record["lines"][0]["amount"] = "0.01"
    with pytest.raises(InvariantBroken, match=r"lines\[0\].amount was recorded as '0.01' and is computed as '0.02'"):
        recompute_quote(record)
    invoice = invoice_record(price_invoice(draw_inputs(Random(7))))
    invoice["invoice"]["total"] = "-1"
    with pytest.raises(InvariantBroken, match=r"invoice.total was recorded as '-1'"):
        recompute_invoice(invoice)


def test_what_customers_named_is_escaped_in_html() -> None:
    """A metric, a credit's reason and a price's version are texts, never markup."""
    evil = "<script>alert('x')</script>"
    page = render_html(
        InvoiceSimulator().simulate(
            {
                "customerId": evil,
                "periodStart": "2026-01-01",
                "periodEnd": "2026-02-01",
                "usageItems": [
                    {
                        "metric": evil,
                        "quantity": 300,
                        "priceConfig": {"model": "flat", "currency": "USD", "unitPrice": "0.01", "version": evil},
                    }
                ],
                "credits": [{"amount": 1, "reason": evil}],
                "taxRate": 10,
            }
        )
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5
    assert all(f"<td>{amount}</td>" in page for amount in ("3.00", "-1.00", "0.20", "2.20"))
