"""Imports of files and backfills: the table that says what was asked for and how far it has come.

Belongs here: creating, reading, the checkpoint, ending. Does not: reading files (`store.files`), storing events
(`pipeline.bulk`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

import psycopg

from stripemeter.errors import Conflict, NotFound
from stripemeter.store.files import FileFormat
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("backfills")

BackfillStatus = Literal["pending", "processing", "completed", "failed", "cancelled"]
SourceType = Literal["file", "url", "csv", "events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCounts:
    """What rows came to. Every row is in exactly one of the five."""

    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.accepted + self.duplicates + self.conflicts + self.failed + self.skipped

    def plus(self, other: RowCounts) -> RowCounts:
        """Both together."""
        return RowCounts(
            accepted=self.accepted + other.accepted,
            duplicates=self.duplicates + other.duplicates,
            conflicts=self.conflicts + other.conflicts,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBackfill:
    """What somebody asks for. Period: UTC days, both included. `source` is '' when the payload is the source."""

    tenant_id: str
    metric: str | None = None
    customer_ref: str | None = None
    period_start: date | None = None
    period_end: date | None = None
    reason: str
    actor: str
    source_type: SourceType
    source: str
    source_version: str
    source_format: FileFormat
    source_size: int
    column_map: Mapping[str, str] = field(default_factory=dict)
    payload: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """One operation as it stands. Everything before `source_position` is committed and in `counts`."""

    id: UUID
    tenant_id: str
    metric: str | None
    customer_ref: str | None
    period_start: date | None
    period_end: date | None
    reason: str
    actor: str
    source_type: SourceType
    source: str
    source_version: str
    source_format: FileFormat
    column_map: Mapping[str, str]
    status: BackfillStatus
    source_position: int
    source_size: int
    counts: RowCounts
    report_bytes: int
    error_message: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime


def create_backfill(tx: Tx, new: NewBackfill, *, now: datetime) -> UUID:
    """Record an operation, pending; returns its id."""
    values = {name: getattr(new, name) for name in NewBackfill.__dataclass_fields__}
    values |= {"column_map": json.dumps(dict(new.column_map)), "now": now}
    row = tx.execute(_Q["create_backfill"], values).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def load_backfill(tx: Tx, backfill_id: UUID) -> Backfill:
    """One operation.

    Raises:
        NotFound: there is none of that id.
    """
    row = tx.execute(_Q["load_backfill"], {"id": backfill_id}).fetchone()
    if row is None:
        raise NotFound(f"no backfill {backfill_id}")
    return _backfill(row)


def list_backfills(
    tx: Tx, *, tenant_id: str | None = None, status: BackfillStatus | None = None, limit: int = 50
) -> list[Backfill]:
    """Operations, newest first."""
    values = {"tenant_id": tenant_id, "status": status, "most": limit}
    return [_backfill(row) for row in tx.execute(_Q["list_backfills"], values).fetchall()]


def find_unfinished(tx: Tx, *, tenant_id: str, source: str) -> Backfill | None:
    """The newest operation of a tenant on a file that has not ended."""
    row = tx.execute(_Q["find_unfinished"], {"tenant_id": tenant_id, "source": source}).fetchone()
    return None if row is None else load_backfill(tx, row[0])


def begin_backfill(connection: psycopg.Connection[Any], backfill_id: UUID, *, now: datetime) -> Backfill:
    """Make this session the operation's only runner, as long as it lives; returns where to go on.

    Raises:
        Conflict: another session runs it, or it has ended.
        NotFound: there is none of that id.
    """
    if connection.execute(_Q["lock_backfill"], {"id": backfill_id}).fetchone() != (True,):
        raise Conflict(f"backfill {backfill_id} is being run by another process")
    is_begun = connection.execute(_Q["begin_backfill"], {"id": backfill_id, "now": now}).fetchone() is not None
    backfill = load_backfill(connection, backfill_id)
    if not is_begun:
        raise Conflict(f"backfill {backfill_id} has ended: it is {backfill.status}")
    return backfill


def advance_backfill(
    tx: Tx, backfill: Backfill, done: RowCounts, *, position: int, report_bytes: int, now: datetime
) -> bool:
    """Write the checkpoint; False when the operation has ended meanwhile, and nothing of this transaction may stay.

    Args:
        tx: the transaction that stores the rows.
        backfill: the operation; its id is used.
        done: the counts to add, and in `backfill.counts` those before.
        position: where to read on afterwards.
        report_bytes: length of the error report afterwards.
        now: aware.
    """
    values = {
        "id": backfill.id,
        "rows_before": backfill.counts.rows,
        "source_position": position,
        "rows": done.rows,
        "accepted": done.accepted,
        "duplicates": done.duplicates,
        "conflicts": done.conflicts,
        "failed": done.failed,
        "skipped": done.skipped,
        "report_bytes": report_bytes,
        "now": now,
    }
    return tx.execute(_Q["advance_backfill"], values).fetchone() is not None


def finish_backfill(
    tx: Tx,
    backfill_id: UUID,
    *,
    status: Literal["completed", "failed", "cancelled"],
    now: datetime,
    error_message: str | None = None,
) -> bool:
    """End an operation for good; False when it had ended already."""
    values = {"id": backfill_id, "status": status, "error_message": error_message, "now": now}
    return tx.execute(_Q["finish_backfill"], values).fetchone() is not None


def _backfill(row: Sequence[Any]) -> Backfill:
    fields = list(Backfill.__dataclass_fields__)
    counts_at = fields.index("counts")
    # After the position and size: the number of rows, which is the sum of the five that follow it.
    _, accepted, duplicates, conflicts, failed, skipped = row[counts_at : counts_at + 6]
    counts = RowCounts(accepted=accepted, duplicates=duplicates, conflicts=conflicts, failed=failed, skipped=skipped)
    values = [*row[:counts_at], counts, *row[counts_at + 6 :]]
    return Backfill(**dict(zip(fields, values, strict=True)))
