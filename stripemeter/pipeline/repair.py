"""Repair: making Stripe hold what we counted, as far as a person allows.

Belongs here: what would be done about each difference, and a person's consent to it. Does not: finding differences
(`pipeline.reconcile`), sending what is missing or approved (`pipeline.push`).

Missing usage is pushed. A surplus at Stripe is taken back by a negative delta once a person approved it. Nothing here
changes what we counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.deltas import first_open_day
from stripemeter.metering.drift import repair_plan
from stripemeter.store import corrections, reconciliations
from stripemeter.store.corrections import Correction
from stripemeter.store.postgres import transaction

MAX_STEPS = 1000
MAX_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairStep:
    """One difference, its cause and what repairs it; `correction` is the suggestion to approve, where there is one."""

    tenant_id: str
    meter: str
    customer_ref: str
    segment_start: datetime
    day: date
    status: str
    cause: str
    local: Decimal
    stripe: Decimal | None
    drift: Decimal | None
    plan: str
    correction: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalOutcome:
    """What became of one approval: `applied`, `already` (approved before), or `failed` with a message."""

    id: UUID
    outcome: Literal["applied", "already", "failed"]
    message: str


def plan_repairs(pool: ConnectionPool, *, tenant_id: str | None, now: datetime) -> list[RepairStep]:
    """What the latest verdicts call for, worst first, at most MAX_STEPS; Stripe is not asked.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        verdicts = reconciliations.list_verdicts(tx, tenant_id=tenant_id, limit=MAX_STEPS)
        suggested = corrections.list_suggested(tx, tenant_id=tenant_id, limit=MAX_STEPS)
    ids = {(one.tenant_id, one.meter, one.customer_ref, one.segment_start, one.day): one.id for one in suggested}
    return [
        RepairStep(
            tenant_id=one.tenant_id,
            meter=one.meter,
            customer_ref=one.customer_ref,
            segment_start=one.segment_start,
            day=one.day,
            status=one.status,
            cause=one.cause or "",
            local=one.local_quantity,
            stripe=one.stripe_quantity,
            drift=one.drift,
            plan=repair_plan(one.cause),
            correction=ids.get((one.tenant_id, one.meter, one.customer_ref, one.segment_start, one.day)),
        )
        for one in verdicts
        if one.day >= first_open_day(now)
    ]


def approve_corrections(
    pool: ConnectionPool,
    ids: Sequence[UUID],
    *,
    tenant_id: str | None,
    actor: str,
    reason: str,
    now: datetime,
) -> list[ApprovalOutcome]:
    """Let surpluses at Stripe be taken back by the next push; each by itself, in the order given.

    Raises:
        InvalidInput: no reason is given, or it is too long.
        Unavailable: Postgres does not answer; those before are approved.
    """
    if not reason.strip() or len(reason) > MAX_REASON:
        raise InvalidInput(f"reason must have 1 to {MAX_REASON} characters", field="reason")
    return [_approve(pool, each, tenant_id, actor, reason, now) for each in ids]


def _approve(
    pool: ConnectionPool, correction_id: UUID, tenant_id: str | None, actor: str, reason: str, now: datetime
) -> ApprovalOutcome:
    with transaction(pool) as tx:
        found = corrections.lock_correction(tx, correction_id, tenant_id=tenant_id)
        refusal = _refusal(found, now)
        if found is not None and found.status == "approved":
            return ApprovalOutcome(id=correction_id, outcome="already", message="")
        if refusal:
            return ApprovalOutcome(id=correction_id, outcome="failed", message=refusal)
        corrections.approve(tx, correction_id, actor=actor, reason=reason, now=now)
    return ApprovalOutcome(id=correction_id, outcome="applied", message="")


def _refusal(found: Correction | None, now: datetime) -> str:
    if found is None:
        return "no such suggestion"
    if found.status == "resolved":
        return "the surplus is gone: there is nothing to take back"
    if found.day < first_open_day(now):
        return f"{found.day} is too old for Stripe: use a credit note"
    return ""
