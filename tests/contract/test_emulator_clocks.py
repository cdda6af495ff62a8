"""The emulator's test clocks: rules T of its RULES.md, through the official SDK over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import stripe

from tests.contract.test_emulator_billing import Shop
from tests.emulator import RunningEmulator

WORLD = datetime(2026, 11, 23, 12, tzinfo=UTC)
START = int(datetime(2026, 1, 31, tzinfo=UTC).timestamp())
FIRST_END = int(datetime(2026, 2, 28, tzinfo=UTC).timestamp())
SECOND_END = int(datetime(2026, 3, 31, tzinfo=UTC).timestamp())
HOUR = 3_600


class ClockedShop(Shop):
    """A shop whose customer lives on a test clock, ten months behind the emulator's clock."""

    def __init__(self, emulator: RunningEmulator) -> None:
        super().__init__(emulator, WORLD)
        self.clocks = self.client.v1.test_helpers.test_clocks
        self.clock = self.clocks.create({"frozen_time": START, "name": "Ada's"}).id
        self.customer = self.client.v1.customers.create({"test_clock": self.clock}).id

    def advance(self, to: int) -> stripe.test_helpers.TestClock:
        """The answer while it advances."""
        return self.clocks.advance(self.clock, {"frozen_time": to})

    def told(self) -> list[str]:
        """Types of all events, oldest first."""
        return [event.type for event in reversed(self.client.v1.events.list({"limit": 100}).data)]


@pytest.fixture
def shop(emulator: RunningEmulator) -> ClockedShop:
    """A customer on a clock."""
    return ClockedShop(emulator)


def test_a_clock_moves_its_subscriptions_and_nothing_else(shop: ClockedShop) -> None:
    """T1, T3, T4: periods end, drafts are made and finalized at the clock's instants; the world stands still."""
    other = shop.client.v1.customers.create({}).id
    price = shop.price()
    subscription = shop.subscribe(price)
    elsewhere = shop.subscribe(price, customer=other)
    item = subscription["items"].data[0]
    assert (subscription.test_clock, subscription.created) == (shop.clock, START)
    assert (item.current_period_start, item.current_period_end) == (START, FIRST_END)
    shop.use(10, START + 60)
    answer = shop.advance(FIRST_END + HOUR - 1)
    assert (answer.status, answer.frozen_time) == ("advancing", START)
    assert answer.status_details.advancing is not None
    assert answer.status_details.advancing.target_frozen_time == FIRST_END + HOUR - 1
    clock = shop.clocks.retrieve(shop.clock)
    assert (clock.status, clock.frozen_time, clock.status_details.to_dict()) == ("ready", FIRST_END + HOUR - 1, {})
    (draft,) = shop.invoices()
    assert (draft.status, draft.created, draft.total, draft.test_clock) == ("draft", FIRST_END, 20, shop.clock)
    shop.use(5, FIRST_END - 60)
    shop.advance(FIRST_END + HOUR)
    (final,) = shop.invoices()
    assert (final.status, final.total, final.status_transitions.finalized_at) == ("paid", 30, FIRST_END + HOUR)
    moved = shop.client.v1.subscriptions.retrieve(subscription.id)["items"].data[0]
    assert moved.current_period_end == SECOND_END
    still = shop.client.v1.subscriptions.retrieve(elsewhere.id)["items"].data[0]
    assert still.current_period_start == int(WORLD.timestamp())
    assert shop.client.v1.invoices.list({"customer": other}).data == []


def test_what_a_clock_brings_about_is_told_before_it_is_ready(shop: ClockedShop) -> None:
    """T5: created, advancing, the invoice's events, ready, deleted; in the world's time."""
    shop.subscribe(shop.price())
    shop.advance(FIRST_END + HOUR)
    shop.clocks.delete(shop.clock)
    assert shop.told() == [
        "test_helpers.test_clock.created",
        "test_helpers.test_clock.advancing",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "test_helpers.test_clock.ready",
        "test_helpers.test_clock.deleted",
    ]
    assert {event.created for event in shop.client.v1.events.list().data} == {int(WORLD.timestamp())}


def test_nothing_changes_while_a_clock_advances(shop: ClockedShop) -> None:
    """T6: invoices are there and told, and changing them is a 429 until the clock is ready; reading is not."""
    shop.emulator.control("POST", "/billing", {"advancing_seconds": 30})
    subscription = shop.subscribe(shop.price()).id
    shop.advance(FIRST_END)
    (draft,) = shop.invoices()
    assert draft.id is not None
    for refused in (
        lambda: shop.client.v1.invoices.update(draft.id or "", {"auto_advance": False}),
        lambda: shop.client.v1.invoices.finalize_invoice(draft.id or ""),
        lambda: shop.client.v1.subscriptions.update(subscription, {"description": "x"}),
        lambda: shop.subscribe(shop.price()),
        lambda: shop.client.v1.customers.create({"test_clock": shop.clock}),
        lambda: shop.advance(FIRST_END + 1),
    ):
        with pytest.raises(stripe.RateLimitError, match="Test clock advancement underway"):
            refused()
    assert shop.client.v1.invoices.create_preview({"subscription": subscription}).period_end == SECOND_END
    shop.emulator.control("POST", "/clock", {"advance": 30})
    assert shop.clocks.retrieve(shop.clock).status == "ready"
    assert shop.client.v1.invoices.update(draft.id, {"auto_advance": False}).auto_advance is False


