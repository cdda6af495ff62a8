"""The price of a quantity: outside vectors, the original's golden vectors, and each model's rules."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.pricing import (
    Graduated,
    Percentage,
    PerUnit,
    Price,
    Rounding,
    Tier,
    Transform,
    parse_price_config,
    price_from_stripe,
    quote,
)
from stripemeter.pricing.currencies import exponent_of, parse_currency
from stripemeter.pricing.rounding import floor_proration, parse_rounding, round_line

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "contract" / "stripe_price_vectors.json").read_text(encoding="utf-8")
)["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
@pytest.mark.parametrize("rounding", ["half_up", "half_even", "ceiling"])
def test_sourced_vectors(vector: dict[str, Any], rounding: Rounding) -> None:
    """Every sourced total, line by line, whatever the rounding of small fractions is."""
    quoted = quote(price_from_stripe(vector["price"]), Decimal(vector["quantity"]), rounding)
    amounts = [line.amount_minor for line in quoted.lines]
    assert (quoted.total_minor, amounts) == (vector["expected_total"], vector["derived_line_amounts"])


def config(model: str, *tiers: tuple[int | None, str] | tuple[int | None, str, str]) -> dict[str, Any]:
    """A tiered `priceConfig`: (upTo, unitPrice) or (upTo, unitPrice, flatPrice)."""
    names = ("upTo", "unitPrice", "flatPrice")
    return {"model": model, "currency": "USD", "tiers": [dict(zip(names, tier, strict=False)) for tier in tiers]}


T_R = ((10_000, "0.01"), (50_000, "0.008"), (None, "0.005"))
HUNDREDS = ((100, "1"), (1_000, "0.8"), (None, "0.6"))
CENTS = ((1_000, "0.10"), (10_000, "0.08"), (None, "0.05"))
HOT = ((100, "0.023", "5"), (1_000, "0.021", "15"), (None, "0.018", "50"))
COLD = ((1_000, "0.008", "2"), (10_000, "0.006", "8"), (None, "0.004", "25"))
GRADUATED = ((100, "0.5", "10"), (1_000, "0.3", "50"), (None, "0.2", "100"))
CURRENT = ((5_000, "0.01"), (50_000, "0.008"), (None, "0.005"))
OPTION_A = ((5_000, "0.012"), (50_000, "0.009"), (None, "0.006"))
OPTION_B = ((10_000, "0.005", "25"), (100_000, "0.003", "100"), (None, "0.002", "400"))

GOLDEN: list[tuple[dict[str, Any], dict[str, str]]] = [
    (
        config("tiered", *T_R),
        {
            "0": "0",
            "1": "0.01",
            "9999": "99.99",
            "10000": "100",
            "10001": "100.01",
            "25000": "220",
            "50000": "420",
            "50001": "420.01",
        },
    ),
    (
        config("volume", *T_R),
        {
            "0": "0",
            "1": "0.01",
            "9999": "99.99",
            "10000": "100",
            "10001": "80.01",
            "25000": "200",
            "50000": "400",
            "50001": "250.01",
        },
    ),
    (config("tiered", *HUNDREDS), {"1500": "1120", "150.5": "140.40"}),
    (config("volume", *HUNDREDS), {"50": "50", "500": "400", "1500": "900"}),
    (config("graduated", *GRADUATED), {"0": "10", "50": "35", "1500": "580"}),
    (config("tiered", *CENTS), {"1500": "140", "3500": "300", "15000": "1070"}),
    (config("volume", *CENTS), {"15000": "750"}),
    (config("graduated", (1_000, "0.05", "50"), (10_000, "0.03", "100"), (None, "0.01", "200")), {"15000": "720"}),
    (config("volume", (100, "1", "25"), (None, "1", "25")), {"50": "75"}),
    ({"model": "flat", "currency": "USD", "unitPrice": "0.03"}, {"33.333": "1.00"}),
    (
        {"model": "package", "currency": "USD", "unitPrice": 5, "packageSize": 4},
        {"13": "20", "12": "15", "0": "0", "12.001": "20"},
    ),
    (config("tiered", (100, "0.10"), (500, "0.08"), (None, "0.05")), {"350": "30.00"}),
    (config("tiered", (1_000, "0"), (10_000, "0.02"), (None, "0.015")), {"500": "0", "5000": "80"}),
    (config("tiered", (10_000, "0"), (100_000, "0.01"), (None, "0.008")), {"8000": "0", "25000": "150"}),
    (config("volume", (100_000, "0.008"), (500_000, "0.006"), (None, "0.004")), {"750000": "3000"}),
    (config("graduated", *HOT), {"50": "6.15", "500": "30.70", "5000": "163.20"}),
    (config("graduated", *COLD), {"200": "3.60", "2000": "24.00", "25000": "157.00"}),
    (config("tiered", (100, "0.5"), (1_000, "0.35"), (None, "0.25")), {"5000": "1365"}),
    (config("graduated", (10, "0", "0"), (100, "2", "50"), (None, "1.5", "200")), {"250": "655"}),
    (config("volume", (100_000, "0.0001"), (1_000_000, "0.00008"), (None, "0.00005")), {"2500000": "125"}),
    (config("tiered", (100, "0.09"), (1_000, "0.085"), (None, "0.08")), {"1500": "125.50"}),
    (config("tiered", *CURRENT), {"2500": "25", "15000": "130", "75000": "535", "300000": "1660"}),
    (config("volume", *OPTION_A), {"2500": "30", "15000": "135", "75000": "450", "300000": "1800"}),
    (config("graduated", *OPTION_B), {"2500": "37.5", "15000": "190", "75000": "370", "300000": "1245"}),
    ({"model": "flat", "currency": "JPY", "unitPrice": "1.5"}, {"3": "5"}),
    ({"model": "flat", "currency": "KWD", "unitPrice": "0.0015"}, {"3": "0.005"}),
    ({"model": "flat", "currency": "USD", "unitPrice": "1", "minimumCharge": "5.4567"}, {"0": "5.46", "6": "6"}),
    ({"model": "flat", "currency": "USD", "unitPrice": "1", "maximumCharge": "8"}, {"7": "7", "9": "8"}),
    ({"model": "percentage", "currency": "USD", "ratePct": "2.9"}, {"100": "2.90", "0.5": "0.01"}),
    ({"model": "percentage", "currency": "JPY", "ratePct": "2.9"}, {"100": "3"}),
]


@pytest.mark.parametrize(
    ("price", "quantity", "major"), [(price, *pair) for price, pairs in GOLDEN for pair in pairs.items()]
)
def test_golden_vectors(price: dict[str, Any], quantity: str, major: str) -> None:
    """original.md, part 3: each is Stripe's semantics or plain arithmetic, recomputed with Decimal."""
    assert quote(parse_price_config(price), Decimal(quantity)).total == Decimal(major)


