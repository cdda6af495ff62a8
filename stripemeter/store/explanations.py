"""What explaining reads: events with what became of them, counters, adjustments, refused payloads.

Belongs here: the queries and their rows. Does not: what they mean (`metering.explanations`), putting them together
(`pipeline.explain`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import polars as pl

from stripemeter.metering.days import day_bounds, month_start
from stripemeter.metering.events import key_hash
from stripemeter.metering.frames import LEDGER_EVENTS
from stripemeter.store.archived_rows import bring_rows, keep_ledger
from stripemeter.store.dropped_months import find_archived, list_dropped_months
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("explain")
MOST_ADJUSTMENTS = 1000
MOST_CONFLICTS = 100
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A ledger row and what became of it.

    `batch` is the transaction that stored it, None once the row is in the lake alone; `meta` is JSON text.
    """

    seq: int
    idempotency_key: str
    tenant_id: str
    customer_ref: str
    metric: str
    ts: datetime
    quantity: Decimal
    received_at: datetime
    source: str
    resource_id: str | None
    meta: str | None
    backfill_id: UUID | None
    batch: str | None
    is_folded: bool
    adjustment_id: UUID | None
    late_status: str | None
    voided_at: datetime | None
    void_reason: str | None
    void_actor: str | None
    void_request_id: str | None
    replacement_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCounter:
    """One row of the counters; `distinct_count` of unique and percentile meters."""

    day: date
    segment_start: datetime
    dimensions: str
    is_late: bool
    event_count: int
    quantity_sum: Decimal
    quantity_min: Decimal
    quantity_max: Decimal
    quantity_last: Decimal
    distinct_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdjustment:
    """One adjustment; `event_key` of a late event's."""

    id: UUID
    reason: str
    status: str
    metric: str
    customer_ref: str
    period: str
    day: date
    delta: Decimal | None
    actor: str
    note: str | None
    event_key: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedPayload:
    """A payload whose key was taken; `meta` is JSON text."""

    metric: str
    customer_ref: str
    resource_id: str | None
    quantity: Decimal
    ts: datetime
    meta: str | None
    source: str
    received_at: datetime
    times_refused: int
    last_refused_at: datetime


def begin_snapshot(tx: Tx) -> None:
    """The transaction sees one instant from here on, and no statement takes for ever."""
    tx.execute(_Q["begin_snapshot"])
    keep_ledger(tx)
    tx.execute(_Q["limit_time"])


def find_event(tx: Tx, tenant_id: str, idempotency_key: str, ts: datetime) -> StoredEvent | None:
    """The event of a key at the instant its key remembers, wherever its row lies; None when there is none.

    Raises:
        InvariantBroken: its month was dropped and the lake does not have it.
        Unavailable: Postgres or the lake does not answer.
    """
    row = tx.execute(
        _Q["find_event"], {"tenant_id": tenant_id, "idempotency_key": idempotency_key, "ts": ts}, prepare=False
    ).fetchone()
    if row is not None:
        return _fill(StoredEvent, row)
    archived = find_archived(tx, ts.astimezone(UTC), tenant_id, idempotency_key)
    return None if archived is None or archived.is_empty() else _archived(tx, archived.row(0, named=True))


def load_events(
    tx: Tx,
    *,
    tenant_id: str,
    customer_refs: Collection[str],
    metrics: Collection[str],
    first_on: date,
    last_on: date,
    after: tuple[datetime, int] | None,
    most: int,
) -> list[StoredEvent]:
    """At most so many events of the days (both included) beyond (ts, seq), oldest first, wherever they lie.

    Raises:
        TookTooLong: too much of the days lives in the lake alone.
        InvariantBroken: a dropped day is not in the lake.
        Unavailable: Postgres or the lake does not answer.
    """
    bring_rows(
        tx,
        first_on if after is None else max(first_on, after[0].astimezone(UTC).date()),
        last_on,
        tenant_id=tenant_id,
        metrics=metrics,
        customer_refs=customer_refs,
    )
    parameters = {
        "tenant_id": tenant_id,
        "customer_refs": sorted(customer_refs),
        "metrics": sorted(metrics),
        "start_at": day_bounds(first_on)[0],
        "end_at": day_bounds(last_on)[1],
        "after_ts": None if after is None else after[0],
        "after_seq": None if after is None else after[1],
        "most": most,
    }
    return [_fill(StoredEvent, row) for row in tx.execute(_Q["load_events"], parameters, prepare=False)]


