"""/v1/events/void: one event counts nowhere, another perhaps in its place.

Belongs here: the body and the answer's members. Does not: what voiding brings about (`pipeline.void`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request

from stripemeter.metering.replacements import parse_replacement
from stripemeter.pipeline.void import VoidedEvent, void_event
from stripemeter_api.actors import ActorHeader, actor_of
from stripemeter_api.answers import JsonAnswer, instant
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.exact_bodies import ExactBodyRoute
from stripemeter_api.request_ids import request_id_of
from stripemeter_api.state import Limits, Pool
from stripemeter_api.void_documents import VoidAnswer, VoidRequest

_problems: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    404: {"model": Problem, "description": "The tenant sent no event under this key."},
    409: {
        "model": Problem,
        "description": "It was voided before with another replacement, or the replacement's key is taken by another "
        "event; nothing changed.",
    },
}

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=ExactBodyRoute)


@router.post(
    "/void",
    response_model=VoidAnswer,
    response_model_exclude_none=True,
    responses=_problems,
    summary="Void an event, and replace it",
)
def void(request: Request, pool: Pool, limits: Limits, body: VoidRequest, x_actor: ActorHeader = None) -> JsonAnswer:
    """The event stays in the ledger and counts nowhere; its key stays taken. Doing it again changes nothing."""
    now = datetime.now(UTC)
    replacement = None
    if body.replacement is not None:
        replacement = parse_replacement(
            body.replacement, tenant_id=body.tenant_id, voided_key=body.idempotency_key, now=now, limits=limits
        )
    voided = void_event(
        pool,
        body.tenant_id,
        body.idempotency_key,
        reason=body.reason,
        actor=actor_of(body.actor, x_actor),
        now=now,
        request_id=request_id_of(request.scope),
        replacement=replacement,
    )
    return JsonAnswer(_answer(voided))


def _answer(voided: VoidedEvent) -> dict[str, Any]:
    event, row, result = voided.event, voided.void, voided.replacement
    answer: dict[str, Any] = {
        "voided": True if voided.is_new else "already",
        "event": {
            "id": event.idempotency_key,
            "metric": event.metric,
            "customerRef": event.customer_ref,
            "timestamp": instant(event.ts),
            "voidedAt": instant(row.voided_at),
            "reason": row.reason,
            "actor": row.actor,
            "replacedBy": row.replacement_key,
        },
    }
    if result is not None:
        answer["replacement"] = {"idempotencyKey": result.idempotency_key, "status": result.outcome.value}
    return answer