def test_the_optimisation_study_comes_to_the_recomputed_revenue() -> None:
    """original.md, part 3: usage times customers under three plans."""
    customers = {2_500: 1_000, 15_000: 500, 75_000: 100, 300_000: 20}
    plans = [config("tiered", *CURRENT), config("volume", *OPTION_A), config("graduated", *OPTION_B)]
    revenues = [
        sum(quote(parse_price_config(plan), Decimal(usage)).total * count for usage, count in customers.items())
        for plan in plans
    ]
    assert revenues == [176_700, 178_500, 194_400]


def test_a_line_says_what_it_was_computed_from() -> None:
    """Tier, units, unit price, the exact and the rounded amount, and which price it was."""
    tiers = (
        Tier(up_to=Decimal(10), unit_minor=Decimal("0.35"), flat_minor=Decimal(5)),
        Tier(up_to=None, unit_minor=Decimal("0.1")),
    )
    price = Price(currency="usd", model=Graduated(tiers=tiers), version="price_7")
    assert [tuple(line) for line in quote(price, Decimal("12.5")).lines] == [
        ("units", 1, 10, Decimal("0.35"), Decimal("3.5"), 4, "price_7"),
        ("flat", 1, 0, 5, 5, 5, "price_7"),
        ("units", 2, Decimal("2.5"), Decimal("0.1"), Decimal("0.25"), 0, "price_7"),
    ]


