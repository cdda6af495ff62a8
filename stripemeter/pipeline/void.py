"""Voiding: events stay in the ledger and count nowhere, from the commit on.

Belongs here: the locks and the order of things, sending an event in another's place. Does not: the table
(`store.voids`), counting (`pipeline.recount`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotFound
from stripemeter.metering.days import day_of
from stripemeter.metering.events import UsageEvent
from stripemeter.pipeline.bulk import store_events
from stripemeter.pipeline.ingest import EventResult, Outcome, months_of
from stripemeter.pipeline.recount import recount_slice
from stripemeter.store import counters, ledger
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.voids import EventVoid, LedgerEvent, find_event, insert_voids, load_void


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidedEvent:
    """An event that counts nowhere any more. `is_new`: by this call; `replacement`: what its successor came to."""

    event: LedgerEvent
    void: EventVoid
    is_new: bool
    replacement: EventResult | None


def void_events(  # noqa: PLR0913 - what an audit row holds
    tx: Tx,
    tenant_id: str,
    events: Sequence[LedgerEvent],
    *,
    reason: str,
    actor: str,
    now: datetime,
    backfill_id: UUID | None = None,
    request_id: str | None = None,
    replacement_key: str | None = None,
) -> int:
    """Void events of one tenant in the caller's transaction; returns how many were not voided before.

    Takes the fold's cursor and the days, so that no fold or recount works by what was true before; the counters of the
    customers concerned are counted again at once. A voided key stays taken.
    """
    if not events:
        return 0
    ledger.lock_cursor(tx)
    touched: defaultdict[date, set[str]] = defaultdict(set)
    counters.lock_days(tx, {day_of(event.ts) for event in events})
    new = insert_voids(
        tx,
        tenant_id,
        events,
        reason=reason,
        actor=actor,
        now=now,
        request_id=request_id,
        replacement_key=replacement_key,
        backfill_id=backfill_id,
    )
    for event in events:
        if event.seq in new:
            touched[day_of(event.ts)].add(event.customer_ref)
    for day in sorted(touched):
        recount_slice(tx, day, tenant_id=tenant_id, customer_refs=touched[day])
    return len(new)


def void_event(
    pool: ConnectionPool,
    tenant_id: str,
    idempotency_key: str,
    *,
    reason: str,
    actor: str,
    now: datetime,
    request_id: str | None = None,
    replacement: UsageEvent | None = None,
) -> VoidedEvent:
    """Void the event of a key and store another in its place, when one is given: both or neither.

    Doing it again changes nothing and answers the same.

    Raises:
        NotFound: the tenant sent no event under this key.
        InvalidInput: the replacement has the same key.
        Conflict: the event was voided before with another replacement, or the replacement's key is taken.
        Unavailable: Postgres does not answer; nothing changed.
    """
    if replacement is not None and replacement.idempotency_key == idempotency_key:
        raise InvalidInput(
            "a replacement needs a key of its own: that of the voided event stays taken",
            field="replacement.idempotencyKey",
        )
    if replacement is not None:
        with transaction(pool) as tx:
            for month in months_of([replacement]):
                ledger.ensure_month(tx, month)
    with transaction(pool) as tx:
        event = find_event(tx, tenant_id, idempotency_key)
        if event is None:
            raise NotFound(f"no event with key {idempotency_key!r}")
        is_new = bool(
            void_events(
                tx,
                tenant_id,
                [event],
                reason=reason,
                actor=actor,
                now=now,
                request_id=request_id,
                replacement_key=None if replacement is None else replacement.idempotency_key,
            )
        )
        void = load_void(tx, event.seq)
        if void is None:
            raise NotFound(f"no event with key {idempotency_key!r}")
        result = None if replacement is None else _replace(tx, void, replacement, now)
    return VoidedEvent(event=event, void=void, is_new=is_new, replacement=result)


def _replace(tx: Tx, void: EventVoid, replacement: UsageEvent, now: datetime) -> EventResult:
    if void.replacement_key != replacement.idempotency_key:
        raise Conflict(
            f"the event was voided before, with {void.replacement_key!r} in its place: send others by themselves"
        )
    (result,) = store_events(tx, [replacement], received_on=now.date())
    if result.outcome not in {Outcome.ACCEPTED, Outcome.DUPLICATE}:
        raise Conflict(f"the replacement was not stored: {result.message}")
    return result
