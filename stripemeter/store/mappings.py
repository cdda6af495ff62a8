"""Price mappings and customer bindings.

Belongs here: recording which Stripe meter and customer ours feed, and refusing what would count twice. Does not:
asking Stripe (`billing`), sending (`pipeline.push`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg

from stripemeter.errors import Conflict, NotFound
from stripemeter.metering.price_mappings import LatePolicy, MappingMode
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("mappings")


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceMapping:
    """Which Stripe meter a meter of a tenant feeds.

    Args:
        id: ours.
        tenant_id: whose.
        meter: our meter.
        aggregation: what of the counters is the quantity that is billed.
        stripe_account_id: where its mode sends.
        stripe_event_name: of the Stripe meter; None while it is off and Stripe was not asked.
        stripe_meter_id: likewise.
        mode: off, shadow or live.
        created_at: aware.
        billing_account_id: the account that bills, as it was said; None when it is read from `stripe_account_id`.
        price_id: the price it was mapped by; None: by an event name.
        subscription_item_id: one item with this price, where one was named.
        currency: of the price, where it was said.
        is_shadow: which mode switching it on would give.
        shadow_account_id: the account for shadow pushes, where it is another.
        shadow_price_id: the price there.
        shadow_subscription_item_id: the item there.
        late_policy: what becomes of usage that Stripe no longer takes on its own day.
        updated_at: None: never changed.
    """

    id: UUID
    tenant_id: str
    meter: str
    aggregation: str
    stripe_account_id: str
    stripe_event_name: str | None
    stripe_meter_id: str | None
    mode: MappingMode
    created_at: datetime
    billing_account_id: str | None = None
    price_id: str | None = None
    subscription_item_id: str | None = None
    currency: str | None = None
    is_shadow: bool = False
    shadow_account_id: str | None = None
    shadow_price_id: str | None = None
    shadow_subscription_item_id: str | None = None
    late_policy: LatePolicy = "hold"
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerBinding:
    """Which Stripe customer a customer is."""

    tenant_id: str
    customer_ref: str
    stripe_account_id: str
    stripe_customer_id: str
    created_at: datetime


def create_mapping(tx: Tx, mapping: PriceMapping) -> None:
    """Record a new mapping.

    Raises:
        Conflict: the meter is mapped already, or another meter of the tenant feeds this event name.
    """
    with _refusing_twice(tx, mapping):
        tx.execute(_Q["insert_mapping"], _values(mapping))


def replace_mapping(tx: Tx, mapping: PriceMapping) -> None:
    """Make a mapping this; whose it is and since when stay.

    Raises:
        Conflict: as `create_mapping`; or a delta of it is in flight, and nobody would find out what became of it.
    """
    require_settled(tx, mapping)
    with _refusing_twice(tx, mapping):
        tx.execute(_Q["replace_mapping"], _values(mapping))


def delete_mapping(tx: Tx, mapping: PriceMapping) -> None:
    """Remove a mapping for which nothing was ever sent or compared.

    Raises:
        Conflict: something was: what was sent stays explained.
    """
    try:
        with tx.transaction():
            tx.execute(_Q["delete_mapping"], {"tenant_id": mapping.tenant_id, "id": mapping.id})
    except psycopg.errors.ForeignKeyViolation as error:
        raise Conflict(
            "usage was sent or compared for this mapping, which stays explained: set active to false instead"
        ) from error


def lock_mapping(tx: Tx, mapping_id: UUID, *, tenant_id: str | None) -> PriceMapping | None:
    """The mapping with this id (of the tenant, when given), held until the transaction ends."""
    row = tx.execute(_Q["lock_mapping"], {"id": mapping_id, "tenant_id": tenant_id}).fetchone()
    return None if row is None else _mapping(row)


def list_page(
    tx: Tx,
    *,
    tenant_id: str,
    meter: str | None,
    is_active: bool | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[PriceMapping]:
    """At most `limit` of a tenant's mappings, oldest first, those beyond `after`."""
    values = {
        "tenant_id": tenant_id,
        "meter": meter,
        "is_active": is_active,
        "after_created_at": after and after[0],
        "after_id": after and after[1],
        "limit": limit,
    }
    return [_mapping(row) for row in tx.execute(_Q["list_page"], values)]