@pytest.mark.parametrize(("quantity", "tier"), [("9.999", 1), ("10", 1), ("10.000000000001", 2)])
def test_a_fraction_above_the_bound_is_in_the_next_tier(quantity: str, tier: int) -> None:
    """Bounds are inclusive, and the next tier starts at the bound."""
    price = parse_price_config(config("volume", (10, "1"), (None, "2")))
    assert quote(price, Decimal(quantity)).lines[0].tier == tier


@pytest.mark.parametrize(("round_", "packages"), [("up", 3), ("down", 2)])
def test_what_is_left_over_of_a_package(round_: Literal["up", "down"], packages: int) -> None:
    """transform_quantity counts a started package or leaves it out; the unit price is that of a package."""
    model = PerUnit(unit_minor=Decimal(1000), transform=Transform(divide_by=60, round=round_))
    quoted = quote(Price(currency="USD", model=model), Decimal("150.5"))
    assert (quoted.lines[0].units, quoted.total_minor) == (packages, packages * 1000)


def test_a_minimum_is_charged_where_nothing_was_used_and_a_maximum_takes_off() -> None:
    """Both are lines of their own, so the lines still sum to the total."""
    price = Price(
        currency="USD",
        model=PerUnit(unit_minor=Decimal(100)),
        minimum_minor=Decimal("250.5"),
        maximum_minor=Decimal(1000),
    )
    assert [(line.kind, line.amount_minor) for line in quote(price, Decimal(0)).lines] == [
        ("units", 0),
        ("minimum", 251),
    ]
    assert [(line.kind, line.amount_minor) for line in quote(price, Decimal(3)).lines] == [("units", 300)]
    assert [(line.kind, line.amount_minor) for line in quote(price, Decimal(12)).lines] == [
        ("units", 1200),
        ("maximum", -200),
    ]


def test_a_negative_total_bills_as_zero() -> None:
    """Below zero is zero: the first flat amount is billed, units are not."""
    quoted = quote(parse_price_config(config("graduated", (None, "7", "1"))), Decimal(-5))
    assert [line.amount_minor for line in quoted.lines] == [0, 100]


@pytest.mark.parametrize(
    ("rounding", "amounts"), [("half_up", [1, 2, 3, 0]), ("half_even", [0, 2, 2, 0]), ("ceiling", [1, 2, 3, 1])]
)
def test_a_tie_goes_where_the_setting_says(rounding: Rounding, amounts: list[int]) -> None:
    """0.5, 1.5, 2.5 and 0.4; only a ceiling bills what is below one half."""
    assert [round_line(tenths, 10, rounding) for tenths in (5, 15, 25, 4)] == amounts


def test_prorations_are_rounded_down_on_both_sides_of_zero() -> None:
    """Stripe's recorded prorations: -2.5 is -3, 4.5 is 4."""
    assert (floor_proration(-5, 2), floor_proration(9, 2)) == (-3, 4)


def test_an_unknown_rounding_is_refused() -> None:
    """A setting nobody knows must not fall back to another."""
    with pytest.raises(InvalidInput, match="rounding: must be one of half_up, half_even, ceiling, not 'up'"):
        parse_rounding("up")


def test_currencies_have_their_own_decimals() -> None:
    """Two by default, none of yen, three of dinars; what Stripe contradicts itself on is refused."""
    assert [exponent_of(parse_currency(code, "currency")) for code in ("usd", "JPY", "kwd")] == [2, 0, 3]
    for code, message in (("xxx", "unknown currency"), (None, "unknown currency"), ("ugx", "contradict")):
        with pytest.raises(InvalidInput, match=f"currency: .*{message}"):
            parse_currency(code, "currency")


