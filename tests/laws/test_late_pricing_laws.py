"""Laws of late usage as money: in however many charges it comes, it costs what all of it costs, no more and no less."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from stripemeter.billing.sink import InvoiceLine
from stripemeter.pipeline.late_pricing import price_late
from stripemeter.pricing.derivations import recompute_quote
from stripemeter.pricing.quotes import quote
from tests.laws.prices import ROUNDINGS, draw_price, draw_quantity

START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)


def line(quantity: Decimal, amount_minor: int, currency: str) -> InvoiceLine:
    """The one line of a window."""
    return InvoiceLine(
        line_id="il_1",
        stripe_item_id="si_1",
        price_id="price_1",
        start=START,
        end=END,
        quantity=quantity,
        amount_minor=amount_minor,
        currency=currency.lower(),
    )


@given(seed=st.integers(0, 2**32))
def test_charges_add_up_to_the_price_of_everything(seed: int) -> None:
    """Whatever the price, the rounding and the order of corrections; each derivation computes to its amount again."""
    random = Random(seed)
    price = draw_price(random, sellable_at_stripe=True)
    billed, rounding = abs(draw_quantity(random, price)), random.choice(ROUNDINGS)
    lines = [line(billed, quote(price, billed, rounding).total_minor, price.currency)]
    before, charged = billed, 0
    for _ in range(random.randrange(1, 4)):
        after = abs(draw_quantity(random, price))
        priced = price_late(lines, price, before=before, after=after)
        assert not isinstance(priced, str), priced
        kept = json.loads(priced.derivation)
        was, is_now = recompute_quote(kept["before"]), recompute_quote(kept["after"])
        assert (was.quantity, is_now.quantity) == (before, after)
        amount = -priced.amount_minor if priced.kind == "credit_note" else priced.amount_minor
        assert amount == is_now.total_minor - was.total_minor == kept["amountMinor"]
        assert (priced.kind == "nothing") == (amount == 0)
        before, charged = after, charged + amount
    directions = {quote(price, before, each).total_minor - quote(price, billed, each).total_minor for each in ROUNDINGS}
    assert charged in directions


@given(seed=st.integers(0, 2**32))
def test_an_amount_our_price_does_not_make_is_not_built_upon(seed: int) -> None:
    """One minor unit beside every direction of rounding: nothing is charged, and both amounts are said."""
    random = Random(seed)
    price = draw_price(random, sellable_at_stripe=True)
    billed = abs(draw_quantity(random, price))
    amount = max(quote(price, billed, rounding).total_minor for rounding in ROUNDINGS) + 1
    refused = price_late([line(billed, amount, price.currency)], price, before=billed, after=billed + 1)
    assert isinstance(refused, str)
    assert f"the invoice bills {amount} in minor units" in refused
