"""/v1/adjustments and /v1/policies: corrections of usage, and what a tenant decides about late events.

Belongs here: parameters, bodies as values, the answers' members. Does not: what a decision moves
(`pipeline.adjustments`).
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request

from stripemeter.errors import InvalidInput
from stripemeter.metering.rulebook import TenantRules
from stripemeter.pipeline import adjustments
from stripemeter.pipeline.adjustments import Decision, PolicyChange
from stripemeter.store.adjustments import Adjustment, NewAdjustment, Reason, Status, Transition
from stripemeter_api import instruments
from stripemeter_api.actors import ActorHeader, actor_of
from stripemeter_api.adjustment_documents import (
    AdjustmentAnswer,
    AdjustmentPage,
    AdjustmentRow,
    AdjustmentStatement,
    DecisionAnswer,
    DecisionStatement,
    PolicyAnswer,
    PolicyStatement,
)
from stripemeter_api.answers import JsonAnswer, instant, number_or_null
from stripemeter_api.cursors import from_microseconds, pack_cursor, to_microseconds, unpack_cursor
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.exact_bodies import ExactBodyRoute
from stripemeter_api.meter_documents import Day
from stripemeter_api.parameters import Limit, OptionalCursor, OptionalCustomerRef, OptionalMetric, TenantId
from stripemeter_api.request_ids import request_id_of
from stripemeter_api.state import MaxAdjustmentDelta, Pool

_CREATED = 201
_not_found: dict[str, Any] = {"model": Problem, "description": "The tenant has no such adjustment."}
_DECISION_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    403: {"model": Problem, "description": "Four-eyes: somebody else must approve it."},
    404: _not_found,
}

router = APIRouter(prefix="/v1", route_class=ExactBodyRoute)


@router.get("/adjustments", response_model=AdjustmentPage, responses=READ_PROBLEMS, tags=["adjustments"])
def list_adjustments(  # noqa: PLR0913 - one argument per query parameter
    *,
    pool: Pool,
    tenant_id: TenantId,
    metric: OptionalMetric = None,
    customer_ref: OptionalCustomerRef = None,
    period_start: Annotated[Day | None, Query(alias="periodStart", description="First UTC day.")] = None,
    period_end: Annotated[Day | None, Query(alias="periodEnd", description="Last UTC day, included.")] = None,
    status: Annotated[Status | None, Query(description="Only these.")] = None,
    reason: Annotated[Reason | None, Query(description="Only these.")] = None,
    limit: Limit = 25,
    cursor: OptionalCursor = None,
) -> JsonAnswer:
    """A tenant's adjustments, newest first; those of late events too."""
    filters = {
        "metric": metric,
        "customer_ref": customer_ref,
        "first_on": period_start,
        "last_on": period_end,
        "status": status,
        "reason": reason,
    }
    listing = ("adjustments", tenant_id, *filters.values())
    after = None if cursor is None else _after(cursor, listing)
    page, has_more = adjustments.list_page(pool, tenant_id, filters, after=after, limit=limit)
    last = page[-1] if has_more else None
    return JsonAnswer(
        {
            "adjustments": [_row(adjustment) for adjustment in page],
            "hasMore": has_more,
            "nextCursor": last and pack_cursor(listing, (to_microseconds(last.created_at), str(last.id))),
        }
    )


@router.post(
    "/adjustments",
    status_code=_CREATED,
    response_model=AdjustmentRow,
    responses={
        **READ_PROBLEMS,
        200: {"model": AdjustmentRow, "description": "The request id made it before."},
        409: {"model": Problem, "description": "The request id was used for something else."},
    },
    tags=["adjustments"],
)
def create_adjustment(
    pool: Pool, max_delta: MaxAdjustmentDelta, body: AdjustmentStatement, x_actor: ActorHeader = None
) -> JsonAnswer:
    """A pending correction of one UTC day (or month): it counts once it is approved."""
    new = _new(body, actor_of(body.actor, x_actor))
    created, is_new = adjustments.create_adjustment(pool, new, now=datetime.now(UTC), max_delta=max_delta)
    if is_new:
        instruments.count_adjustment_created(created.reason)
    return JsonAnswer(_row(created), status_code=_CREATED if is_new else 200)


@router.get(
    "/adjustments/{id}",
    response_model=AdjustmentAnswer,
    responses={**READ_PROBLEMS, 404: _not_found},
    tags=["adjustments"],
)
def read_adjustment(pool: Pool, id: UUID, tenant_id: TenantId) -> JsonAnswer:  # noqa: A002 - the contract's name
    """One adjustment, and every change of it: who, when, why."""
    found, transitions = adjustments.find(pool, tenant_id, id)
    return JsonAnswer({**_row(found), "transitions": [_transition(transition) for transition in transitions]})


@router.post(
    "/adjustments/{id}/approve",
    response_model=DecisionAnswer,
    response_model_exclude_none=True,
    responses=_DECISION_PROBLEMS,
    tags=["adjustments"],
)
def approve(
    request: Request,
    pool: Pool,
    id: UUID,  # noqa: A002
    body: DecisionStatement,
    x_actor: ActorHeader = None,
) -> JsonAnswer:
    """Counts from now on: in usage, projections and the next push."""
    return _decided(request, pool, id, body, x_actor, "approved")


