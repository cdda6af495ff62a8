"""GET /v1/access: may this customer use what they pay for?

Belongs here: parameters, members, headers, 402. Does not: the rules (`access.dunning`), what is known
(`pipeline.payments`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from stripemeter.access.dunning import Standing
from stripemeter.pipeline.payments import load_standing
from stripemeter_api.access_documents import AccessAnswer, PaymentRequiredProblem
from stripemeter_api.answers import JsonAnswer, instant
from stripemeter_api.errors import READ_PROBLEMS, answer_problem, problem
from stripemeter_api.parameters import CustomerRef, Instant, OptionalMetric, TenantId
from stripemeter_api.request_ids import request_id_of
from stripemeter_api.state import Accounts, Pool

STATE, WARNING = "X-Dunning-State", "X-Dunning-Warning"
_HEADERS = {
    STATE: {"description": "`state` of the answer.", "schema": {"type": "string"}},
    WARNING: {
        "description": "What the customer should know; absent when nothing is owed.",
        "schema": {"type": "string"},
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    200: {"headers": _HEADERS},
    402: {"model": PaymentRequiredProblem, "description": "Blocked: something is owed too long.", "headers": _HEADERS},
    503: {**READ_PROBLEMS[503], "description": "Not known now: the database, or an event's account, cannot be asked."},
}

router = APIRouter(prefix="/v1", tags=["access"])


@router.get("/access", response_model=AccessAnswer, responses=_ANSWERS, summary="May this customer go on?")
def read_access(
    *,
    request: Request,
    pool: Pool,
    accounts: Accounts,
    tenant_id: TenantId,
    customer_ref: CustomerRef,
    metric: OptionalMetric = None,
    at: Annotated[
        Instant | None,
        Query(
            description="The instant asked about, by what is known now; default: now. For customers on test clocks.",
            examples=["2026-11-23T10:00:00Z"],
        ),
    ] = None,
) -> Response:
    """By what Stripe told of the customer's payments, and nothing else: there are no caps on usage yet.

    A customer of whom no payment is known is allowed. 402 when blocked; never an answer made up: 503 when it cannot be
    known.
    """
    now = datetime.now(UTC)
    found = load_standing(
        pool,
        accounts,
        tenant_id=tenant_id,
        customer_ref=customer_ref,
        mode=request.app.state.dunning_mode,
        policy=request.app.state.dunning_policy,
        at=at or now,
        now=now,
    )
    members = {
        "allowed": found.standing.is_allowed,
        "state": found.standing.state,
        "reason": found.reason,
        "judged": ["payments"],
        "customerRef": found.customer_ref,
        "metric": metric,
        "at": instant(at or now),
        **_members(found.standing),
    }
    headers = {STATE: found.standing.state, **_warning(found.standing)}
    if found.standing.is_allowed:
        return JsonAnswer(members, headers=headers)
    detail = f"{found.reason}: access ended at {_instant(found.standing.blocked_at)} and comes back with the payment"
    document = problem(
        status=402, code="payment_required", detail=detail, request_id=request_id_of(request.scope), **members
    )
    return answer_problem(document, headers)


def _members(standing: Standing) -> dict[str, Any]:
    return {
        "since": _instant(standing.since),
        "blockedAt": _instant(standing.blocked_at),
        "nextAttemptAt": _instant(standing.next_attempt_at),
        "unpaidInvoices": list(standing.unpaid_invoices),
        "notices": [
            {"at": instant(notice.at), "reason": notice.reason, "invoiceId": notice.invoice_id}
            for notice in standing.notices
        ],
    }


def _warning(standing: Standing) -> dict[str, str]:
    match standing.state:
        case "past_due" | "retry_scheduled":
            return {WARNING: f"payment failed; access ends at {_instant(standing.blocked_at)}"}
        case "blocked":
            return {WARNING: f"payment failed; access ended at {_instant(standing.blocked_at)}"}
        case "ok" | "recovered":
            return {}


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)
