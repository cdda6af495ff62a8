"""The emulator's products, prices, subscriptions and invoices, through the official SDK over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from tests.emulator import RunningEmulator

START = datetime(2026, 1, 31, 10, 30, tzinfo=UTC)


def _at(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp())  # type: ignore[misc,arg-type]


class Shop:
    """A customer, a sum meter and a product at a frozen instant."""

    def __init__(self, emulator: RunningEmulator, now: datetime = START) -> None:
        self.emulator = emulator
        emulator.freeze(now)
        self.client = emulator.client()
        self.customer = self.client.v1.customers.create({"name": "Ada"}).id
        self.meter = self.client.v1.billing.meters.create(
            {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
        ).id
        self.product = self.client.v1.products.create({"name": "API"}).id

    def price(self, **parameters: Any) -> str:  # noqa: ANN401 - any parameter
        """A monthly metered price; 2 cents a unit unless told otherwise."""
        recurring = {"interval": "month", "usage_type": "metered", "meter": self.meter}
        given: Any = {"currency": "usd", "product": self.product, "recurring": recurring, "unit_amount": 2}
        given |= parameters
        return self.client.v1.prices.create(given).id

    def subscribe(self, price: str, **parameters: Any) -> stripe.Subscription:  # noqa: ANN401 - any parameter
        """One item."""
        given: Any = {"customer": self.customer, "items": [{"price": price}], **parameters}
        return self.client.v1.subscriptions.create(given)

    def use(self, value: int, ts: int) -> None:
        """One meter event."""
        payload = {"stripe_customer_id": self.customer, "value": str(value)}
        self.client.v1.billing.meter_events.create({"event_name": "calls", "timestamp": ts, "payload": payload})

    def invoices(self) -> list[stripe.Invoice]:
        """Oldest first."""
        return list(reversed(self.client.v1.invoices.list({"customer": self.customer}).data))


def test_products_live_and_die(emulator: RunningEmulator) -> None:
    """R1: create, change, list, delete; one with a price stays."""
    shop = Shop(emulator)
    products = shop.client.v1.products
    changed = products.update(shop.product, {"name": "Calls", "active": False})
    assert (changed.name, changed.active) == ("Calls", False)
    assert [found.id for found in products.list({"active": False}).data] == [shop.product]
    shop.price()
    with pytest.raises(stripe.InvalidRequestError, match="has one or more user-created prices"):
        products.delete(shop.product)
    empty = products.create({"name": "Empty"}).id
    assert products.delete(empty).deleted is True
    with pytest.raises(stripe.InvalidRequestError, match="No such product"):
        products.retrieve(empty)


def test_tiers_come_only_when_expanded(emulator: RunningEmulator) -> None:
    """R2: tiers are left out unless `expand[]=tiers`; the open end is null."""
    shop = Shop(emulator)
    tiers = [{"up_to": 10, "unit_amount_decimal": "0.5", "flat_amount": 100}, {"up_to": "inf", "unit_amount": 3}]
    tiered: Any = {"currency": "usd", "product": shop.product, "billing_scheme": "tiered", "tiers_mode": "graduated"}
    tiered |= {"tiers": tiers, "recurring": {"interval": "month", "usage_type": "metered", "meter": shop.meter}}
    price = shop.client.v1.prices.create(tiered)
    assert "tiers" not in price
    found = shop.client.v1.prices.retrieve(price.id, {"expand": ["tiers"]}).tiers
    assert found is not None
    assert [(tier.up_to, tier.unit_amount, str(tier.unit_amount_decimal), tier.flat_amount) for tier in found] == [
        (10, None, "0.5", 100),
        (None, 3, "3", None),
    ]
    listed = shop.client.v1.prices.list({"product": shop.product, "expand": ["data.tiers"]}).data
    assert [len(entry.tiers or []) for entry in listed] == [2]
    tiered["tiers"] = tiers[::-1]
    with pytest.raises(stripe.InvalidRequestError, match="ascending"):
        shop.client.v1.prices.create(tiered)


def test_prices_are_fixed_but_for_a_few_members(emulator: RunningEmulator) -> None:
    """R3-R5: amounts never change; lookup keys move only on request; a metered price needs a meter."""
    shop = Shop(emulator)
    prices = shop.client.v1.prices
    first, second = shop.price(lookup_key="calls"), shop.price()
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter: unit_amount"):
        prices.update(first, {"unit_amount": 3})  # type: ignore[arg-type]
    with pytest.raises(stripe.InvalidRequestError, match="already uses that lookup key"):
        prices.update(second, {"lookup_key": "calls"})
    prices.update(second, {"lookup_key": "calls", "transfer_lookup_key": True, "nickname": "New"})
    assert [found.id for found in prices.list({"lookup_keys": ["calls"]}).data] == [second]
    with pytest.raises(stripe.InvalidRequestError, match="must be backed by meters"):
        shop.price(recurring={"interval": "month", "usage_type": "metered"})


def test_month_ends_are_clamped_from_the_anchor(emulator: RunningEmulator) -> None:
    """P13, P14: Jan 31, Feb 28, Mar 31, Apr 30; the period lives on the item."""
    shop = Shop(emulator)
    subscription = shop.subscribe(shop.price()).id
    ends = []
    for _ in range(4):
        item = shop.client.v1.subscriptions.retrieve(subscription)["items"].data[0]
        ends.append(item.current_period_end)
        emulator.freeze(datetime.fromtimestamp(item.current_period_end, UTC))
    assert ends == [_at(2026, month, day, 10, 30) for month, day in ((2, 28), (3, 31), (4, 30), (5, 31))]


def test_an_anchor_config_names_the_day(emulator: RunningEmulator) -> None:
    """P13: the 31st at midnight from a February: a stub to Feb 28, then Mar 31."""
    shop = Shop(emulator, datetime(2026, 2, 10, 8, tzinfo=UTC))
    config: Any = {"day_of_month": 31, "hour": 0, "minute": 0, "second": 0}
    subscription = shop.subscribe(shop.price(), billing_cycle_anchor_config=config)
    item = subscription["items"].data[0]
    assert (item.current_period_start, item.current_period_end) == (_at(2026, 2, 10, 8), _at(2026, 2, 28))
    emulator.freeze(datetime(2026, 3, 1, tzinfo=UTC))
    item = shop.client.v1.subscriptions.retrieve(subscription.id)["items"].data[0]
    assert (item.current_period_start, item.current_period_end) == (_at(2026, 2, 28), _at(2026, 3, 31))


def test_usage_is_read_again_at_finalization(emulator: RunningEmulator) -> None:
    """P1-P4: the draft shows what was known; late usage inside the period counts until the grace ends, never after."""
    shop = Shop(emulator)
    subscription = shop.subscribe(shop.price()).id
    end = _at(2026, 2, 28, 10, 30)
    emulator.freeze(datetime.fromtimestamp(end - 3600, UTC))
    shop.use(10, end - 3600)
    assert shop.client.v1.invoices.create_preview({"subscription": subscription}).total == 20
    emulator.control("POST", "/clock", {"freeze": end})
    draft = shop.invoices()[0]
    assert (draft.status, draft.total, draft.created, draft.automatically_finalizes_at) == (
        "draft",
        20,
        end,
        end + 3600,
    )
    shop.use(5, end - 60)
    shop.use(100, end)  # the next period's
    assert draft.id is not None
    assert shop.client.v1.invoices.retrieve(draft.id).total == 20
    emulator.control("POST", "/clock", {"advance": 3600})
    shop.use(7, end - 60)  # too late for any invoice
    final = shop.client.v1.invoices.retrieve(draft.id)
    assert (final.status, final.total, final.amount_due, final.status_transitions.finalized_at) == (
        "paid",
        30,
        30,
        end + 3600,
    )
    line = shop.client.v1.invoices.line_items.list(draft.id).data[0]
    assert (line.quantity, str(line.quantity_decimal), line.period.end) == (15, "15", end)
    assert shop.client.v1.invoices.create_preview({"subscription": subscription}).total == 200


def test_a_draft_can_be_held_finalized_and_voided(emulator: RunningEmulator) -> None:
    """B1: without auto_advance a draft waits for its owner; a sent invoice is open and can be voided, a draft not."""
    emulator.control("POST", "/billing", {"grace_seconds": 72 * 3600})
    shop = Shop(emulator)
    shop.subscribe(shop.price(), collection_method="send_invoice", days_until_due=30)
    end = _at(2026, 2, 28, 10, 30)
    emulator.control("POST", "/clock", {"freeze": end})
    shop.use(1, end - 1)
    draft = shop.invoices()[0]
    assert draft.id is not None
    assert draft.automatically_finalizes_at == end + 72 * 3600
    assert shop.client.v1.invoices.update(draft.id, {"auto_advance": False}).automatically_finalizes_at is None
    emulator.control("POST", "/clock", {"advance": 10 * 86_400})
    assert shop.client.v1.invoices.retrieve(draft.id).status == "draft"
    with pytest.raises(stripe.InvalidRequestError, match="only void open invoices"):
        shop.client.v1.invoices.void_invoice(draft.id)
    final = shop.client.v1.invoices.finalize_invoice(draft.id)
    assert (final.status, final.total, final.amount_remaining) == ("open", 2, 2)
    with pytest.raises(stripe.InvalidRequestError, match="already finalized"):
        shop.client.v1.invoices.finalize_invoice(draft.id)
    assert shop.client.v1.invoices.void_invoice(draft.id).status == "void"


@pytest.mark.parametrize(("parameters", "status"), [({}, "open"), ({"auto_advance": True}, "paid")])
def test_a_held_draft_is_charged_only_when_it_advances_again(
    emulator: RunningEmulator,
    parameters: Any,  # noqa: ANN401 - as the SDK types them
    status: str,
) -> None:
    """B1: finalizing alone leaves it uncollected; listing knows instants of creation."""
    shop = Shop(emulator)
    shop.subscribe(shop.price())
    end = _at(2026, 2, 28, 10, 30)
    emulator.control("POST", "/clock", {"freeze": end})
    shop.use(1, end - 1)
    draft = shop.invoices()[0]
    assert draft.id is not None
    shop.client.v1.invoices.update(draft.id, {"auto_advance": False})
    assert shop.client.v1.invoices.finalize_invoice(draft.id, parameters).status == status
    found = [len(shop.client.v1.invoices.list({"created": {"gte": bound}}).data) for bound in (end - 1, end, end + 1)]
    assert found == [1, 1, 0]


@pytest.mark.parametrize(
    ("mode", "behavior", "knob", "amounts"),
    [
        ("flexible", "create_prorations", "lost", [20, 35]),
        ("flexible", "create_prorations", "counted", [28, 35]),
        ("flexible", "none", "lost", [35]),
        ("classic", "create_prorations", "lost", [35]),
    ],
)
def test_a_price_change_in_the_middle(
    emulator: RunningEmulator, mode: str, behavior: str, knob: str, amounts: list[int]
) -> None:
    """P7-P9: flexible bills the old price until the change; with none, and in classic mode, that usage is lost."""
    emulator.control("POST", "/billing", {"usage_before_price_change": knob})
    shop = Shop(emulator, datetime(2026, 1, 1, tzinfo=UTC))
    subscription = shop.subscribe(shop.price(), billing_mode={"type": mode})
    shop.use(10, _at(2026, 1, 1))
    emulator.freeze(datetime(2026, 1, 16, tzinfo=UTC))
    dearer, item = shop.price(unit_amount=7), subscription["items"].data[0].id
    change: Any = {"price": dearer, "proration_behavior": behavior}
    shop.client.v1.subscription_items.update(item, change)
    shop.use(4, _at(2026, 1, 15))  # the old price's, received after the change
    shop.use(5, _at(2026, 1, 16))
    emulator.freeze(datetime(2026, 2, 2, tzinfo=UTC))
    invoice = shop.invoices()[0]
    assert [line.amount for line in invoice.lines.data] == amounts
    assert (invoice.status, invoice.total) == ("paid", sum(amounts))


def test_subscriptions_end(emulator: RunningEmulator) -> None:
    """P11: at the period's end the last usage is billed; at once it is billed with `invoice_now` only."""
    shop = Shop(emulator, datetime(2026, 1, 1, tzinfo=UTC))
    subscriptions, price = shop.client.v1.subscriptions, shop.price()
    later, now, lost = (shop.subscribe(price).id for _ in range(3))
    shop.use(3, _at(2026, 1, 1))
    emulator.freeze(datetime(2026, 1, 2, tzinfo=UTC))
    subscriptions.cancel(now, {"invoice_now": True})
    assert subscriptions.cancel(lost).status == "canceled"
    subscriptions.update(later, {"cancel_at_period_end": True})
    emulator.freeze(datetime(2026, 3, 1, tzinfo=UTC))
    assert [invoice.total for invoice in shop.invoices()] == [6, 6]
    assert subscriptions.retrieve(later).ended_at == _at(2026, 2, 1)
    assert subscriptions.list().data == []
    with pytest.raises(stripe.InvalidRequestError, match="canceled subscription"):
        subscriptions.update(later, {"description": "x"})


