"""Our preview is Stripe's: events are counted and pushed, and both invoices have the same lines to the last unit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.billing import BillingSink, Mode
from stripemeter.metering.price_mappings import parse_statement
from stripemeter.metering.segments import BEGINNING
from stripemeter.pipeline.customers import CustomerChange, StripeLink, put_customer
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.invoice_previews import InvoicePreviews, preview_invoices
from stripemeter.pipeline.price_mappings import create_mapping
from stripemeter.pipeline.prices import AskedPrice, import_prices
from stripemeter.pipeline.projections import project_cost
from stripemeter.pipeline.push import push_usage
from stripemeter.pricing import Rounding, invoice_record, price_to_stripe, recompute_invoice
from stripemeter.pricing.currencies import to_minor
from stripemeter.store.item_prices import list_item_prices
from stripemeter.store.mappings import CustomerBinding, bind_customer
from stripemeter.store.postgres import transaction
from stripemeter.store.usage import load_current_usage
from tests.emulator import RunningEmulator
from tests.laws.prices import ROUNDINGS, draw_price, draw_quantity
from tests.laws.worlds import Fact, ingest_into
from tests.stripe_bench import NO_PAUSE, NOW, shadow_sink

START, END = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
GRADUATED = [
    {"up_to": 10, "unit_amount_decimal": "0.5", "flat_amount": 900},
    {"up_to": 20, "unit_amount_decimal": "0"},
    {"up_to": "inf", "unit_amount_decimal": "0.15", "flat_amount_decimal": "0.5"},
]
VOLUME = [{"up_to": 100, "unit_amount": 3}, {"up_to": "inf", "unit_amount_decimal": "2.5", "flat_amount": 50}]
PRICES: dict[str, tuple[dict[str, Any], str]] = {
    "flat": ({"unit_amount_decimal": "0.5"}, "333"),
    "package": ({"unit_amount": 700, "transform_quantity": {"divide_by": 1000, "round": "up"}}, "2001"),
    "started": ({"unit_amount": 700, "transform_quantity": {"divide_by": 1000, "round": "down"}}, "2999"),
    "graduated": ({"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": GRADUATED}, "37"),
    "volume": ({"billing_scheme": "tiered", "tiers_mode": "volume", "tiers": VOLUME}, "101"),
    "fraction": ({"unit_amount_decimal": "1.2"}, "1.02"),
    "unused": ({"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": GRADUATED}, "0"),
}
"""Price and quantity of a metric each: with halves of a minor unit, less than halves, and bounds passed by one."""


class Market:
    """A tenant whose metrics are mapped to prices of their own, and `ada`, who is subscribed to all of them.

    Of `special` metrics ada pays a price of her own.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        database_url: str,
        emulator: RunningEmulator,
        sold: dict[str, tuple[dict[str, Any], str]] = PRICES,
        special: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.pool, self.database_url, self.emulator, self.now = pool, database_url, emulator, NOW
        emulator.freeze(START)
        self.client, self.sink = emulator.client(), shadow_sink(emulator)
        self.product = self.client.v1.products.create({"name": "API"}).id
        self.customer = self.sink.create_customer(name="ada", idempotency_key="ada")
        self.prices = {metric: self.price(metric, terms) for metric, (terms, _) in sold.items()}
        own = {metric: self.price(metric, terms) for metric, terms in (special or {}).items()}
        self.subscription = self.subscribe(list({**self.prices, **own}.values()))
        emulator.freeze(NOW)
        account = self.sink.account_id()
        with transaction(pool) as tx:
            bind_customer(
                tx,
                CustomerBinding(
                    tenant_id="acme",
                    customer_ref="ada",
                    stripe_account_id=account,
                    stripe_customer_id=self.customer,
                    created_at=START,
                ),
            )
        for metric, price in self.prices.items():
            said = {"metric": metric, "aggregation": "sum", "stripeAccount": account, "priceId": price, "shadow": True}
            create_mapping(pool, self.open_account, tenant_id="acme", statement=parse_statement(said), now=START)

    def open_account(self, mode: Mode, account: str | None = None) -> BillingSink:
        """The emulator's only account."""
        assert (mode, account) in (("shadow", None), ("shadow", self.sink.account_id()))
        return self.sink

    def price(self, metric: str, terms: dict[str, Any], currency: str = "usd") -> str:
        """A monthly price on a meter of the metric's name."""
        meter = self.sink.ensure_meter(event_name=metric, display_name=metric).stripe_meter_id
        recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
        given: Any = {"currency": currency, "product": self.product, "recurring": recurring, **terms}
        return self.client.v1.prices.create(given).id

    def subscribe(self, prices: list[str]) -> str:
        """A subscription of UTC months."""
        anchor = {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}
        items = [{"price": price} for price in prices]
        given: Any = {"customer": self.customer, "items": items, "billing_cycle_anchor_config": anchor}
        return self.client.v1.subscriptions.create(given).id

    def item_of(self, metric: str) -> tuple[str, str]:
        """The subscription's item that bills a metric, and its price."""
        meter = self.sink.ensure_meter(event_name=metric, display_name=metric).stripe_meter_id
        items = self.client.v1.subscription_items.list({"subscription": self.subscription}).auto_paging_iter()
        (found,) = [
            (item.id, item.price.id)
            for item in items
            if item.price.recurring is not None and item.price.recurring.meter == meter
        ]
        return found

    def record_items(self, items: dict[str, str]) -> None:
        """Say which items bill ada's metrics, as `PUT /v1/customers/ada` does."""
        link = StripeLink(
            account_id=None,
            customer_id=self.customer,
            items=tuple((metric, self.subscription, item) for metric, item in items.items()),
        )
        change = CustomerChange(stripe=link)
        put_customer(self.pool, tenant_id="acme", customer_ref="ada", change=change, now=self.now)

    def sync(self) -> list[AskedPrice]:
        """Ask Stripe for the prices."""
        self.now += timedelta(minutes=2)
        return import_prices(self.pool, self.open_account, tenant_id="acme", now=self.now)

    def use(self, quantities: dict[str, str]) -> None:
        """Report it in two events each, yesterday and today; count it, push it; two minutes go by."""
        facts = []
        for metric, quantity in quantities.items():
            first = Decimal(quantity) // 2
            for at, part in ((NOW - timedelta(hours=24), first), (NOW - timedelta(hours=1), Decimal(quantity) - first)):
                facts.append(Fact(metric=metric, customer="ada", quantity=str(part), ts=at))
        with ingest_into(self.database_url, clock=lambda: NOW) as ingest:
            ingest.accept(facts, now=NOW)
        fold(self.pool, now=NOW)
        push_usage(self.pool, self.sink, now=self.now, retries=NO_PAUSE)
        self.now += timedelta(minutes=2)
        self.emulator.freeze(self.now)

    def preview(self, rounding: Rounding = "half_up") -> InvoicePreviews:
        """Ours."""
        return preview_invoices(self.pool, tenant_id="acme", customer_ref="ada", at=NOW, rounding=rounding, now=NOW)

    def theirs(self, subscription: str | None = None) -> dict[str, list[tuple[int, int]]]:
        """Stripe's, as (amount, nth line of its price) by price, and its total under ''."""
        invoice: Any = self.client.v1.invoices.create_preview({"subscription": subscription or self.subscription})
        lines: dict[str, list[tuple[int, int]]] = {"": [(invoice.total, 0)]}
        for line in invoice.lines.auto_paging_iter():
            of_price = lines.setdefault(line.pricing.price_details.price, [])
            of_price.append((line.amount, len(of_price)))
        return lines


