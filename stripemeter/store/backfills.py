"""Imports of files and backfills: the table that says what was asked for and how far it has come.

Belongs here: creating, reading, the checkpoint, ending, being reverted. Does not: reading files (`store.files`),
storing events (`pipeline.bulk`), voiding them (`pipeline.revert`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from stripemeter.errors import Conflict, NotFound
from stripemeter.store.files import FileFormat
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries
from stripemeter.store.voids import LedgerEvent

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
    """What somebody asks for. Period: UTC days, both included.

    `source` is '' when the payload is the source; `source_version` is '' when nobody has looked at the source yet.
    """

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
    source_row_count: int | None = None
    column_map: Mapping[str, str] = field(default_factory=dict)
    payload: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """One operation as it stands. Everything before `source_position` is committed and in `counts`.

    `source_row_count` is None while nobody has counted the rows of the source.
    """

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
    voided_count: int
    revert_reason: str | None
    reverted_by: str | None
    reverted_at: datetime | None
    source_row_count: int | None

    @property
    def has_ended(self) -> bool:
        """Whether it stores nothing more."""
        return self.status in {"completed", "failed", "cancelled"}


def create_backfill(tx: Tx, new: NewBackfill, *, now: datetime) -> UUID:
    """Record an operation, pending; returns its id."""
    values = {name: getattr(new, name) for name in NewBackfill.__dataclass_fields__}
    values |= {"column_map": json.dumps(dict(new.column_map)), "now": now}
    row = tx.execute(_Q["create_backfill"], values).fetchone()
    assert row is not None
    return UUID(str(row[0]))


def load_backfill(tx: Tx, backfill_id: UUID, *, tenant_id: str | None = None) -> Backfill:
    """One operation, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    row = tx.execute(_Q["load_backfill"], {"id": backfill_id}).fetchone()
    found = None if row is None else _backfill(row)
    if found is None or (tenant_id is not None and found.tenant_id != tenant_id):
        raise NotFound(f"no backfill {backfill_id}")
    return found


def list_backfills(
    tx: Tx,
    *,
    tenant_id: str | None = None,
    status: BackfillStatus | None = None,
    limit: int = 50,
    offset: int = 0,
    after: tuple[datetime, UUID] | None = None,
) -> list[Backfill]:
    """Operations, newest first; `after` is where the page before ended: created_at and id."""
    after_at, after_id = after or (None, None)
    values = {
        "tenant_id": tenant_id,
        "status": status,
        "after_at": after_at,
        "after_id": after_id,
        "most": limit,
        "skipped": offset,
    }
    return [_backfill(row) for row in tx.execute(_Q["list_backfills"], values).fetchall()]


def count_backfills(tx: Tx, *, tenant_id: str | None, status: BackfillStatus | None) -> int:
    """How many operations match."""
    row = tx.execute(_Q["count_backfills"], {"tenant_id": tenant_id, "status": status}).fetchone()
    assert row is not None
    return int(row[0])


def list_waiting(tx: Tx, *, limit: int) -> list[UUID]:
    """Operations with work left that nobody is doing, oldest first: those of files wait for whoever typed them."""
    return [row[0] for row in tx.execute(_Q["list_waiting"], {"most": limit}).fetchall()]


def load_payload(tx: Tx, backfill_id: UUID) -> bytes | None:
    """What an HTTP request brought along; None when it brought nothing, or the operation has ended."""
    row = tx.execute(_Q["load_payload"], {"id": backfill_id}).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def find_unfinished(tx: Tx, *, tenant_id: str, source: str) -> Backfill | None:
    """The newest operation of a tenant on a file that has not ended."""
    row = tx.execute(_Q["find_unfinished"], {"tenant_id": tenant_id, "source": source}).fetchone()
    return None if row is None else load_backfill(tx, row[0])


def lock_backfill(connection: psycopg.Connection[Any], backfill_id: UUID) -> None:
    """Make this session the only one at work on an operation, as long as it lives.

    Raises:
        Conflict: another session is.
    """
    if connection.execute(_Q["lock_backfill"], {"id": backfill_id}).fetchone() != (True,):
        raise Conflict(f"backfill {backfill_id} is being run by another process")


def release_backfill(connection: psycopg.Connection[Any], backfill_id: UUID) -> None:
    """Let another session work on the operation at once.

    Closing does it too, but only when the server has noticed: who resumes right away would find it taken. A session
    that cannot speak any more is left to that.
    """
    if connection.info.transaction_status is TransactionStatus.IDLE:
        with suppress(psycopg.Error):
            connection.execute(_Q["release_backfill"], {"id": backfill_id})


