"""Prices: asking accounts what a unit costs, and writing down what a tenant says itself.

Belongs here: which prices are asked for, where they are listed. Does not: what a version is (`price_versions`), the
table (`store.prices`), what a price costs (`stripemeter.pricing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.errors import InvalidInput
from stripemeter.pipeline.price_mappings import OpenAccount, asking, statement_of
from stripemeter.pipeline.price_versions import own_price_version, stripe_price_version
from stripemeter.store import mappings
from stripemeter.store.mappings import PriceMapping
from stripemeter.store.postgres import transaction
from stripemeter.store.prices import PriceVersion, list_prices, record_price

Outcome = Literal["imported", "unchanged", "missing"]
"""Of asking for a price: a version was written down; the newest says so already; the account has no such price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPrice:
    """What became of asking an account for the price of a mapping."""

    meter: str
    stripe_account_id: str
    price_id: str
    outcome: Outcome


def import_prices(
    pool: ConnectionPool, open_account: OpenAccount, *, tenant_id: str, now: datetime
) -> list[AskedPrice]:
    """Ask for every price that a tenant's mappings bill by, the off ones left out, and write down what is new.

    Raises:
        NotAllowed: no key for a mode that is mapped.
        InvalidInput: a key opens another account than a mapping names.
        Unavailable: Stripe or Postgres cannot be asked.
    """
    with transaction(pool) as tx:
        mapped = mappings.list_mappings(tx, tenant_id=tenant_id)
    asked = []
    for mapping in mapped:
        price_id = price_id_of(mapping)
        if mapping.mode != "off" and price_id is not None:
            outcome = _import(pool, open_account(mapping.mode, mapping.stripe_account_id), mapping, price_id, now)
            asked.append(
                AskedPrice(
                    meter=mapping.meter,
                    stripe_account_id=mapping.stripe_account_id,
                    price_id=price_id,
                    outcome=outcome,
                )
            )
    return asked


def say_price(
    pool: ConnectionPool, document: object, *, tenant_id: str, meter: str, effective_from: datetime, now: datetime
) -> bool:
    """Write down what a tenant says a unit of a meter costs, where no Stripe Price says it; whether that is new.

    Raises:
        InvalidInput: it cannot be right; `field` names the member.
        Conflict: a version is there that holds from then on or later.
    """
    version = own_price_version(document, tenant_id=tenant_id, meter=meter, effective_from=effective_from, now=now)
    with transaction(pool) as tx:
        return record_price(tx, version)


def list_known_prices(pool: ConnectionPool, *, tenant_id: str) -> list[PriceVersion]:
    """Every version of the prices a tenant's mappings name and of its own, each price's oldest first."""
    with transaction(pool) as tx:
        named = [
            (mapping.stripe_account_id, price_id)
            for mapping in mappings.list_mappings(tx, tenant_id=tenant_id)
            if (price_id := price_id_of(mapping)) is not None
        ]
        return list_prices(tx, tenant_id=tenant_id, stripe_prices=named)


def price_id_of(mapping: PriceMapping) -> str | None:
    """The Stripe Price a mapping bills by in its mode; None: it was mapped by an event name."""
    return statement_of(mapping).target_price[0]


def _import(pool: ConnectionPool, sink: BillingSink, mapping: PriceMapping, price_id: str, now: datetime) -> Outcome:
    with asking():
        account, found = sink.account_id(), sink.find_price(price_id)
    if account != mapping.stripe_account_id:
        raise InvalidInput(
            f"the key for {mapping.mode} belongs to {account}, not to {mapping.stripe_account_id}",
            field="stripeAccount",
        )
    if found is None:
        return "missing"
    with transaction(pool) as tx:
        is_new = record_price(tx, stripe_price_version(found, stripe_account_id=account, now=now))
    return "imported" if is_new else "unchanged"