@pytest.fixture
def market(pool: ConnectionPool, database_url: str, emulator: RunningEmulator) -> Market:
    """Nothing is used yet."""
    return Market(pool, database_url, emulator)


def ours(found: InvoicePreviews) -> dict[str, list[tuple[int, int]]]:
    """Our only invoice, in the form of `Market.theirs`."""
    (preview,) = found.invoices
    lines: dict[str, list[tuple[int, int]]] = {"": [(preview.invoice.total_minor, 0)]}
    for line in preview.invoice.lines:
        of_price = lines.setdefault(line.line.price_version.split("@")[0], [])
        of_price.append((line.line.amount_minor, len(of_price)))
    return lines


def test_our_preview_is_stripes(market: Market) -> None:
    """Every kind of price, line by line, under each rounding; what was counted, pushed and priced is one number."""
    market.use({metric: quantity for metric, (_, quantity) in PRICES.items() if quantity != "0"})
    used = load_current_usage(market.pool, tenant_id="acme", customer_ref="ada", at=NOW, now=NOW).metrics
    assert {metric: usage.quantity for metric, usage in used.items()} == {
        metric: Decimal(quantity) for metric, (_, quantity) in PRICES.items() if quantity != "0"
    }
    totals = []
    for rounding in ROUNDINGS:
        market.emulator.control("POST", "/billing", {"line_rounding": rounding})
        found = market.preview(rounding)
        assert ours(found) == market.theirs()
        assert (found.usage.unpriced, found.usage.segment.start, found.usage.segment.end) == ((), START, END)
        (preview,) = found.invoices
        assert recompute_invoice(invoice_record(preview.invoice)) == preview.invoice
        projected = project_cost(
            market.pool, tenant_id="acme", customer_ref="ada", period=None, rounding=rounding, now=NOW
        )
        assert [total.invoice.total for total in projected.totals] == [preview.invoice.total]
        totals.append(preview.invoice.total_minor)
    assert len(set(totals)) == 3, "the usage must have fractions that each rounding treats otherwise"


