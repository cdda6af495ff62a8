"""Prices: what a unit costs, every version kept. Written once, never changed.

Belongs here: the table prices. Does not: what a document means (`stripemeter.pricing`), asking Stripe
(`pipeline.prices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from stripemeter.errors import Conflict
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("prices")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceVersion:
    """What a unit costs from an instant on.

    Args:
        stripe_account_id: whose Stripe Price it is; None: a tenant's own.
        tenant_id: who said it; None: Stripe did.
        price_id: Stripe's id; of a tenant's own price, the meter it prices.
        version: SHA-256 over the members that say what is charged.
        document: JSON: Stripe's Price with its tiers, or a priceConfig.
        effective_from: it holds from then on, until the next version.
        created_at: when it was written down.
    """

    stripe_account_id: str | None
    tenant_id: str | None
    price_id: str
    version: str
    document: str
    effective_from: datetime
    created_at: datetime


def record_price(tx: Tx, price: PriceVersion) -> bool:
    """Write a version down, unless the newest one says the same; returns whether it was written.

    A later version of a price that is there holds from `created_at` on, when `effective_from` is not after the one
    before it: what was charged under that one stays.

    Raises:
        Conflict: the newest version was written down to hold from then on or later.
    """
    of_price = {
        "stripe_account_id": price.stripe_account_id,
        "tenant_id": price.tenant_id,
        "price_id": price.price_id,
    }
    # Two that write the same version at once would both find that it is not there.
    tx.execute(_Q["lock_price"], {"owner": price.stripe_account_id or f"own {price.tenant_id}", **of_price})
    newest = tx.execute(_Q["find_newest"], of_price).fetchone()
    effective_from = price.effective_from
    if newest is not None:
        if newest[0] == price.version:
            return False
        if effective_from <= newest[1]:
            effective_from = price.created_at
        if effective_from <= newest[1]:
            raise Conflict(
                f"price {price.price_id} has a version from {newest[1].isoformat()} on: a new one must hold from later"
            )
    tx.execute(
        _Q["insert_price"],
        {
            **of_price,
            "version": price.version,
            "document": price.document,
            "effective_from": effective_from,
            "created_at": price.created_at,
        },
    )
    return True


def list_prices(tx: Tx, *, tenant_id: str, stripe_prices: Sequence[tuple[str, str]]) -> list[PriceVersion]:
    """Every version of a tenant's own prices and of these Stripe Prices (account, id), each price's oldest first."""
    rows = tx.execute(
        _Q["list_versions"],
        {
            "tenant_id": tenant_id,
            "accounts": [account for account, _ in stripe_prices],
            "price_ids": [price_id for _, price_id in stripe_prices],
        },
    )
    return [
        PriceVersion(
            stripe_account_id=row[0],
            tenant_id=row[1],
            price_id=row[2],
            version=row[3],
            document=row[4],
            effective_from=row[5],
            created_at=row[6],
        )
        for row in rows
    ]
