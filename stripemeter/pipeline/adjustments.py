"""Adjusting usage: pending, approved, reverted; or rejected; or, of a late event, absorbed by a recount.

Belongs here: which transition is allowed, its locks, what it moves. Does not: rows (`store.adjustments`), what late
events become in the fold (`pipeline.judge_late`), reading usage.

A manual adjustment's delta is added to the finished number of its day for as long as it is approved. A late event's
adjustment is the event itself: its transitions count the customer's day again in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotAllowed, NotFound
from stripemeter.metering.rulebook import LateApproval, TenantRules
from stripemeter.pipeline.recount import recount_slice
from stripemeter.store import adjustments, counters, ledger
from stripemeter.store.adjustments import Adjustment, NewAdjustment, Status, Transition
from stripemeter.store.customers import resolve_customer
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook

Decision = Literal["approved", "rejected", "reverted"]
_FROM: Mapping[Decision, Status] = {"approved": "pending", "rejected": "pending", "reverted": "approved"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """An adjustment after a decision; `was_so_before`: nothing changed."""

    adjustment: Adjustment
    was_so_before: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """What a tenant decides anew; None leaves what stands. A window of None is the default again."""

    late_approval: LateApproval | None = None
    close_after_seconds: int | None = None
    is_four_eyes: bool | None = None
    windows: Mapping[str, int | None] | None = None


def create_adjustment(
    pool: ConnectionPool, new: NewAdjustment, *, now: datetime, max_delta: Decimal
) -> tuple[Adjustment, bool]:
    """A pending adjustment of the customer a reference means, and whether it is new.

    A retry with the same request id is the same row.

    Raises:
        InvalidInput: the delta is 0 or beyond the bound, a month does not begin at its first day, or the reason is one
            that only the fold gives.
        Conflict: the request id was used for something else.
        Unavailable: Postgres does not answer; nothing changed.
    """
    _check(new, max_delta)
    with transaction(pool) as tx:
        asked = replace(new, customer_ref=resolve_customer(tx, new.tenant_id, new.customer_ref))
        created = adjustments.insert_adjustment(tx, asked, now=now)
        if created is not None:
            adjustments.append_transition(
                tx, created, "created", (None, "pending"), actor=new.actor, request_id=new.request_id, note=new.note,
                now=now,
            )  # fmt: skip
            return created, True
        stands = adjustments.must(adjustments.find_by_request(tx, new.tenant_id, asked.request_id or ""))
    differing = [
        name
        for name in ("metric", "customer_ref", "period", "day", "delta", "reason")
        if getattr(stands, name) != getattr(asked, name)
    ]
    if differing:
        raise Conflict(f"requestId {new.request_id!r} was used for another adjustment: {', '.join(differing)} differ")
    return stands, False


def decide(
    pool: ConnectionPool,
    tenant_id: str,
    adjustment_id: UUID,
    decision: Decision,
    *,
    actor: str,
    now: datetime,
    request_id: str | None = None,
    note: str | None = None,
) -> Decided:
    """Approve, reject or revert; in effect at once. What is so already stays so.

    Raises:
        NotFound: the tenant has no such adjustment.
        InvalidInput: its state does not allow the decision.
        NotAllowed: four-eyes is on, and the actor created it.
        Unavailable: Postgres does not answer; nothing changed.
    """
    with transaction(pool) as tx:
        seen = adjustments.find_adjustment(tx, tenant_id, adjustment_id)
        if seen is None:
            raise NotFound("Adjustment not found")
        if seen.event_seq is not None:  # before the row: whoever folds or recounts takes the locks in this order
            ledger.lock_cursor(tx)
            counters.lock_days(tx, [seen.day])
        stands = adjustments.must(adjustments.lock_adjustment(tx, tenant_id, adjustment_id))
        if stands.status == decision:
            return Decided(adjustment=stands, was_so_before=True)
        _require_allowed(stands, decision)
        if decision == "approved":
            _require_other_eyes(tx, stands, actor)
        adjustments.set_status(tx, stands, decision, decision, actor=actor, request_id=request_id, note=note, now=now)
        if stands.event_seq is not None:
            recount_slice(tx, stands.day, tenant_id=tenant_id, customer_refs=[stands.customer_ref])
        return Decided(adjustment=replace(stands, status=decision, updated_at=now), was_so_before=False)


def find(pool: ConnectionPool, tenant_id: str, adjustment_id: UUID) -> tuple[Adjustment, list[Transition]]:
    """One adjustment and its audit.

    Raises:
        NotFound: the tenant has no such adjustment.
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        found = adjustments.find_adjustment(tx, tenant_id, adjustment_id)
        if found is None:
            raise NotFound("Adjustment not found")
        return found, adjustments.list_transitions(tx, adjustment_id)


def list_page(
    pool: ConnectionPool,
    tenant_id: str,
    filters: Mapping[str, object],
    *,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> tuple[list[Adjustment], bool]:
    """A page of a tenant's adjustments (see `store.adjustments.list_adjustments`), and whether more follow.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        wanted = dict(filters)
        ref = wanted.get("customer_ref")
        if isinstance(ref, str):
            wanted["customer_ref"] = resolve_customer(tx, tenant_id, ref)
        found = adjustments.list_adjustments(tx, tenant_id, wanted, after=after, most=limit + 1)
    return found[:limit], len(found) > limit


def load_policy(pool: ConnectionPool, tenant_id: str) -> TenantRules:
    """What the tenant decided about late events and adjustments; the defaults where it did not.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        return load_rulebook(tx, [tenant_id]).of(tenant_id)


def put_policy(pool: ConnectionPool, tenant_id: str, change: PolicyChange, *, now: datetime) -> TenantRules:
    """Decide anew: holds from the next fold on, for events that come to it.

    Raises:
        Unavailable: Postgres does not answer; nothing changed.
    """
    with transaction(pool) as tx:
        ledger.lock_cursor(tx)
        adjustments.put_policy(
            tx,
            tenant_id,
            late_approval=change.late_approval,
            close_after_seconds=change.close_after_seconds,
            is_four_eyes=change.is_four_eyes,
            now=now,
        )
        for metric, seconds in (change.windows or {}).items():
            adjustments.put_window(tx, tenant_id, metric, seconds, now=now)
        return load_rulebook(tx, [tenant_id]).of(tenant_id)


def _check(new: NewAdjustment, max_delta: Decimal) -> None:
    if new.reason == "late_event":
        raise InvalidInput("late_event is what the fold says of a late event: use another reason", field="reason")
    if new.delta == 0:
        raise InvalidInput("delta must not be 0", field="delta")
    if abs(new.delta) > max_delta:
        raise InvalidInput(f"delta must be between -{max_delta} and {max_delta}", field="delta")
    if new.period == "month" and new.day.day != 1:
        raise InvalidInput("periodStart of a month must be its first day", field="periodStart")


def _require_allowed(stands: Adjustment, decision: Decision) -> None:
    if stands.status == _FROM[decision]:
        return
    if decision == "reverted":
        raise InvalidInput(f"Only approved adjustments can be reverted: this one is {stands.status}", field="id")
    if stands.status == "reverted":
        raise InvalidInput("Already reverted", field="id")
    raise InvalidInput(f"Only pending adjustments can be {decision}: this one is {stands.status}", field="id")


def _require_other_eyes(tx: Tx, stands: Adjustment, actor: str) -> None:
    policy = load_rulebook(tx, [stands.tenant_id]).of(stands.tenant_id).policy
    if policy.is_four_eyes and stands.actor == actor:
        raise NotAllowed("four-eyes is on: somebody other than its creator must approve an adjustment")