def tiers_of(*up_to: int | None) -> Graduated:
    """Graduated tiers of 1 each, ending there."""
    return Graduated(
        tiers=tuple(Tier(up_to=None if end is None else Decimal(end), unit_minor=Decimal(1)) for end in up_to)
    )


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"model": tiers_of(100)}, "tiers[0].up_to"),
        ({"model": tiers_of(None, None)}, "tiers[0].up_to"),
        ({"model": tiers_of(100, 100, None)}, "tiers[1].up_to"),
        ({"model": tiers_of(100, 50, None)}, "tiers[1].up_to"),
        ({"model": tiers_of(0, None)}, "tiers[0].up_to"),
        ({"model": tiers_of(-5, None)}, "tiers[0].up_to"),
        ({"model": tiers_of()}, "tiers"),
        ({"model": Graduated(tiers=(Tier(up_to=None),))}, "tiers[0].unit_minor"),
        ({"model": Graduated(tiers=(Tier(up_to=None, flat_minor=Decimal(-1)),))}, "tiers[0].flat_minor"),
        ({"model": PerUnit(unit_minor=Decimal(-1))}, "unit_minor"),
        ({"model": PerUnit(unit_minor=Decimal("NaN"))}, "unit_minor"),
        ({"model": PerUnit(unit_minor=Decimal("1e-13"))}, "unit_minor"),
        ({"model": PerUnit(unit_minor=0.1)}, "unit_minor"),  # type: ignore[arg-type]
        (
            {"model": PerUnit(unit_minor=Decimal(1), transform=Transform(divide_by=0, round="up"))},
            "transform.divide_by",
        ),
        (
            {"model": PerUnit(unit_minor=Decimal(1), transform=Transform(divide_by=-4, round="up"))},
            "transform.divide_by",
        ),
        ({"model": PerUnit(unit_minor=Decimal(1), transform=Transform(divide_by=4, round="near"))}, "transform.round"),  # type: ignore[arg-type]
        ({"model": Percentage(rate_pct=Decimal(-1))}, "rate_pct"),
        ({"minimum_minor": Decimal(10), "maximum_minor": Decimal(8)}, "minimum_minor"),
        ({"maximum_minor": Decimal(-1)}, "maximum_minor"),
        ({"currency": "USDT"}, "currency"),
    ],
)
def test_a_price_that_cannot_be_right_is_refused(members: dict[str, Any], field: str) -> None:
    """The reason names the member; nothing is priced by a price that bills too little or twice."""
    with pytest.raises(InvalidInput) as refusal:
        Price(**{"currency": "USD", "model": PerUnit(unit_minor=Decimal(1)), **members})
    assert refusal.value.field == field
    assert str(refusal.value).startswith(f"{field}: ")


@pytest.mark.parametrize("quantity", [Decimal("1e26"), Decimal("1e-13"), Decimal("inf"), 0.5, True])
def test_a_quantity_out_of_bounds_is_refused(quantity: Decimal) -> None:
    """What the ledger cannot hold has no price."""
    with pytest.raises(InvalidInput, match="quantity: "):
        quote(parse_price_config(config("tiered", *T_R)), quantity)


def test_the_greatest_quantity_is_priced_to_the_last_digit() -> None:
    """38 digits at a price of 38 digits: nothing is lost on the way."""
    most = Decimal("9" * 26 + "." + "9" * 12)
    quoted = quote(Price(currency="USD", model=PerUnit(unit_minor=most)), most)
    scaled = int("9" * 38)
    assert Fraction(quoted.lines[0].unrounded_minor) == Fraction(scaled * scaled, 10**24)
    assert quoted.total_minor == (2 * scaled * scaled + 10**24) // (2 * 10**24)


def test_the_package_needs_the_standard_library_only() -> None:
    """Whoever prices elsewhere installs nothing: no data frames, no decoder, no Stripe."""
    code = (
        "import sys; before = set(sys.modules); import stripemeter.pricing; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.split() == ["stripemeter"]
