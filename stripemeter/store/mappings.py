"""Price mappings and customer bindings.

Belongs here: recording which Stripe meter and customer ours feed, and refusing what would count twice. Does not:
asking Stripe (`billing`), sending (`pipeline.push`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import psycopg

from stripemeter.errors import Conflict, InvalidInput, NotFound
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("mappings")

PUSHABLE = ("sum", "count")
"""Aggregations whose days add up, so that a sum of deltas can be right."""
MappingMode = Literal["off", "shadow", "live"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceMapping:
    """Which Stripe meter a meter of a tenant feeds."""

    id: UUID
    tenant_id: str
    meter: str
    aggregation: str
    stripe_account_id: str
    stripe_event_name: str
    stripe_meter_id: str
    mode: MappingMode
    created_at: datetime


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
        InvalidInput: an aggregation that deltas cannot carry.
        Conflict: the meter is mapped already, or another meter of the tenant feeds this event name.
    """
    if mapping.aggregation not in PUSHABLE:
        raise InvalidInput(
            f"aggregation must be one of {', '.join(PUSHABLE)} to be pushed, not {mapping.aggregation!r}: "
            "Stripe adds deltas up, and the days of the others do not add up",
            field="aggregation",
        )
    values = {
        "id": mapping.id,
        "tenant_id": mapping.tenant_id,
        "meter": mapping.meter,
        "aggregation": mapping.aggregation,
        "stripe_account_id": mapping.stripe_account_id,
        "stripe_event_name": mapping.stripe_event_name,
        "stripe_meter_id": mapping.stripe_meter_id,
        "mode": mapping.mode,
        "created_at": mapping.created_at,
    }
    try:
        with tx.transaction():
            tx.execute(_Q["insert_mapping"], values)
    except psycopg.errors.UniqueViolation as error:
        raise Conflict(
            f"meter {mapping.meter!r} of {mapping.tenant_id!r} is already mapped at {mapping.stripe_account_id}, "
            f"or another meter feeds {mapping.stripe_event_name!r}: turn that mapping off first"
        ) from error


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
    row = tx.execute(_Q["has_open_entry"], {"mapping_id": mapping.id}).fetchone()
    if row is not None and row[0]:
        raise Conflict(f"a delta of {meter!r} is in flight: try again when it is settled")
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


def _mapping(row: tuple[object, ...]) -> PriceMapping:
    names = PriceMapping.__dataclass_fields__
    return PriceMapping(**dict(zip(names, row, strict=True)))  # type: ignore[arg-type]