@router.post(
    "/adjustments/{id}/reject",
    response_model=DecisionAnswer,
    response_model_exclude_none=True,
    responses=_DECISION_PROBLEMS,
    tags=["adjustments"],
)
def reject(
    request: Request,
    pool: Pool,
    id: UUID,  # noqa: A002
    body: DecisionStatement,
    x_actor: ActorHeader = None,
) -> JsonAnswer:
    """Never counts."""
    return _decided(request, pool, id, body, x_actor, "rejected")


@router.post(
    "/adjustments/{id}/revert",
    response_model=DecisionAnswer,
    response_model_exclude_none=True,
    responses=_DECISION_PROBLEMS,
    tags=["adjustments"],
)
def revert(
    request: Request,
    pool: Pool,
    id: UUID,  # noqa: A002
    body: DecisionStatement,
    x_actor: ActorHeader = None,
) -> JsonAnswer:
    """Takes an approval back: every number is what it was without it."""
    return _decided(request, pool, id, body, x_actor, "reverted")


@router.get("/policies", response_model=PolicyAnswer, responses=READ_PROBLEMS, tags=["policies"])
def read_policy(pool: Pool, tenant_id: TenantId) -> JsonAnswer:
    """What holds for a tenant's late events and adjustments."""
    return JsonAnswer(_policy(tenant_id, adjustments.load_policy(pool, tenant_id)))


@router.put("/policies", response_model=PolicyAnswer, responses=READ_PROBLEMS, tags=["policies"])
def put_policy(pool: Pool, body: PolicyStatement) -> JsonAnswer:
    """Decides anew; holds for events that are counted from now on."""
    change = PolicyChange(
        late_approval=body.late_approval,
        close_after_seconds=body.close_after_seconds,
        is_four_eyes=body.four_eyes,
        windows=body.lateness_windows,
    )
    rules = adjustments.put_policy(pool, body.tenant_id, change, now=datetime.now(UTC))
    return JsonAnswer(_policy(body.tenant_id, rules))


def _decided(
    request: Request,
    pool: Pool,
    adjustment_id: UUID,
    body: DecisionStatement,
    x_actor: str | None,
    decision: Decision,
) -> JsonAnswer:
    decided = adjustments.decide(
        pool,
        body.tenant_id,
        adjustment_id,
        decision,
        actor=actor_of(body.actor, x_actor),
        now=datetime.now(UTC),
        request_id=request_id_of(request.scope),
        note=body.note,
    )
    if decided.was_so_before:
        return JsonAnswer({"ok": True, "already": True})
    instruments.count_adjustment_decided(decision)
    return JsonAnswer({"ok": True})


def _new(body: AdjustmentStatement, actor: str) -> NewAdjustment:
    return NewAdjustment(
        tenant_id=body.tenant_id,
        metric=body.metric,
        customer_ref=body.customer_ref,
        period=body.period,
        day=body.period_start,
        effective_at=datetime.combine(body.period_start, time(), UTC),
        delta=body.delta,
        reason=body.reason,
        request_id=body.request_id,
        note=body.note,
        actor=actor,
    )


def _after(cursor: str, listing: tuple[object, ...]) -> tuple[datetime, UUID]:
    created_at, adjustment_id = unpack_cursor(cursor, listing, (int, str))
    try:
        return from_microseconds(int(created_at)), UUID(str(adjustment_id))
    except ValueError as error:
        raise InvalidInput("cursor is not a cursor of ours: send nextCursor as it came", field="cursor") from error


def _row(adjustment: Adjustment) -> dict[str, Any]:
    return {
        "id": str(adjustment.id),
        "tenantId": adjustment.tenant_id,
        "metric": adjustment.metric,
        "customerRef": adjustment.customer_ref,
        "periodStart": adjustment.day.isoformat(),
        "period": adjustment.period,
        "delta": number_or_null(adjustment.delta),
        "reason": adjustment.reason,
        "status": adjustment.status,
        "requestId": adjustment.request_id,
        "note": adjustment.note,
        "actor": adjustment.actor,
        "createdAt": instant(adjustment.created_at),
        "updatedAt": instant(adjustment.updated_at),
        "effectiveAt": instant(adjustment.effective_at),
        "eventId": adjustment.event_key,
    }


def _transition(transition: Transition) -> dict[str, Any]:
    return {
        "action": transition.action,
        "statusBefore": transition.status_before,
        "statusAfter": transition.status_after,
        "actor": transition.actor,
        "requestId": transition.request_id,
        "note": transition.note,
        "happenedAt": instant(transition.happened_at),
    }


def _policy(tenant_id: str, rules: TenantRules) -> dict[str, Any]:
    second = timedelta(seconds=1)
    return {
        "tenantId": tenant_id,
        "lateApproval": rules.policy.late_approval,
        "closeAfterSeconds": rules.policy.close_after // second,
        "fourEyes": rules.policy.is_four_eyes,
        "latenessWindows": {metric: window // second for metric, window in sorted(rules.windows.items())},
    }
