"""The emulator's payments: rules D of its RULES.md, through the official SDK over HTTP, on a test clock."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from tests.contract.test_emulator_clocks import FIRST_END, HOUR, SECOND_END, ClockedShop
from tests.emulator import RunningEmulator

DAY = 86_400
DUE = FIRST_END + HOUR
GOOD, BAD = "pm_card_visa", "pm_card_chargeCustomerFail"


class PaidShop(ClockedShop):
    """A shop whose customer has a card."""

    def use_card(self, name: str) -> str:
        """Attach a test card and make it the default; its id."""
        method = self.client.v1.payment_methods.attach(name, {"customer": self.customer}).id
        self.client.v1.customers.update(self.customer, {"invoice_settings": {"default_payment_method": method}})
        return method

    def owe(self, card: str) -> str:
        """A subscription with usage, and a card; its id."""
        self.use_card(card)
        subscription = self.subscribe(self.price()).id
        self.use(10, self.clocks.retrieve(self.clock).frozen_time + 60)
        return subscription

    def status(self, subscription: str) -> str:
        """Of a subscription."""
        return self.client.v1.subscriptions.retrieve(subscription).status

    def payments_told(self) -> list[str]:
        """Types of what was told of payments and subscriptions, oldest first."""
        wanted = ("invoice.paid", "invoice.payment_failed", "customer.subscription")
        return [kind for kind in self.told() if kind.startswith(wanted)]


@pytest.fixture
def shop(emulator: RunningEmulator) -> PaidShop:
    """A customer on a clock, without a card yet."""
    return PaidShop(emulator)


def test_payment_methods_belong_to_a_customer(shop: PaidShop) -> None:
    """D1: attached with the customer or later, never somebody else's default."""
    methods, customers = shop.client.v1.payment_methods, shop.client.v1.customers
    given: Any = {"payment_method": GOOD, "invoice_settings": {"default_payment_method": GOOD}}
    other = customers.create(given)
    default = other.invoice_settings.default_payment_method if other.invoice_settings else None
    assert isinstance(default, str)
    found = methods.retrieve(default)
    assert (found.customer, found.type, found.card and found.card.last4) == (other.id, "card", "4242")
    assert methods.attach(BAD, {"customer": other.id}).id != default
    with pytest.raises(stripe.InvalidRequestError, match="does not belong to this customer"):
        customers.update(shop.customer, {"invoice_settings": {"default_payment_method": default}})
    with pytest.raises(stripe.InvalidRequestError, match="No such PaymentMethod: 'pm_card_amex'"):
        methods.attach("pm_card_amex", {"customer": other.id})


def test_a_good_card_pays_at_finalization(shop: PaidShop) -> None:
    """D2: one attempt, at the instant it is final; nothing owed needs none."""
    subscription = shop.owe(GOOD)
    shop.advance(DUE)
    (paid,) = shop.invoices()
    assert (paid.status, paid.attempt_count, paid.attempted, paid.amount_paid) == ("paid", 1, True, 20)
    assert (paid.status_transitions.paid_at, paid.next_payment_attempt) == (DUE, None)
    shop.advance(SECOND_END + HOUR)
    nothing = shop.invoices()[1]
    assert (nothing.status, nothing.attempt_count, nothing.total) == ("paid", 0, 0)
    assert (shop.status(subscription), shop.payments_told()) == ("active", ["invoice.paid"] * 2)


