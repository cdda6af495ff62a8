"""Doubts about rows of the outbox: the table `push_doubts`.

Belongs here: raising, reading and settling them, and the one change of a row they lead to. Does not: when a row is
doubted (`pipeline.stripe_error_reports`), what a reading decides (`pipeline.push_doubts`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("push_doubts")

Verdict = Literal["present", "absent", "otherwise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRow:
    """A row that an error report names."""

    identifier: str
    error_code: str
    error_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DayRows:
    """Which rows of a day; a None is any."""

    tenant_id: str
    day: date
    meter: str | None = None
    customer_ref: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushDoubt:
    """An acknowledged row whose minute is to be read back.

    Args:
        actor: who lets it be sent again at once when it is absent; None: its customer waits for an operator.
        read_at: when the minute was last read, and `read_quantity` what it held.
    """

    entry_id: UUID
    stripe_event_id: str | None
    error_code: str | None
    error_message: str
    actor: str | None
    read_at: datetime | None
    read_quantity: Decimal | None
    tenant_id: str
    meter: str
    customer_ref: str
    day: date
    stripe_account_id: str
    stripe_customer_id: str
    stripe_meter_id: str
    stamped_at: datetime
    identifier: str
    delta: Decimal


def raise_reported(
    tx: Tx, rows: Sequence[ReportedRow], *, stripe_account_id: str, stripe_event_id: str, now: datetime
) -> int:
    """Doubt the rows an error report names; returns how many were not doubted before."""
    values = {
        "stripe_account_id": stripe_account_id,
        "stripe_event_id": stripe_event_id,
        "identifiers": [row.identifier for row in rows],
        "error_codes": [row.error_code for row in rows],
        "error_messages": [row.error_message for row in rows],
        "now": now,
    }
    return tx.execute(_Q["raise_reported"], values).rowcount


def raise_neighbours(
    tx: Tx,
    identifiers: Collection[str],
    *,
    stripe_account_id: str,
    stripe_event_id: str | None,
    error_message: str,
    now: datetime,
) -> int:
    """Doubt what else was accepted of the customers and meters of these rows; returns how many."""
    values = {
        "stripe_account_id": stripe_account_id,
        "stripe_event_id": stripe_event_id,
        "identifiers": sorted(identifiers),
        "error_message": error_message,
        "now": now,
    }
    return tx.execute(_Q["raise_neighbours"], values).rowcount


def raise_unnamed(
    tx: Tx,
    *,
    stripe_account_id: str,
    stripe_meter_id: str,
    sent: tuple[datetime, datetime],
    stripe_event_id: str,
    error_message: str,
    now: datetime,
) -> int:
    """Doubt every accepted row of a Stripe meter that was last sent between two instants; returns how many."""
    values = {
        "stripe_account_id": stripe_account_id,
        "stripe_meter_id": stripe_meter_id,
        "sent_from": sent[0],
        "sent_until": sent[1],
        "stripe_event_id": stripe_event_id,
        "error_message": error_message,
        "now": now,
    }
    return tx.execute(_Q["raise_unnamed"], values).rowcount


def raise_approved(tx: Tx, rows: DayRows, *, stripe_account_id: str, actor: str, reason: str, now: datetime) -> int:
    """Doubt a day's accepted rows for an operator, who lets the absent ones be sent again; returns how many."""
    values = {
        "stripe_account_id": stripe_account_id,
        "tenant_id": rows.tenant_id,
        "day": rows.day,
        "meter": rows.meter,
        "customer_ref": rows.customer_ref,
        "actor": actor,
        "reason": reason,
        "now": now,
    }
    return tx.execute(_Q["raise_approved"], values).rowcount


def settle_known(tx: Tx, *, stripe_account_id: str, now: datetime) -> None:
    """Settle what the state of the row says already."""
    tx.execute(_Q["settle_known"], {"stripe_account_id": stripe_account_id, "now": now})


def list_due(
    tx: Tx, *, stripe_account_id: str, sent_before: datetime, now: datetime, limit: int = 1000
) -> list[PushDoubt]:
    """Doubts to read now, of rows last sent before an instant; longest due first."""
    values = {"stripe_account_id": stripe_account_id, "sent_before": sent_before, "now": now, "limit": limit}
    with tx.cursor(row_factory=class_row(PushDoubt)) as cursor:
        return cursor.execute(_Q["list_due"], values).fetchall()


def has_due(tx: Tx, *, modes: Sequence[str], sent_before: datetime, now: datetime) -> bool:
    """Whether a doubt about a row of mappings of these modes can be read, or settled, now."""
    row = tx.execute(_Q["has_due"], {"modes": list(modes), "sent_before": sent_before, "now": now}).fetchone()
    return row is not None and bool(row[0])


def count_open(tx: Tx, *, stripe_account_id: str | None = None) -> int:
    """How many rows are doubted."""
    row = tx.execute(_Q["count_open"], {"stripe_account_id": stripe_account_id}).fetchone()
    return 0 if row is None else int(row[0])


def note_reading(tx: Tx, entry_id: UUID, *, quantity: Decimal, now: datetime, next_reading_at: datetime) -> None:
    """Write down what the minute held."""
    values = {"entry_id": entry_id, "quantity": quantity, "now": now, "next_reading_at": next_reading_at}
    tx.execute(_Q["note_reading"], values)


def postpone(tx: Tx, entry_id: UUID, *, next_reading_at: datetime) -> None:
    """Read it later."""
    tx.execute(_Q["postpone"], {"entry_id": entry_id, "next_reading_at": next_reading_at})


def settle(tx: Tx, entry_id: UUID, verdict: Verdict, *, now: datetime) -> None:
    """End a doubt."""
    tx.execute(_Q["settle"], {"entry_id": entry_id, "verdict": verdict, "now": now})


def reject_accepted(
    tx: Tx,
    entry_id: UUID,
    *,
    now: datetime,
    released_at: datetime | None,
    error_code: str | None,
    error_message: str,
) -> bool:
    """Make an acknowledged row `rejected_async`: its delta is lacking again. False: it is not `accepted` any more."""
    values = {
        "entry_id": entry_id,
        "now": now,
        "released_at": released_at,
        "error_code": error_code,
        "error_message": error_message,
    }
    return tx.execute(_Q["reject_accepted"], values).rowcount > 0
