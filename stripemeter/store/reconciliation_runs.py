"""Reconciliation runs: the tables `reconciliation_requests` and `reconciliation_runs`.

Belongs here: rows. Does not: comparing (`pipeline.reconcile`), verdicts on days (`store.reconciliations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("reconciliation_runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationRequest:
    """A comparison somebody asked for. `status`: queued, running, completed, failed."""

    id: UUID
    tenant_id: str
    status: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error_message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciliationRun:
    """What one comparison of an account found. `drift_total` sums the absolute drift of its days."""

    started_at: datetime
    ended_at: datetime
    day_count: int
    ok_count: int
    within_epsilon_count: int
    drift_count: int
    unknown_count: int
    unexplained_count: int
    drift_total: Decimal


def insert_request(tx: Tx, request_id: UUID, *, tenant_id: str, now: datetime) -> None:
    """Ask for a comparison."""
    tx.execute(_Q["insert_request"], {"id": request_id, "tenant_id": tenant_id, "now": now})


def find_request(tx: Tx, request_id: UUID, *, tenant_id: str) -> ReconciliationRequest | None:
    """One of a tenant's; None: it has none of this id."""
    with tx.cursor(row_factory=class_row(ReconciliationRequest)) as cursor:
        return cursor.execute(_Q["find_request"], {"id": request_id, "tenant_id": tenant_id}).fetchone()


def has_waiting_request(tx: Tx) -> bool:
    """Whether a request has no answer yet."""
    row = tx.execute(_Q["has_waiting"]).fetchone()
    return row is not None and bool(row[0])


def start_requests(tx: Tx, *, now: datetime) -> list[UUID]:
    """Make the run that begins now the answer of every request that waits; their ids."""
    return [row[0] for row in tx.execute(_Q["start_requests"], {"now": now})]


def end_requests(
    tx: Tx,
    ids: Sequence[UUID],
    status: Literal["completed", "failed"],
    *,
    now: datetime,
    error_message: str | None = None,
) -> None:
    """Write down what became of them."""
    tx.execute(_Q["end_requests"], {"ids": list(ids), "status": status, "now": now, "error_message": error_message})


def insert_run(tx: Tx, run: ReconciliationRun, *, stripe_account_id: str, mode: str) -> None:
    """Write down what a comparison found."""
    fields = {name: getattr(run, name) for name in ReconciliationRun.__dataclass_fields__}
    tx.execute(_Q["insert_run"], {**fields, "stripe_account_id": stripe_account_id, "mode": mode})


def list_runs(tx: Tx, *, stripe_account_id: str, limit: int) -> list[ReconciliationRun]:
    """The latest of an account, oldest first."""
    with tx.cursor(row_factory=class_row(ReconciliationRun)) as cursor:
        return cursor.execute(_Q["list_runs"], {"stripe_account_id": stripe_account_id, "limit": limit}).fetchall()


def load_totals(tx: Tx) -> tuple[int, Decimal]:
    """How many runs there were, and what they took in seconds."""
    row = tx.execute(_Q["load_totals"]).fetchone()
    return (0, Decimal(0)) if row is None else (row[0], row[1])


def delete_old(tx: Tx, *, before: datetime) -> int:
    """Delete old runs and answered requests; returns how many runs."""
    return tx.execute(_Q["delete_old"], {"before": before}).rowcount