def begin_backfill(connection: psycopg.Connection[Any], backfill_id: UUID, *, now: datetime) -> Backfill:
    """Make this session the operation's only runner, as long as it lives; returns where to go on.

    Raises:
        Conflict: another session runs it, or it has ended.
        NotFound: there is none of that id.
    """
    lock_backfill(connection, backfill_id)
    is_begun = connection.execute(_Q["begin_backfill"], {"id": backfill_id, "now": now}).fetchone() is not None
    backfill = load_backfill(connection, backfill_id)
    if not is_begun:
        raise Conflict(f"backfill {backfill_id} has ended: it is {backfill.status}")
    return backfill


def pin_source(tx: Tx, backfill_id: UUID, *, source_version: str, source_size: int, now: datetime) -> None:
    """Remember which state of its source an operation reads, once."""
    values = {"id": backfill_id, "source_version": source_version, "source_size": source_size, "now": now}
    tx.execute(_Q["pin_source"], values)


def note_row_count(tx: Tx, backfill_id: UUID, source_row_count: int, *, now: datetime) -> None:
    """Remember how many rows the source of an operation has, once."""
    tx.execute(_Q["note_row_count"], {"id": backfill_id, "source_row_count": source_row_count, "now": now})


def list_ended_before(tx: Tx, backfill_ids: Sequence[UUID], before: datetime) -> set[UUID]:
    """Of these, the operations that ended before an instant, their reverts too."""
    return {row[0] for row in tx.execute(_Q["list_ended_before"], {"ids": list(backfill_ids), "before": before})}


def note_interruption(tx: Tx, backfill_id: UUID, error_message: str, *, now: datetime) -> None:
    """Say in an operation that has not ended why it does not go on for now."""
    tx.execute(_Q["note_interruption"], {"id": backfill_id, "error_message": error_message, "now": now})


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


def ask_revert(tx: Tx, backfill_id: UUID, *, reason: str, actor: str, now: datetime) -> bool:
    """Record that every event of an operation is to be voided; False when it has not ended."""
    values = {"id": backfill_id, "reason": reason, "actor": actor, "now": now}
    return tx.execute(_Q["ask_revert"], values).fetchone() is not None


def count_stored(tx: Tx, backfill_id: UUID) -> int:
    """How many events of an operation Postgres has."""
    row = tx.execute(_Q["count_stored"], {"id": backfill_id}).fetchone()
    assert row is not None
    return int(row[0])


def scan_standing(connection: psycopg.Connection[Any], backfill_id: UUID, *, batch: int) -> Iterator[list[LedgerEvent]]:
    """Events of an operation that Postgres has and that were not voided when asked, by day and customer, in batches.

    The connection is in autocommit; the rows lie in the server meanwhile, and no transaction stays open.
    """
    with connection.cursor(name="standing", withhold=True) as cursor:
        cursor.execute(_Q["scan_standing"], {"id": backfill_id})
        while rows := cursor.fetchmany(batch):
            yield [LedgerEvent(**dict(zip(LedgerEvent.__dataclass_fields__, row, strict=True))) for row in rows]


def count_voided(tx: Tx, backfill_id: UUID, voided: int, *, now: datetime) -> None:
    """Write a revert's checkpoint, in the transaction that voided so many events."""
    tx.execute(_Q["count_voided"], {"id": backfill_id, "voided": voided, "now": now})


def finish_revert(tx: Tx, backfill_id: UUID, *, now: datetime) -> None:
    """Say that every event of an operation is voided."""
    tx.execute(_Q["finish_revert"], {"id": backfill_id, "now": now})


def _backfill(row: Sequence[Any]) -> Backfill:
    fields = list(Backfill.__dataclass_fields__)
    counts_at = fields.index("counts")
    # After the position and size: the number of rows, which is the sum of the five that follow it.
    _, accepted, duplicates, conflicts, failed, skipped = row[counts_at : counts_at + 6]
    counts = RowCounts(accepted=accepted, duplicates=duplicates, conflicts=conflicts, failed=failed, skipped=skipped)
    values = [*row[:counts_at], counts, *row[counts_at + 6 :]]
    return Backfill(**dict(zip(fields, values, strict=True)))
