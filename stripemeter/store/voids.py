"""Voids and the events they take back: the table `event_voids`, and finding a ledger row by its key.

Belongs here: reading and adding rows. Does not: what follows for the counters (`pipeline.void`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from stripemeter.metering.events import key_hash
from stripemeter.store.dropped_months import find_archived
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("voids")


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEvent:
    """Where an event stands in the ledger."""

    seq: int
    ts: datetime
    tenant_id: str
    metric: str
    customer_ref: str
    idempotency_key: str


_PLACE = tuple(LedgerEvent.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventVoid:
    """Why an event counts nowhere any more; `request_id` of the HTTP request that did it."""

    reason: str
    actor: str
    request_id: str | None
    replacement_key: str | None
    voided_at: datetime


def find_key(tx: Tx, tenant_id: str, idempotency_key: str) -> datetime | None:
    """When the event under a key happened; None when the key is free. Keys outlive their events' rows."""
    hashed = UUID(bytes=key_hash(tenant_id, idempotency_key))
    row = tx.execute(_Q["find_key"], {"key_hash": hashed}).fetchone()
    return None if row is None else row[0]


def find_event(tx: Tx, tenant_id: str, idempotency_key: str) -> LedgerEvent | None:
    """The event a tenant sent under a key; None when the key is free."""
    ts = find_key(tx, tenant_id, idempotency_key)
    if ts is None:
        return None
    found = tx.execute(
        _Q["find_event"], {"ts": ts, "tenant_id": tenant_id, "idempotency_key": idempotency_key}
    ).fetchone()
    if found is None:
        archived = find_archived(tx, ts.astimezone(UTC), tenant_id, idempotency_key)
        found = None if archived is None or archived.is_empty() else archived.select(_PLACE).row(0)
    return None if found is None else LedgerEvent(**dict(zip(_PLACE, found, strict=True)))


def load_void(tx: Tx, seq: int) -> EventVoid | None:
    """The void of an event; None while it counts."""
    row = tx.execute(_Q["load_void"], {"seq": seq}).fetchone()
    return None if row is None else EventVoid(**dict(zip(EventVoid.__dataclass_fields__, row, strict=True)))


def insert_voids(  # noqa: PLR0913 - the columns of an audit row
    tx: Tx,
    tenant_id: str,
    events: Sequence[LedgerEvent],
    *,
    reason: str,
    actor: str,
    now: datetime,
    request_id: str | None,
    replacement_key: str | None,
    backfill_id: UUID | None,
) -> set[int]:
    """Void events of one tenant; returns the `seq` of those that were not voided before."""
    rows = tx.execute(
        _Q["insert_voids"],
        {
            "tenant_id": tenant_id,
            "seqs": [event.seq for event in events],
            "metrics": [event.metric for event in events],
            "customers": [event.customer_ref for event in events],
            "keys": [event.idempotency_key for event in events],
            "instants": [event.ts for event in events],
            "reason": reason,
            "actor": actor,
            "request_id": request_id,
            "replacement_key": replacement_key,
            "backfill_id": backfill_id,
            "now": now,
        },
    )
    return {row[0] for row in rows}
