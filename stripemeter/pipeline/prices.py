"""Prices: asking accounts what a unit costs, and writing down what a tenant says itself.

Belongs here: which prices are asked for, where they are listed. Does not: what a version is (`price_versions`), the
table (`store.prices`), what a price costs (`stripemeter.pricing`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, cast

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Mode
from stripemeter.errors import InvalidInput
from stripemeter.pipeline.price_mappings import OpenAccount, asking, statement_of
from stripemeter.pipeline.price_versions import own_price_version, stripe_price_version
from stripemeter.store import item_prices, mappings
from stripemeter.store.item_prices import BilledItem
from stripemeter.store.mappings import PriceMapping
from stripemeter.store.postgres import transaction
from stripemeter.store.prices import PriceVersion, list_prices, record_price

Outcome = Literal["imported", "unchanged", "missing"]
"""Of asking for a price: a version was written down; the newest says so already; the account has no such price.

Of asking for a subscription item: which price it bills by was written down; that was known; there is no such item.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPrice:
    """What became of asking an account for the price of a mapping, or of a customer's own subscription item.

    `price_id` is the item's id where there is no such item.
    """

    meter: str
    stripe_account_id: str
    price_id: str
    outcome: Outcome
    customer_ref: str | None = None


def import_prices(
    pool: ConnectionPool, open_account: OpenAccount, *, tenant_id: str, now: datetime
) -> list[AskedPrice]:
    """Ask for every price that a tenant's mappings bill by, the off ones left out, and write down what is new.

    And, for each recorded subscription item, by which price Stripe bills it: customers may pay one of their own.

    Raises:
        NotAllowed: no key for a mode that is mapped.
        InvalidInput: a key opens another account than a mapping names.
        Unavailable: Stripe or Postgres cannot be asked.
    """
    with transaction(pool) as tx:
        mapped = mappings.list_mappings(tx, tenant_id=tenant_id)
        items = item_prices.list_billed_items(tx, tenant_id)
    asked: dict[tuple[str, str], AskedPrice] = {}
    for mapping in mapped:
        price_id = price_id_of(mapping)
        if mapping.mode == "off" or price_id is None:
            continue
        sink = _open(open_account, mapping.mode, mapping.stripe_account_id)
        asked[mapping.stripe_account_id, price_id] = AskedPrice(
            meter=mapping.meter,
            stripe_account_id=mapping.stripe_account_id,
            price_id=price_id,
            outcome=_import(pool, sink, mapping.stripe_account_id, price_id, now),
        )
    of_items = []
    for item in items:
        sink = _open(open_account, cast("Mode", item.mode), item.stripe_account_id)
        own = _ask_item(pool, sink, tenant_id, item, now)
        of_items.append(own)
        key = item.stripe_account_id, own.price_id
        if own.outcome != "missing" and key not in asked:
            outcome = _import(pool, sink, item.stripe_account_id, own.price_id, now)
            asked[key] = replace(own, outcome=outcome, customer_ref=None)
    return [*asked.values(), *of_items]


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
        named += item_prices.list_item_price_ids(tx, tenant_id)
        return list_prices(tx, tenant_id=tenant_id, stripe_prices=named)


def price_id_of(mapping: PriceMapping) -> str | None:
    """The Stripe Price a mapping bills by in its mode; None: it was mapped by an event name."""
    return statement_of(mapping).target_price[0]


def _open(open_account: OpenAccount, mode: Mode, account_id: str) -> BillingSink:
    sink = open_account(mode, account_id)
    with asking():
        opened = sink.account_id()
    if opened != account_id:
        raise InvalidInput(f"the key for {mode} belongs to {opened}, not to {account_id}", field="stripeAccount")
    return sink


def _import(pool: ConnectionPool, sink: BillingSink, account_id: str, price_id: str, now: datetime) -> Outcome:
    with asking():
        found = sink.find_price(price_id)
    if found is None:
        return "missing"
    with transaction(pool) as tx:
        is_new = record_price(tx, stripe_price_version(found, stripe_account_id=account_id, now=now))
    return "imported" if is_new else "unchanged"


def _ask_item(pool: ConnectionPool, sink: BillingSink, tenant_id: str, item: BilledItem, now: datetime) -> AskedPrice:
    with asking():
        price_id = sink.find_item_price(item.stripe_item_id)
    outcome: Outcome = "missing"
    if price_id is not None:
        with transaction(pool) as tx:
            is_new = item_prices.record_item_price(tx, tenant_id, item, price_id, now=now)
        outcome = "imported" if is_new else "unchanged"
    return AskedPrice(
        meter=item.meter,
        stripe_account_id=item.stripe_account_id,
        price_id=price_id or item.stripe_item_id,
        outcome=outcome,
        customer_ref=item.customer_ref,
    )
