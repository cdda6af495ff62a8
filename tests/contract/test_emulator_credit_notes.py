"""The emulator's invoice items and credit notes: rules G of its RULES.md, through the official SDK over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from tests.contract.test_emulator_billing import START, Shop
from tests.emulator import RunningEmulator

MONTH_END = datetime(2026, 2, 28, 10, 30, tzinfo=UTC)


def _billed(shop: Shop, **parameters: Any) -> stripe.Invoice:  # noqa: ANN401 - any parameter
    """A month of 50 units at 2 cents, drafted and final."""
    shop.subscribe(shop.price(), **parameters)
    shop.use(50, int(START.timestamp()) + 60)
    shop.emulator.freeze(MONTH_END + timedelta(hours=2))
    (invoice,) = shop.invoices()
    assert invoice.id is not None
    return shop.client.v1.invoices.retrieve(invoice.id)


def test_an_item_waits_for_the_next_invoice(emulator: RunningEmulator) -> None:
    """G1, G2: on it as a line of its own, in that currency alone; found by customer; nothing below 1."""
    shop = Shop(emulator)
    shop.subscribe(shop.price())
    items = shop.client.v1.invoice_items
    period: Any = {"start": int(START.timestamp()) - 3600, "end": int(START.timestamp())}
    item = items.create(
        {
            "customer": shop.customer,
            "amount": 123,
            "currency": "usd",
            "description": "Late calls",
            "period": period,
            "metadata": {"order": "7"},
        }
    )
    items.create({"customer": shop.customer, "amount": 5, "currency": "eur"})
    with pytest.raises(stripe.InvalidRequestError, match="above 0"):
        items.create({"customer": shop.customer, "amount": -5, "currency": "usd"})
    preview = shop.client.v1.invoices.create_preview({"subscription": shop.client.v1.subscriptions.list().data[0].id})
    assert preview.total == 123
    assert [found.id for found in items.list({"customer": shop.customer, "pending": True})][1] == item.id
    shop.use(50, int(START.timestamp()) + 60)
    emulator.freeze(MONTH_END + timedelta(hours=2))
    (invoice,) = shop.invoices()
    assert (invoice.status, invoice.total) == ("paid", 223)
    (line,) = [line for line in invoice.lines.data if line.pricing is None]
    assert line.parent is not None
    assert line.parent.invoice_item_details is not None
    assert (line.amount, line.description, line.metadata["order"], line.parent.invoice_item_details.invoice_item) == (
        123,
        "Late calls",
        "7",
        item.id,
    )
    assert items.retrieve(item.id).invoice == invoice.id
    assert [found.currency for found in items.list({"customer": shop.customer, "pending": True})] == ["eur"]


@pytest.mark.parametrize("method", ["charge_automatically", "send_invoice"])
def test_a_credit_note_lowers_a_final_invoice(emulator: RunningEmulator, method: str) -> None:
    """G3, G4, G5: what is owed, or the balance; no more than there is; drafts not; listed by invoice."""
    shop = Shop(emulator)
    terms: Any = {"days_until_due": 30} if method == "send_invoice" else {}
    invoice = _billed(shop, collection_method=method, **terms)
    is_paid = invoice.status == "paid"
    assert (invoice.total, is_paid) == (100, method == "charge_automatically")

    def credit(cents: int, **more: Any) -> stripe.CreditNote:  # noqa: ANN401 - any parameter
        line = {"type": "custom_line_item", "description": "15 fewer", "quantity": 1, "unit_amount": cents}
        given: Any = {"invoice": invoice.id, "lines": [line], **more}
        return shop.client.v1.credit_notes.create(given)

    how: Any = {"credit_amount": 30} if is_paid else {}
    note = credit(30, metadata={"order": "7"}, **how)
    assert (note.total, note.type) == (30, "post_payment" if is_paid else "pre_payment")
    assert invoice.id is not None
    lowered = shop.client.v1.invoices.retrieve(invoice.id)
    balance = shop.client.v1.customers.retrieve(shop.customer).balance
    assert (lowered.amount_remaining, balance) == ((0, -30) if is_paid else (70, 0))
    assert [found.id for found in shop.client.v1.credit_notes.list({"invoice": invoice.id})] == [note.id]
    metadata = shop.client.v1.credit_notes.retrieve(note.id).metadata
    assert metadata is not None
    assert metadata["order"] == "7"
    wrong: Any = {} if is_paid else {"credit_amount": 10}
    with pytest.raises(stripe.InvalidRequestError, match="must equal" if is_paid else "no payment"):
        credit(10, **wrong)
    most: Any = {"credit_amount": 71} if is_paid else {}
    with pytest.raises(stripe.InvalidRequestError, match="above what can be credited"):
        credit(71, **most)
    emulator.freeze(MONTH_END + timedelta(days=31))
    invoice = shop.invoices()[-1]
    with pytest.raises(stripe.InvalidRequestError, match=r"This invoice is draft\."):
        credit(1)