@pytest.mark.parametrize("seed", range(3))
def test_prices_at_random(pool: ConnectionPool, database_url: str, emulator: RunningEmulator, seed: int) -> None:
    """Five prices nobody chose, near their bounds, ties and free tiers: the lines are Stripe's under each rounding."""
    random = Random(seed)
    terms: dict[str, tuple[dict[str, Any], str]] = {}
    for number in range(5):
        price = draw_price(random, currency="USD", sellable_at_stripe=True)
        # Stripe takes 15 digits of a meter event's value; what we push beyond is split, and slow to draw.
        quantity = min(abs(draw_quantity(random, price)), Decimal(10**9)).quantize(Decimal("0.0001"))
        terms[f"random{number}"] = _given(price_to_stripe(price)), str(quantity)
    market = Market(pool, database_url, emulator, terms)
    market.use({metric: quantity for metric, (_, quantity) in terms.items()})
    for rounding in ROUNDINGS:
        emulator.control("POST", "/billing", {"line_rounding": rounding})
        assert ours(market.preview(rounding)) == market.theirs()


def _given(document: dict[str, Any]) -> dict[str, Any]:
    """The parameters that make such a price: amounts in their exact form alone, the last tier up to `inf`."""
    named = {name: value for name, value in document.items() if name not in ("id", "currency", "unit_amount")}
    if "tiers" in named:
        named["tiers"] = [
            {
                "up_to": tier["up_to"] or "inf",
                **{
                    name: tier[name]
                    for name in ("unit_amount_decimal", "flat_amount_decimal")
                    if tier[name] is not None
                },
            }
            for tier in named["tiers"]
        ]
    return {name: value for name, value in named.items() if value is not None}


def test_more_usage_moves_both_alike(market: Market) -> None:
    """Up to a tier's end and over others: after each push the invoices are equal again."""
    seen = []
    for quantity in ("10", "1", "9"):
        market.use({"graduated": quantity, "volume": quantity})
        assert ours(market.preview()) == market.theirs()
        seen.append(ours(market.preview())[""][0][0])
    assert len(set(seen)) == 3


def test_currencies_are_never_added(market: Market) -> None:
    """Yen beside dollars: an invoice each, each as Stripe makes it."""
    market.emulator.freeze(START)
    yen = market.price("disk", {"unit_amount_decimal": "2.5"}, currency="jpy")
    subscription = market.subscribe([yen])
    market.emulator.freeze(NOW)
    account = market.sink.account_id()
    said = {"metric": "disk", "aggregation": "sum", "stripeAccount": account, "priceId": yen, "shadow": True}
    create_mapping(market.pool, market.open_account, tenant_id="acme", statement=parse_statement(said), now=NOW)
    market.use({"disk": "3", "flat": "10"})
    found = {preview.invoice.currency: preview.invoice for preview in market.preview().invoices}
    assert {currency: invoice.total_minor for currency, invoice in found.items()} == {
        "JPY": market.theirs(subscription)[""][0][0],
        "USD": market.theirs()[""][0][0],
    }
    assert (found["JPY"].total, found["USD"].total) == (8, Decimal("18.05"))
    projected = project_cost(
        market.pool, tenant_id="acme", customer_ref="ada", period=None, rounding="half_up", now=NOW
    )
    assert [
        (total.invoice.currency, to_minor(total.invoice.total, total.invoice.currency)) for total in projected.totals
    ] == [
        ("JPY", 8),
        ("USD", 1805),
    ]


def test_who_pays_a_price_of_its_own_is_previewed_by_it(
    pool: ConnectionPool, database_url: str, emulator: RunningEmulator
) -> None:
    """Once asked for, the customer's subscription item says the price, not the mapping; a change holds from then on."""
    sold = {metric: PRICES[metric] for metric in ("flat", "volume")}
    market = Market(pool, database_url, emulator, sold, special={"flat": {"unit_amount_decimal": "0.25"}})
    market.use({"flat": "333", "volume": "101"})
    assert ours(market.preview()) != market.theirs(), "the mapping's price is not the customer's"

    item, special = market.item_of("flat")
    market.record_items({"flat": item, "volume": market.item_of("volume")[0]})
    asked = market.sync()
    assert [(each.customer_ref, each.price_id, each.outcome) for each in asked if each.meter == "flat"] == [
        (None, market.prices["flat"], "unchanged"),
        (None, special, "imported"),
        ("ada", special, "imported"),
    ]
    assert {each.outcome for each in market.sync()} == {"unchanged"}
    assert ours(market.preview()) == market.theirs()

    market.client.v1.subscription_items.update(item, {"price": market.prices["flat"]})
    market.sync()
    assert special not in ours(market.preview())
    assert market.prices["flat"] in ours(market.preview())
    with transaction(pool) as tx:
        held = [(each.stripe_price_id, each.effective_from) for each in list_item_prices(tx, "acme", "ada")]
    assert held[:2] == [(special, BEGINNING), (market.prices["flat"], market.now)]


def test_an_item_that_is_gone_is_named(market: Market) -> None:
    """Nothing is guessed: the outcome says which item Stripe does not know, and the mapping's price stays."""
    market.use({"flat": "333"})
    market.record_items({"flat": "si_gone"})
    assert [(each.customer_ref, each.price_id) for each in market.sync() if each.outcome == "missing"] == [
        ("ada", "si_gone")
    ]
    assert market.prices["flat"] in ours(market.preview())