def test_a_deleted_customer_is_billed_no_more(emulator: RunningEmulator) -> None:
    """B5: the subscription ends at once; no invoice at the period's end."""
    shop = Shop(emulator, datetime(2026, 1, 1, tzinfo=UTC))
    subscription = shop.subscribe(shop.price()).id
    shop.use(3, _at(2026, 1, 1))
    emulator.freeze(datetime(2026, 1, 2, tzinfo=UTC))
    assert shop.client.v1.customers.delete(shop.customer).deleted is True
    emulator.freeze(datetime(2026, 3, 1, tzinfo=UTC))
    ended = shop.client.v1.subscriptions.retrieve(subscription)
    assert (ended.status, ended.ended_at) == ("canceled", _at(2026, 1, 2))
    assert shop.invoices() == []


def test_licensed_prices_are_billed_in_advance(emulator: RunningEmulator) -> None:
    """B2: quantity times amount on the first invoice, paid at once, and on each renewal beside the past usage."""
    shop = Shop(emulator, datetime(2026, 1, 1, tzinfo=UTC))
    seats = shop.price(recurring={"interval": "month"}, unit_amount=1000)
    shop.subscribe(seats, items=[{"price": seats, "quantity": 3}, {"price": shop.price()}])
    shop.use(8, _at(2026, 1, 1))
    assert [(invoice.status, invoice.total) for invoice in shop.invoices()] == [("paid", 3000)]
    emulator.freeze(datetime(2026, 2, 2, tzinfo=UTC))
    assert [invoice.total for invoice in shop.invoices()] == [3000, 3016]


def test_a_refusal_changes_nothing(emulator: RunningEmulator) -> None:
    """B3: a subscription whose second item is refused leaves nothing behind; unimplemented parameters are told."""
    shop = Shop(emulator)
    price = shop.price()
    with pytest.raises(stripe.InvalidRequestError, match="cannot set the quantity"):
        shop.subscribe(price, items=[{"price": price}, {"price": price, "quantity": 2}])
    assert shop.client.v1.subscriptions.list().data == []
    with pytest.raises(stripe.InvalidRequestError, match="does not implement parameter: trial_period_days"):
        shop.subscribe(price, trial_period_days=7)