def test_a_bad_card_is_tried_again_and_given_up(shop: PaidShop) -> None:
    """D3: after 3 and 5 days; each failure says when it is tried next, the last that it is not."""
    shop.emulator.control("POST", "/billing", {"retry_days": "3,5"})
    subscription = shop.owe(BAD)
    seen = []
    for day in (0, 2, 3, 8, 20):
        shop.advance(DUE + day * DAY)
        (owed,) = shop.invoices()
        ahead = owed.next_payment_attempt
        seen.append((owed.status, owed.attempt_count, None if ahead is None else (ahead - DUE) // DAY))
    assert seen == [("open", 1, 3), ("open", 1, 3), ("open", 2, 8), ("open", 3, None), ("open", 3, None)]
    assert shop.status(subscription) == "past_due"
    assert shop.client.v1.customers.retrieve(shop.customer).delinquent is True
    assert [each.id for each in shop.client.v1.subscriptions.list({"customer": shop.customer}).data] == [subscription]


def test_a_retry_with_another_card_succeeds(shop: PaidShop) -> None:
    """D3, D5: the schedule charges the card of its day."""
    subscription = shop.owe(BAD)
    shop.advance(DUE + DAY)
    shop.use_card(GOOD)
    shop.advance(DUE + 3 * DAY)
    (paid,) = shop.invoices()
    assert (paid.status, paid.attempt_count, paid.status_transitions.paid_at) == ("paid", 2, DUE + 3 * DAY)
    assert shop.status(subscription) == "active"
    assert shop.client.v1.customers.retrieve(shop.customer).delinquent is False
    assert shop.payments_told() == [
        "invoice.payment_failed",
        "customer.subscription.updated",
        "invoice.paid",
        "customer.subscription.updated",
    ]


@pytest.mark.parametrize(("setting", "last"), [("unpaid", ".updated"), ("canceled", ".deleted")])
def test_what_becomes_of_a_subscription_is_the_accounts_choice(shop: PaidShop, setting: str, last: str) -> None:
    """D4, D7, D9: unpaid (later invoices stay drafts) or canceled (no later ones)."""
    shop.emulator.control("POST", "/billing", {"retry_days": "", "after_retries": setting})
    subscription = shop.owe(BAD)
    shop.advance(DUE)
    assert shop.status(subscription) == setting
    assert shop.payments_told()[-1] == f"customer.subscription{last}"
    changed = shop.client.v1.events.list({"type": "customer.subscription.updated"}).data
    before = [event.to_dict()["data"]["previous_attributes"]["status"] for event in reversed(changed)]
    assert before == (["active", "past_due"] if setting == "unpaid" else ["active"])
    shop.advance(DUE + 31 * DAY)
    later = [(invoice.status, invoice.auto_advance) for invoice in shop.invoices()[1:]]
    assert later == ([("draft", False)] if setting == "unpaid" else [])


def test_paying_out_of_the_schedule(shop: PaidShop) -> None:
    """D5, D6: a declined card is 402, told, and leaves the schedule; a good one pays; out of band needs none."""
    subscription = shop.owe(BAD)
    shop.advance(DUE)
    (owed,) = shop.invoices()
    assert owed.id is not None
    with pytest.raises(stripe.CardError) as declined:
        shop.client.v1.invoices.pay(owed.id)
    assert (declined.value.http_status, declined.value.code) == (402, "card_declined")
    (still,) = shop.invoices()
    assert (still.attempt_count, still.next_payment_attempt) == (1, DUE + 3 * DAY)
    assert shop.payments_told().count("invoice.payment_failed") == 2
    good = shop.client.v1.payment_methods.attach(GOOD, {"customer": shop.customer}).id
    paid = shop.client.v1.invoices.pay(owed.id, {"payment_method": good})
    assert (paid.status, paid.amount_remaining, paid.next_payment_attempt) == ("paid", 0, None)
    assert shop.status(subscription) == "active"
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        shop.client.v1.invoices.pay(owed.id)
    shop.use(10, DUE)
    shop.advance(SECOND_END + HOUR)
    second = shop.invoices()[1]
    assert (second.status, shop.status(subscription)) == ("open", "past_due")
    assert shop.client.v1.invoices.pay(second.id or "", {"paid_out_of_band": True}).status == "paid"
    assert shop.status(subscription) == "active"


def test_a_first_payment_is_made_at_once(shop: PaidShop) -> None:
    """D8: licensed prices are charged when the subscription begins; where that would fail it is refused."""
    licensed: Any = {"interval": "month"}
    price = shop.price(recurring=licensed, unit_amount=900)
    shop.use_card(GOOD)
    invoice = shop.client.v1.invoices.retrieve(str(shop.subscribe(price).latest_invoice))
    assert (invoice.status, invoice.amount_paid) == ("paid", 900)
    shop.use_card(BAD)
    with pytest.raises(stripe.InvalidRequestError, match="whose first payment fails"):
        shop.subscribe(price)
    assert len(shop.client.v1.subscriptions.list({"customer": shop.customer}).data) == 1