def require_settled(tx: Tx, mapping: PriceMapping) -> None:
    """Refuse while a delta of the mapping is in flight.

    Raises:
        Conflict: one is, and nobody would find out what became of it.
    """
    row = tx.execute(_Q["has_open_entry"], {"mapping_id": mapping.id}).fetchone()
    if row is not None and row[0]:
        raise Conflict(f"a delta of {mapping.meter!r} is in flight: try again when it is settled")


def find_mapping(tx: Tx, *, tenant_id: str, meter: str, stripe_account_id: str) -> PriceMapping | None:
    """The mapping of a meter to an account that is not off."""
    row = tx.execute(
        _Q["find_active_mapping"], {"tenant_id": tenant_id, "meter": meter, "stripe_account_id": stripe_account_id}
    ).fetchone()
    return None if row is None else _mapping(row)


def turn_off_mapping(tx: Tx, *, tenant_id: str, meter: str, stripe_account_id: str) -> None:
    """Stop sending for a meter; what was sent stays known.

    Raises:
        NotFound: it is not mapped at this account.
        Conflict: a delta of it is in flight, and nobody would find out what became of it.
    """
    mapping = find_mapping(tx, tenant_id=tenant_id, meter=meter, stripe_account_id=stripe_account_id)
    if mapping is None:
        raise NotFound(f"meter {meter!r} of {tenant_id!r} is not mapped at {stripe_account_id}")
    require_settled(tx, mapping)
    tx.execute(_Q["turn_off_mapping"], {"mapping_id": mapping.id})


def list_mappings(tx: Tx, *, tenant_id: str | None = None) -> list[PriceMapping]:
    """Every mapping, the off ones too; of one tenant when given."""
    return [_mapping(row) for row in tx.execute(_Q["list_mappings"], {"tenant_id": tenant_id})]


def bind_customer(tx: Tx, binding: CustomerBinding) -> bool:
    """Record which Stripe customer a customer is; returns whether that is new.

    Raises:
        Conflict: the customer is bound to another one, or the Stripe customer is somebody else.
    """
    values = {
        "tenant_id": binding.tenant_id,
        "customer_ref": binding.customer_ref,
        "stripe_account_id": binding.stripe_account_id,
        "stripe_customer_id": binding.stripe_customer_id,
        "created_at": binding.created_at,
    }
    try:
        with tx.transaction():
            is_new = tx.execute(_Q["insert_binding"], values).rowcount > 0
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(
            f"{binding.stripe_customer_id} is already another customer's: usage of two customers would add up"
        ) from error
    bound = find_binding(
        tx,
        tenant_id=binding.tenant_id,
        customer_ref=binding.customer_ref,
        stripe_account_id=binding.stripe_account_id,
    )
    if bound != binding.stripe_customer_id:
        raise Conflict(
            f"customer {binding.customer_ref!r} is {bound} at {binding.stripe_account_id}; what it was sent stays there"
        )
    return is_new


def find_binding(tx: Tx, *, tenant_id: str, customer_ref: str, stripe_account_id: str) -> str | None:
    """The Stripe customer a customer is."""
    row = tx.execute(
        _Q["find_binding"],
        {"tenant_id": tenant_id, "customer_ref": customer_ref, "stripe_account_id": stripe_account_id},
    ).fetchone()
    return None if row is None else str(row[0])


def list_bindings(tx: Tx, *, tenant_id: str | None = None) -> list[CustomerBinding]:
    """Every binding; of one tenant when given."""
    return [
        CustomerBinding(
            tenant_id=row[0],
            customer_ref=row[1],
            stripe_account_id=row[2],
            stripe_customer_id=row[3],
            created_at=row[4],
        )
        for row in tx.execute(_Q["list_bindings"], {"tenant_id": tenant_id})
    ]


@contextmanager
def _refusing_twice(tx: Tx, mapping: PriceMapping) -> Iterator[None]:
    try:
        with tx.transaction():
            yield
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(
            f"meter {mapping.meter!r} of {mapping.tenant_id!r} is already mapped at {mapping.stripe_account_id}, "
            f"or another meter feeds {mapping.stripe_event_name!r}: turn that mapping off first"
        ) from error


def _values(mapping: PriceMapping) -> dict[str, object]:
    return {name: getattr(mapping, name) for name in PriceMapping.__dataclass_fields__}


def _mapping(row: tuple[object, ...]) -> PriceMapping:
    names = PriceMapping.__dataclass_fields__
    return PriceMapping(**dict(zip(names, row, strict=True)))  # type: ignore[arg-type]
