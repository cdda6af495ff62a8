"""One price function: scalar, vectorised, and the emulator's own, written apart, agree to the last unit.

`PRICE_CASES=2000000` prices that many random quantities instead of the default; `PRICE_SEED` draws others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stripe_emulator.pricing import price_lines
from stripemeter.errors import InvalidInput
from stripemeter.pricing import Graduated, PerUnit, Price, Quote, Rounding, Tier, Volume, price_to_stripe, quote
from stripemeter.pricing.quote_frames import LINE_COLUMNS, quote_amounts, quote_lines
from tests.laws.prices import ROUNDINGS, draw_price, draw_quantity

CASES = int(os.environ.get("PRICE_CASES", "6000"))
SEED = int(os.environ.get("PRICE_SEED", "1"))
CASES_PER_PRICE = 50
PRICES_PER_FRAME = 40
RANDOMS = st.randoms(use_true_random=False)
ROUNDING = st.sampled_from(ROUNDINGS)
QUANTITY = pl.Decimal(38, 12)


def frame_of(rows: list[tuple[str, Decimal]]) -> pl.DataFrame:
    """Rows of (price, quantity), numbered by customer."""
    return pl.DataFrame(
        {
            "customer": range(len(rows)),
            "price": pl.Series([key for key, _ in rows], dtype=pl.String),
            "quantity": pl.Series([quantity for _, quantity in rows], dtype=QUANTITY),
        }
    )


def expect_equal(rows: list[tuple[str, Decimal]], prices: Mapping[str, Price], rounding: Rounding) -> list[Quote]:
    """The scalar quotes of rows, after holding the vectorised ones against them line by line."""
    quotes = [quote(prices[key], quantity, rounding) for key, quantity in rows]
    frame = frame_of(rows)
    priced = quote_amounts(frame, prices, rounding)
    assert priced.drop("amount_minor").equals(frame)
    assert priced["amount_minor"].to_list() == [quoted.total_minor for quoted in quotes]
    lined = quote_lines(frame, prices, rounding).sort("customer", "line")
    expected = [
        (customer, line.kind, line.tier, line.units, line.unit_minor, line.amount_minor)
        for customer, quoted in enumerate(quotes)
        for line in quoted.lines
    ]
    assert lined.select("customer", *(name for name in LINE_COLUMNS if name != "line")).rows() == expected
    return quotes


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_many_random_quantities_cost_the_same_one_by_one_and_at_once(rounding: Rounding) -> None:
    """Line by line; and for prices Stripe can sell, line by line the emulator's independent amounts as well."""
    random = Random(f"{SEED} {rounding}")
    for _ in range(max(CASES // len(ROUNDINGS) // CASES_PER_PRICE // PRICES_PER_FRAME, 1)):
        prices = {
            str(number): draw_price(random, sellable_at_stripe=number % 2 == 0) for number in range(PRICES_PER_FRAME)
        }
        rows = [(key, draw_quantity(random, price)) for key, price in prices.items() for _ in range(CASES_PER_PRICE)]
        random.shuffle(rows)
        for (key, quantity), quoted in zip(rows, expect_equal(rows, prices, rounding), strict=True):
            if int(key) % 2 == 0:
                theirs = price_lines(price_to_stripe(prices[key]), Fraction(quantity), rounding)
                assert [line.amount for line in theirs] == [line.amount_minor for line in quoted.lines], (key, quantity)


@given(RANDOMS, ROUNDING)
@settings(max_examples=60)
def test_a_quantity_costs_the_same_one_by_one_and_at_once(random: Random, rounding: Rounding) -> None:
    """The same as an example that shrinks."""
    price = draw_price(random)
    expect_equal([("p", draw_quantity(random, price)) for _ in range(2)], {"p": price}, rounding)


@given(RANDOMS, ROUNDING)
@settings(max_examples=100)
def test_the_emulator_wrote_the_same_prices_apart(random: Random, rounding: Rounding) -> None:
    """Amounts line by line, of an example that shrinks."""
    price = draw_price(random, sellable_at_stripe=True)
    quantity = draw_quantity(random, price)
    theirs = [line.amount for line in price_lines(price_to_stripe(price), Fraction(quantity), rounding)]
    assert theirs == [line.amount_minor for line in quote(price, quantity, rounding).lines]


MOST = Decimal("9" * 26 + "." + "9" * 12)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unit", ["1", "0.000000000001", "99999", "3.141592653589"])
def test_products_beyond_128_bits_do_not_wrap_around(unit: str, rounding: Rounding) -> None:
    """Polars' whole numbers wrap without a word; quantities on both sides of the end are priced alike."""
    price = Price(
        currency="USD",
        model=Graduated(
            tiers=(
                Tier(up_to=Decimal("1e13"), unit_minor=Decimal(unit)),
                Tier(up_to=Decimal("9876543210987654321.123456789012"), unit_minor=Decimal(unit)),
                Tier(up_to=None, unit_minor=Decimal(unit)),
            )
        ),
    )
    quantities = [Decimal(10) ** digits + Decimal("0.000000000001") for digits in range(26)]
    quantities += [Decimal(2) ** power for power in range(40, 86)]
    if unit != "99999":
        quantities.append(MOST)
    assert expect_equal([("p", quantity) for quantity in quantities], {"p": price}, rounding)


def test_whole_quantities_are_priced_exactly_by_bounds_with_a_fraction() -> None:
    """The scale of a slice holds its bounds as well as its quantities."""
    tiers = (Tier(up_to=Decimal("1.5"), unit_minor=Decimal(10)), Tier(up_to=None, unit_minor=Decimal(1)))
    prices = {
        "g": Price(currency="USD", model=Graduated(tiers=tiers)),
        "v": Price(currency="USD", model=Volume(tiers=tiers)),
    }
    quotes = expect_equal([(key, Decimal(count)) for key in prices for count in (1, 2, 3)], prices, "half_up")
    assert [quoted.total_minor for quoted in quotes] == [10, 16, 17, 10, 2, 3]


def test_quantities_of_any_exact_type_are_priced() -> None:
    """Integers and Decimals of fewer decimals; a price nobody uses is no matter."""
    prices = {
        "p": Price(currency="USD", model=PerUnit(unit_minor=Decimal("0.5"))),
        "unused": Price(currency="EUR", model=PerUnit(unit_minor=Decimal(1))),
    }
    for quantities, expected in (
        (pl.Series([1, 2, -3], dtype=pl.Int32), [1, 1, 0]),
        (pl.Series([Decimal("1.50"), Decimal("3.01")], dtype=pl.Decimal(10, 2)), [1, 2]),
    ):
        frame = pl.DataFrame({"quantity": quantities}).with_columns(price=pl.lit("p"))
        assert quote_amounts(frame, prices)["amount_minor"].to_list() == expected


def test_no_rows_are_no_rows() -> None:
    """An empty frame has the columns of a full one."""
    empty = frame_of([])
    assert quote_amounts(empty, {}).schema == {**empty.schema, "amount_minor": pl.Decimal(38, 0)}
    assert quote_lines(empty, {}).schema == {**empty.schema, **LINE_COLUMNS}


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"price": ["p"]}, "quantity"),
        ({"quantity": [1]}, "price"),
        ({"price": ["other"], "quantity": [1]}, "price"),
        ({"price": [1], "quantity": [1]}, "price"),
        ({"price": ["p"], "quantity": [0.5]}, "quantity"),
        ({"price": ["p"], "quantity": ["1"]}, "quantity"),
        ({"price": ["p"], "quantity": pl.Series([None], dtype=QUANTITY)}, "quantity"),
        ({"price": pl.Series([None], dtype=pl.String), "quantity": [1]}, "price"),
        ({"price": ["p"], "quantity": pl.Series([10**27], dtype=pl.Int128)}, "quantity"),
        ({"price": ["p"], "quantity": pl.Series([Decimal("0.1")], dtype=pl.Decimal(38, 13))}, "quantity"),
        ({"price": ["dear"], "quantity": pl.Series([MOST], dtype=QUANTITY)}, "quantity"),
    ],
)
def test_a_frame_that_cannot_be_priced_is_refused(columns: dict[str, object], field: str) -> None:
    """Floats, nulls, unknown prices and what has too many digits: nothing is priced as nearly that."""
    prices = {
        "p": Price(currency="USD", model=PerUnit(unit_minor=Decimal(1))),
        "dear": Price(currency="USD", model=Volume(tiers=(Tier(up_to=None, unit_minor=Decimal(10**20)),))),
    }
    for priced in (quote_amounts, quote_lines):
        with pytest.raises(InvalidInput) as refusal:
            priced(pl.DataFrame(columns), prices)
        assert refusal.value.field == field
