"""Storing many events at once: the receiver's statements inside a transaction of the caller's.

Belongs here: one batch, and isolating what Postgres refuses. Does not: where batches come from (`pipeline.backfill`),
the receiver's own queueing (`pipeline.ingest`, whose statements and rules these are).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import psycopg
from psycopg import RawCursor
from psycopg.rows import TupleRow

from stripemeter.errors import InvariantBroken
from stripemeter.metering.days import month_start
from stripemeter.metering.events import RejectedEvent, UsageEvent
from stripemeter.pipeline.ingest import (
    EventResult,
    batch_parameters,
    months_of,
    quarantine_parameters,
    settle_events,
)
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

Parsed = UsageEvent | RejectedEvent
SESSION_OPTIONS = "-c enable_nestloop=off -c jit=off -c plan_cache_mode=force_generic_plan -c synchronous_commit=on"
"""As the receiver's sessions: a generic plan cannot know how long a batch is."""
_UNSTORABLE = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)

_Q = load_queries("ingest")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEvents:
    """A batch as the statement wants it: what of storing is Python's work, so that it can be done beforehand."""

    events: Sequence[Parsed]
    parameters: list[Any]
    months: set[date]


def prepare_events(events: Sequence[Parsed]) -> PreparedEvents:
    """A batch, ready to be stored."""
    rows, parameters = batch_parameters(events)
    return PreparedEvents(events=events, parameters=parameters, months=months_of(rows))


def ensure_months(connection: psycopg.Connection[Any], prepared: PreparedEvents, known: set[date]) -> None:
    """Make the storage partitions exist, each in a transaction of its own; `known` remembers those that do."""
    for start in sorted(prepared.months - known):
        _raw(connection, "ensure_events_month", [month_start(start)])
        known.add(start)


def store_events(
    tx: Tx, events: Sequence[Parsed], *, received_on: date, backfill_id: UUID | None = None
) -> list[EventResult]:
    """Store a batch in `tx`, as brought by an operation if any; outcomes in order.

    What Postgres refuses as data is rejected alone.
    """
    return store_prepared(tx, prepare_events(events), received_on=received_on, backfill_id=backfill_id)


def store_prepared(
    tx: Tx, prepared: PreparedEvents, *, received_on: date, backfill_id: UUID | None
) -> list[EventResult]:
    """`store_events` of a batch that is prepared."""
    events = prepared.events
    try:
        with tx.transaction():
            return _store(tx, prepared, received_on, backfill_id)
    except _UNSTORABLE:
        if len(events) > 1:
            half = len(events) // 2
            first = store_events(tx, events[:half], received_on=received_on, backfill_id=backfill_id)
            return first + store_events(tx, events[half:], received_on=received_on, backfill_id=backfill_id)
    refused = RejectedEvent(events[0].tenant_id, events[0].idempotency_key, "unstorable", "the event cannot be stored")
    with tx.transaction():
        return _store(tx, prepare_events([refused]), received_on, backfill_id)


def preview_events(tx: Tx, events: Sequence[Parsed]) -> list[EventResult]:
    """What storing the batch would come to, by the keys that stand now. Writes nothing."""
    keys = sorted({event.key_hash for event in events if isinstance(event, UsageEvent)})
    return settle_events(events, _standing(tx, keys), [])


def _store(tx: Tx, prepared: PreparedEvents, received_on: date, backfill_id: UUID | None) -> list[EventResult]:
    parameters = [*prepared.parameters, received_on, backfill_id]
    try:
        with tx.transaction():
            found = _raw(tx, "accept_events", parameters)
    except psycopg.errors.CheckViolation as error:
        if error.diag.constraint_name is not None:
            raise
        for start in sorted(prepared.months):  # "no partition": retention dropped one that was known
            _raw(tx, "ensure_events_month", [month_start(start)])
        found = _raw(tx, "accept_events", parameters)
    taken = [row[0].bytes for row in found]
    standing = _standing(tx, sorted(taken))
    if len(standing) < len(taken):
        raise InvariantBroken("a key of the ledger vanished between two statements")
    conflicts: list[UsageEvent] = []
    results = settle_events(prepared.events, standing, conflicts)
    if conflicts:
        _raw(tx, "quarantine_conflicts", [*quarantine_parameters(conflicts), received_on])
    return results


def _standing(tx: Tx, keys: list[bytes]) -> dict[bytes, int]:
    if not keys:
        return {}
    return {row[0].bytes: row[1] for row in _raw(tx, "load_payload_hashes", [[key.hex() for key in keys]])}


def _raw(connection: psycopg.Connection[Any], name: str, parameters: list[Any]) -> list[TupleRow]:
    """Rows of a query whose parameters are $1, $2 ..., as the receiver's driver wants them."""
    with RawCursor(connection) as cursor:
        cursor.execute(_Q[name], parameters, prepare=True)
        return cursor.fetchall() if cursor.description else []
