"""Listing conflicts: events refused because their key already stood with a different payload.

Belongs here: reading the quarantine, each row beside what stands. Does not: deciding what conflicts
(`pipeline.ingest`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.store.postgres import transaction
from stripemeter.store.sql import load_queries


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictKey:
    """Where a page ended."""

    first_received_at: datetime
    key_hash: UUID
    payload_hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPayload:
    """What one event said; `meta` is JSON text."""

    metric: str
    customer_ref: str
    resource_id: str | None
    quantity: Decimal
    ts: datetime
    meta: str | None
    source: str
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EventConflict:
    """One refused payload of a key. `standing` is None only when the ledger row itself is no longer in Postgres."""

    key: ConflictKey
    idempotency_key: str
    refused: EventPayload
    standing: EventPayload | None
    times_refused: int
    last_refused_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictPage:
    """One page, newest first."""

    conflicts: list[EventConflict]
    has_more: bool


def load_conflicts(
    pool: ConnectionPool, *, tenant_id: str, limit: int, after: ConflictKey | None = None
) -> ConflictPage:
    """A page of a tenant's conflicts, those first refused last coming first.

    Raises:
        Unavailable: the database is down.
    """
    parameters = {
        "tenant_id": tenant_id,
        "after_at": after.first_received_at if after else None,
        "after_key_hash": after.key_hash if after else None,
        "after_payload_hash": after.payload_hash if after else None,
        "most": limit + 1,
    }
    with transaction(pool) as tx:
        rows = tx.execute(load_queries("listing")["load_conflicts"], parameters, prepare=False).fetchall()
    return ConflictPage(conflicts=[_conflict(row) for row in rows[:limit]], has_more=len(rows) > limit)


def _conflict(row: Sequence[Any]) -> EventConflict:
    key_hash, payload_hash, first_received_at, last_received_at, times_received, idempotency_key = row[:6]
    return EventConflict(
        key=ConflictKey(first_received_at=first_received_at, key_hash=key_hash, payload_hash=payload_hash),
        idempotency_key=idempotency_key,
        refused=_payload((*row[6:13], first_received_at)),
        standing=_payload(row[13:21]) if row[13] is not None else None,
        times_refused=times_received,
        last_refused_at=last_received_at,
    )


def _payload(row: Sequence[Any]) -> EventPayload:
    return EventPayload(**dict(zip(EventPayload.__dataclass_fields__, row, strict=True)))