def load_counters(
    tx: Tx, *, tenant_id: str, customer_ref: str, meter: str, first_on: date, last_on: date
) -> list[StoredCounter]:
    """A customer's counters of a meter over the days, both included, by day, segment, dimensions, lane."""
    parameters = {
        "tenant_id": tenant_id,
        "customer_ref": customer_ref,
        "meter": meter,
        "first_on": first_on,
        "last_on": last_on,
    }
    return [_fill(StoredCounter, row) for row in tx.execute(_Q["load_counters"], parameters)]


def load_adjustments(
    tx: Tx,
    *,
    tenant_id: str,
    customer_refs: Collection[str],
    meter: str,
    metrics: Collection[str],
    first_on: date,
    last_on: date,
) -> tuple[list[StoredAdjustment], bool]:
    """The oldest MOST_ADJUSTMENTS of the meter and of late events of the metrics, and whether there are more."""
    parameters = {
        "tenant_id": tenant_id,
        "customer_refs": sorted(customer_refs),
        "meter": meter,
        "metrics": sorted(metrics),
        "first_on": first_on,
        "last_on": last_on,
        "most": MOST_ADJUSTMENTS + 1,
    }
    found = [_fill(StoredAdjustment, row) for row in tx.execute(_Q["load_adjustments"], parameters)]
    return found[:MOST_ADJUSTMENTS], len(found) > MOST_ADJUSTMENTS


def load_refused(tx: Tx, tenant_id: str, idempotency_key: str) -> list[RefusedPayload]:
    """What was refused under a key, oldest first; at most MOST_CONFLICTS."""
    hashed = UUID(bytes=key_hash(tenant_id, idempotency_key))
    rows = tx.execute(_Q["load_conflicts"], {"key_hash": hashed, "most": MOST_CONFLICTS})
    return [_fill(RefusedPayload, row) for row in rows]


def has_recount_pending(tx: Tx, tenant_id: str, first_on: date, last_on: date) -> bool:
    """Whether a day of these waits to be counted again."""
    parameters = {"tenant_id": tenant_id, "first_on": first_on, "last_on": last_on}
    row = tx.execute(_Q["has_recount_pending"], parameters).fetchone()
    return row is not None and bool(row[0])


def has_dropped(tx: Tx, first_on: date, last_on: date) -> bool:
    """Whether rows of some of these days are in the lake alone."""
    return any(month_start(first_on) <= month <= last_on for month in list_dropped_months(tx))


def as_frame(events: Sequence[StoredEvent]) -> pl.DataFrame:
    """The events, shape LEDGER_EVENTS; late are those whose adjustment is approved."""
    rows = [
        {
            **{name: getattr(event, name, None) for name in LEDGER_EVENTS.columns},
            "is_history": event.source in {"import", "etl"} or event.backfill_id is not None,
            "is_late": event.late_status == "approved",
        }
        for event in events
    ]
    schema: dict[str, Any] = {name: column.dtype.type for name, column in LEDGER_EVENTS.columns.items()}
    return LEDGER_EVENTS.validate(pl.DataFrame(rows, schema=schema, orient="row"))


def _archived(tx: Tx, row: Mapping[str, Any]) -> StoredEvent:
    """An event of the lake: it was folded before its month was dropped, and its fate is still in Postgres."""
    fate = tx.execute(_Q["load_fate"], {"seq": row["seq"]}).fetchone() or ()
    own = {name: row[name] for name in StoredEvent.__dataclass_fields__ if name in row}
    backfill_id = None if row["backfill_id"] is None else UUID(row["backfill_id"])
    names = (
        "adjustment_id",
        "late_status",
        "voided_at",
        "void_reason",
        "void_actor",
        "void_request_id",
        "replacement_key",
    )
    rest = dict(zip(names, fate, strict=True))
    return StoredEvent(**{**own, **rest, "backfill_id": backfill_id, "batch": None, "is_folded": True})


def _fill(kind: type[Row], row: Sequence[Any]) -> Row:
    return kind(**dict(zip(kind.__dataclass_fields__, row, strict=True)))  # type: ignore[attr-defined]
