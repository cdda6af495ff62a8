"""Prices of customers' own subscription items: which Stripe Price each bills by, every change kept.

Belongs here: the table item_prices. Does not: the items (`store.customers`), what a price costs (`store.prices`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from stripemeter.metering.segments import BEGINNING
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("item_prices")


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPrice:
    """A customer's meter is billed at an account by this Stripe Price from an instant on, until the next."""

    meter: str
    stripe_account_id: str
    stripe_price_id: str
    effective_from: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledItem:
    """A recorded subscription item by which a mapping in that mode, `shadow` or `live`, bills a customer's meter."""

    customer_ref: str
    meter: str
    stripe_account_id: str
    stripe_item_id: str
    mode: str


def record_item_price(tx: Tx, tenant_id: str, item: BilledItem, stripe_price_id: str, *, now: datetime) -> bool:
    """Write down what an item bills by, unless that is known; returns whether it was written.

    The first price seen of an item always held; another holds from when it is seen.
    """
    tx.execute(
        _Q["lock_item"],
        {
            "tenant_id": tenant_id,
            "customer_ref": item.customer_ref,
            "meter": item.meter,
            "stripe_account_id": item.stripe_account_id,
        },
    )
    known = [
        each
        for each in list_item_prices(tx, tenant_id, item.customer_ref)
        if (each.meter, each.stripe_account_id) == (item.meter, item.stripe_account_id)
    ]
    if known and known[-1].stripe_price_id == stripe_price_id:
        return False
    tx.execute(
        _Q["insert_item_price"],
        {
            "tenant_id": tenant_id,
            "customer_ref": item.customer_ref,
            "meter": item.meter,
            "stripe_account_id": item.stripe_account_id,
            "stripe_price_id": stripe_price_id,
            "effective_from": now if known else BEGINNING,
            "created_at": now,
        },
    )
    return True


def list_item_prices(tx: Tx, tenant_id: str, customer_ref: str) -> list[ItemPrice]:
    """Every price of a customer's items, each item's oldest first."""
    rows = tx.execute(_Q["list_item_prices"], {"tenant_id": tenant_id, "customer_ref": customer_ref})
    return [
        ItemPrice(
            meter=row[0], stripe_account_id=row[1], stripe_price_id=row[2], effective_from=row[3], created_at=row[4]
        )
        for row in rows
    ]


def list_billed_items(tx: Tx, tenant_id: str) -> list[BilledItem]:
    """The recorded items of a tenant's customers that mappings bill by, the off ones left out."""
    rows = tx.execute(_Q["list_billed_items"], {"tenant_id": tenant_id})
    return [
        BilledItem(customer_ref=row[0], meter=row[1], stripe_account_id=row[2], stripe_item_id=row[3], mode=row[4])
        for row in rows
    ]


def list_item_price_ids(tx: Tx, tenant_id: str) -> list[tuple[str, str]]:
    """(account, Stripe Price) of every price that a tenant's items are or were billed by."""
    return [(row[0], row[1]) for row in tx.execute(_Q["list_item_price_ids"], {"tenant_id": tenant_id})]
