"""Adjustments and their audit: the tables `adjustments`, `adjustment_transitions`; and what tenants decide about them.

Belongs here: rows. Does not: which transition is allowed (`pipeline.adjustments`), what late events become
(`store.lateness`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from stripemeter.errors import InvariantBroken
from stripemeter.metering.rulebook import LateApproval
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("adjustments")

Reason = Literal["backfill", "correction", "promo", "credit", "manual", "late_event"]
Status = Literal["pending", "approved", "rejected", "reverted", "absorbed"]
Action = Literal["created", "approved", "rejected", "reverted", "absorbed"]
Period = Literal["day", "month"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAdjustment:
    """What somebody asks for; `day` is the first of the month for a month."""

    tenant_id: str
    metric: str
    customer_ref: str
    period: Period
    day: date
    effective_at: datetime
    delta: Decimal
    reason: Reason
    request_id: str | None
    note: str | None
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """One as it stands; the last two belong to late events."""

    id: UUID
    tenant_id: str
    metric: str
    customer_ref: str
    period: Period
    day: date
    effective_at: datetime
    delta: Decimal | None
    reason: Reason
    status: Status
    request_id: str | None
    note: str | None
    actor: str
    created_at: datetime
    updated_at: datetime
    event_seq: int | None
    event_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One row of the audit."""

    action: Action
    status_before: Status | None
    status_after: Status
    actor: str
    request_id: str | None
    note: str | None
    happened_at: datetime


def insert_adjustment(tx: Tx, new: NewAdjustment, *, now: datetime) -> Adjustment | None:
    """A new one, pending; None when the tenant has used its request id before."""
    fields = {name: getattr(new, name) for name in NewAdjustment.__dataclass_fields__}
    return _maybe(tx.execute(_Q["insert_adjustment"], {**fields, "now": now}).fetchone())


def find_by_request(tx: Tx, tenant_id: str, request_id: str) -> Adjustment | None:
    """The adjustment a request id made."""
    return _maybe(tx.execute(_Q["find_by_request"], {"tenant_id": tenant_id, "request_id": request_id}).fetchone())


def find_adjustment(tx: Tx, tenant_id: str, adjustment_id: UUID) -> Adjustment | None:
    """One of a tenant's; None: it has none of this id."""
    return _maybe(tx.execute(_Q["find_adjustment"], {"tenant_id": tenant_id, "id": adjustment_id}).fetchone())


def lock_adjustment(tx: Tx, tenant_id: str, adjustment_id: UUID) -> Adjustment | None:
    """As `find_adjustment`, and nobody else's until the transaction ends."""
    return _maybe(tx.execute(_Q["lock_adjustment"], {"tenant_id": tenant_id, "id": adjustment_id}).fetchone())


def list_adjustments(
    tx: Tx, tenant_id: str, filters: Mapping[str, object], *, after: tuple[datetime, UUID] | None, most: int
) -> list[Adjustment]:
    """A tenant's beyond a key, newest first.

    `filters`: metric, customer_ref, first_on, last_on, status, reason; absent or None does not filter.
    """
    names = ("metric", "customer_ref", "first_on", "last_on", "status", "reason")
    parameters = {
        "tenant_id": tenant_id,
        **{name: filters.get(name) for name in names},
        "after_at": after[0] if after else None,
        "after_id": after[1] if after else None,
        "most": most,
    }
    return [_adjustment(row) for row in tx.execute(_Q["list_adjustments"], parameters, prepare=False)]


def set_status(
    tx: Tx,
    adjustment: Adjustment,
    action: Action,
    status: Status,
    *,
    actor: str,
    request_id: str | None,
    note: str | None,
    now: datetime,
) -> None:
    """Move a locked adjustment on, and write the audit row."""
    tx.execute(_Q["set_status"], {"id": adjustment.id, "status": status, "now": now})
    append_transition(
        tx, adjustment, action, (adjustment.status, status), actor=actor, request_id=request_id, note=note, now=now
    )


def append_transition(
    tx: Tx,
    adjustment: Adjustment,
    action: Action,
    states: tuple[Status | None, Status],
    *,
    actor: str,
    request_id: str | None,
    note: str | None,
    now: datetime,
) -> None:
    """Write one audit row; states are before and after."""
    tx.execute(
        _Q["append_transition"],
        {
            "adjustment_id": adjustment.id,
            "tenant_id": adjustment.tenant_id,
            "action": action,
            "status_before": states[0],
            "status_after": states[1],
            "actor": actor,
            "request_id": request_id,
            "note": note,
            "now": now,
        },
    )


def list_transitions(tx: Tx, adjustment_id: UUID) -> list[Transition]:
    """The audit of an adjustment, oldest first."""
    rows = tx.execute(_Q["list_transitions"], {"adjustment_id": adjustment_id})
    return [Transition(**dict(zip(Transition.__dataclass_fields__, row, strict=True))) for row in rows]


def put_policy(
    tx: Tx,
    tenant_id: str,
    *,
    late_approval: LateApproval | None,
    close_after_seconds: int | None,
    is_four_eyes: bool | None,
    now: datetime,
) -> None:
    """What a tenant decides; None leaves what stands."""
    tx.execute(
        _Q["put_policy"],
        {
            "tenant_id": tenant_id,
            "late_approval": late_approval,
            "close_after_seconds": close_after_seconds,
            "is_four_eyes": is_four_eyes,
            "now": now,
        },
    )


def put_window(tx: Tx, tenant_id: str, metric: str, window_seconds: int | None, *, now: datetime) -> None:
    """How far behind its watermark an event of the metric may fold; None: the default again."""
    scope = {"tenant_id": tenant_id, "metric": metric}
    if window_seconds is None:
        tx.execute(_Q["delete_window"], scope)
    else:
        tx.execute(_Q["put_window"], {**scope, "window_seconds": window_seconds, "now": now})


def _maybe(row: Sequence[Any] | None) -> Adjustment | None:
    return None if row is None else _adjustment(row)


def _adjustment(row: Sequence[Any]) -> Adjustment:
    return Adjustment(**dict(zip(Adjustment.__dataclass_fields__, row, strict=True)))


def must(adjustment: Adjustment | None) -> Adjustment:
    """The row that a constraint says is there."""
    if adjustment is None:
        raise InvariantBroken("an adjustment vanished between two statements")
    return adjustment
