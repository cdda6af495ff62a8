"""Reverting a whole backfill: every event it stored is voided, batch by batch, each with its counters.

Belongs here: who may be reverted, the batches, going on after a crash. Does not: what a void brings about
(`pipeline.void`).

The wish is recorded first, so whatever dies, somebody goes on. What is voided already is passed over: an event voided
by hand before keeps the reason it was given then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvariantBroken, Unavailable
from stripemeter.pipeline.void import void_events
from stripemeter.store.backfills import (
    Backfill,
    ask_revert,
    count_stored,
    count_voided,
    finish_revert,
    load_backfill,
    lock_backfill,
    release_backfill,
    scan_standing,
)
from stripemeter.store.dropped_months import scan_archived_backfill
from stripemeter.store.postgres import Tx, connect, database_url_of, transaction
from stripemeter.store.voids import LedgerEvent

BATCH_EVENTS = 5_000
"""Of one transaction: it holds the fold and the days it touches for about a second."""

Watch = Callable[[int, int], None]
"""Called after each committed batch with the events voided so far and those the operation stored."""


def request_revert(
    tx: Tx, backfill_id: UUID, *, tenant_id: str | None, reason: str, actor: str, now: datetime
) -> Backfill:
    """Record that an operation is to be reverted; the first to ask says why. Returns it as it is then.

    Raises:
        NotFound: there is none of that id.
        Conflict: it has not ended.
    """
    found = load_backfill(tx, backfill_id, tenant_id=tenant_id)
    if not ask_revert(tx, backfill_id, reason=reason, actor=actor, now=now):
        raise Conflict(f"backfill {backfill_id} has not ended, it is {found.status}: cancel it first")
    return load_backfill(tx, backfill_id)


def revert_within(
    pool: ConnectionPool,
    backfill_id: UUID,
    *,
    tenant_id: str | None,
    reason: str,
    actor: str,
    clock: Callable[[], datetime],
    budget_seconds: int,
) -> Backfill:
    """Record the wish and do what the time allows; whoever looks for waiting operations does the rest.

    Raises:
        NotFound, Conflict: as `request_revert`.
        InvariantBroken, Unavailable: as `revert_backfill`; the wish may stand.
    """
    with transaction(pool) as tx:
        asked = request_revert(tx, backfill_id, tenant_id=tenant_id, reason=reason, actor=actor, now=clock())
    if asked.reverted_at is not None:
        return asked
    deadline = time.monotonic() + budget_seconds
    try:
        return revert_backfill(
            database_url_of(pool), backfill_id, clock=clock, is_time_up=lambda: time.monotonic() >= deadline
        )
    except Conflict:  # another process is at it, and goes on without us
        return asked


def revert_backfill(
    database_url: str,
    backfill_id: UUID,
    *,
    clock: Callable[[], datetime],
    watch: Watch = lambda _voided, _stored: None,
    is_time_up: Callable[[], bool] = lambda: False,
) -> Backfill:
    """Void what a requested revert has left, until all is done or the time is up; returns the operation as it is then.

    Raises:
        NotFound: there is none of that id.
        Conflict: nobody asked for its revert, or another process is at work on it.
        InvariantBroken: an event it stored is neither in Postgres nor in the lake.
        Unavailable: Postgres went away; what is voided stays, do it again.
    """
    try:
        with connect(database_url, application_name="stripemeter-revert", autocommit=True) as connection:
            lock_backfill(connection, backfill_id)
            try:
                backfill = load_backfill(connection, backfill_id)
                if backfill.revert_reason is None:
                    raise Conflict(f"nobody asked to revert backfill {backfill_id}")
                if backfill.reverted_at is None:
                    _void_all(connection, database_url, backfill, clock=clock, watch=watch, is_time_up=is_time_up)
                return load_backfill(connection, backfill_id)
            finally:
                release_backfill(connection, backfill_id)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(f"Postgres went away: {error}. What is voided stays: do it again to go on") from error


def _void_all(
    reader: Tx,
    database_url: str,
    backfill: Backfill,
    *,
    clock: Callable[[], datetime],
    watch: Watch,
    is_time_up: Callable[[], bool],
) -> None:
    voided = backfill.voided_count
    with connect(database_url, application_name="stripemeter-revert", autocommit=True) as writer:
        for batch in _batches(reader, backfill):
            if is_time_up():
                return
            voided += _void(writer, backfill, batch, clock())
            watch(voided, backfill.counts.accepted)
        finish_revert(writer, backfill.id, now=clock())


def _batches(reader: Tx, backfill: Backfill) -> Iterator[list[LedgerEvent]]:
    yield from scan_standing(reader, backfill.id, batch=BATCH_EVENTS)
    stored = count_stored(reader, backfill.id)
    if stored == backfill.counts.accepted:
        return
    for archived in scan_archived_backfill(reader, backfill.id):
        stored += archived.height
        for part in archived.select(list(LedgerEvent.__dataclass_fields__)).iter_slices(BATCH_EVENTS):
            yield [LedgerEvent(**row) for row in part.iter_rows(named=True)]
    if stored < backfill.counts.accepted:
        raise InvariantBroken(
            f"backfill {backfill.id} stored {backfill.counts.accepted} events, and {stored} are found in Postgres and "
            "the lake"
        )


def _void(writer: Tx, backfill: Backfill, batch: list[LedgerEvent], now: datetime) -> int:
    assert backfill.revert_reason is not None
    with writer.transaction():
        new = void_events(
            writer,
            backfill.tenant_id,
            batch,
            reason=backfill.revert_reason,
            actor=backfill.reverted_by or backfill.actor,
            now=now,
            backfill_id=backfill.id,
        )
        count_voided(writer, backfill.id, new, now=now)
    return new