def test_a_clock_has_limits(shop: ClockedShop) -> None:
    """T2: three customers, three subscriptions each, forward only, two intervals or two years."""
    two_years = int(datetime(2028, 1, 31, tzinfo=UTC).timestamp())
    with pytest.raises(stripe.InvalidRequestError, match="two years"):
        shop.advance(two_years + 1)
    for _ in range(2):
        shop.client.v1.customers.create({"test_clock": shop.clock})
    with pytest.raises(stripe.InvalidRequestError, match="at most 3 customers"):
        shop.client.v1.customers.create({"test_clock": shop.clock})
    price = shop.price()
    for _ in range(3):
        shop.subscribe(price)
    with pytest.raises(stripe.InvalidRequestError, match="at most 3 subscriptions"):
        shop.subscribe(price)
    with pytest.raises(stripe.InvalidRequestError, match="after the test clock's current frozen time"):
        shop.advance(START)
    with pytest.raises(stripe.InvalidRequestError, match="two intervals"):
        shop.advance(SECOND_END + 1)
    shop.advance(SECOND_END)
    with pytest.raises(stripe.InvalidRequestError, match="No such test clock"):
        shop.client.v1.customers.create({"test_clock": "clock_nobody"})


def test_a_clock_takes_its_customers_with_it(shop: ClockedShop) -> None:
    """T7: deleted by hand or 30 days after its creation: subscriptions canceled, customers deleted, drafts left."""
    subscription = shop.subscribe(shop.price()).id
    shop.advance(FIRST_END)
    clock = shop.clocks.retrieve(shop.clock)
    assert clock.deletes_after == clock.created + 30 * 86_400
    shop.emulator.freeze(datetime.fromtimestamp(clock.deletes_after - 1, UTC))
    assert [found.id for found in shop.clocks.list().data] == [shop.clock]
    shop.emulator.freeze(datetime.fromtimestamp(clock.deletes_after, UTC))
    with pytest.raises(stripe.InvalidRequestError, match="No such test clock"):
        shop.clocks.retrieve(shop.clock)
    assert shop.client.v1.subscriptions.retrieve(subscription).status == "canceled"
    assert shop.client.v1.customers.retrieve(shop.customer).deleted is True
    assert [invoice.status for invoice in shop.invoices()] == ["draft"]


def test_lists_leave_clocks_out_unless_asked(shop: ClockedShop) -> None:
    """T8: customers and subscriptions on clocks are listed by clock, subscriptions by customer too."""
    other = shop.client.v1.customers.create({}).id
    price = shop.price()
    there, here = shop.subscribe(price).id, shop.subscribe(price, customer=other).id
    customers, subscriptions = shop.client.v1.customers, shop.client.v1.subscriptions
    assert shop.customer not in [found.id for found in customers.list().data]
    assert [found.id for found in customers.list({"test_clock": shop.clock}).data] == [shop.customer]
    assert [found.id for found in subscriptions.list().data] == [here]
    assert [found.id for found in subscriptions.list({"test_clock": shop.clock}).data] == [there]
    assert [found.id for found in subscriptions.list({"customer": shop.customer}).data] == [there]


def test_an_existing_customer_moves_onto_a_clock(shop: ClockedShop) -> None:
    """T9: once, and only without subscriptions."""
    other = shop.client.v1.customers.create({}).id
    clock = shop.clocks.create({"frozen_time": START, "customer": other}).id
    assert shop.client.v1.customers.retrieve(other).test_clock == clock
    with pytest.raises(stripe.InvalidRequestError, match="on a test clock already"):
        shop.clocks.create({"frozen_time": START, "customer": other})
    third = shop.client.v1.customers.create({}).id
    shop.subscribe(shop.price(), customer=third)
    with pytest.raises(stripe.InvalidRequestError, match="never had a subscription"):
        shop.clocks.create({"frozen_time": START, "customer": third})
    assert len(shop.clocks.list().data) == 2


@pytest.mark.parametrize("basis", ["frozen", "wall"])
def test_the_window_of_timestamps_is_the_clocks_or_the_worlds(shop: ClockedShop, basis: str) -> None:
    """T10: 35 days back and 5 minutes ahead of the customer's clock or of the world's; customers without one: world."""
    shop.emulator.control("POST", "/metering", {"event_window_clock": basis})
    other = shop.client.v1.customers.create({}).id
    now = START if basis == "frozen" else int(WORLD.timestamp())
    shop.use(1, now + 300)
    with pytest.raises(stripe.InvalidRequestError, match="5 minutes in the future"):
        shop.use(1, now + 301)
    with pytest.raises(stripe.InvalidRequestError, match="35 days in the past"):
        shop.use(1, now - 35 * 86_400 - 1)
    told = shop.client.v1.billing.meter_events.create(
        {"event_name": "calls", "payload": {"stripe_customer_id": shop.customer, "value": "1"}}
    )
    assert told.timestamp == now
    shop.customer = other
    with pytest.raises(stripe.InvalidRequestError, match="35 days in the past"):
        shop.use(1, START)


@pytest.mark.parametrize(
    ("owner", "totals"), [("beginning_period", [2, 24]), ("ending_period", [6, 20]), ("both", [6, 24])]
)
def test_the_boundary_second_is_a_knob(shop: ClockedShop, owner: str, totals: list[int]) -> None:
    """P5: an event in the second where two periods meet belongs to one of them, or to both."""
    shop.emulator.control("POST", "/billing", {"boundary_second": owner})
    shop.subscribe(shop.price())
    shop.advance(FIRST_END - 1)
    shop.use(1, FIRST_END - 1)
    shop.use(2, FIRST_END)
    shop.use(10, FIRST_END + 1)
    shop.advance(FIRST_END + HOUR)
    shop.advance(SECOND_END)
    assert [invoice.total for invoice in shop.invoices()] == totals
