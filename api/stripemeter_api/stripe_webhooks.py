"""POST /v1/stripe/webhooks: what Stripe tells by itself, kept before it is answered.

Belongs here: the raw body, the signature header, the answer. Does not: verifying (`billing.webhooks`), keeping
(`pipeline.stripe_events`), processing: payments are read at once (`pipeline.payments`), the rest by Dagster.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request

from stripemeter.billing.webhooks import HEADER, verify_signature
from stripemeter.errors import NotFound
from stripemeter.pipeline.payments import record_payments
from stripemeter.pipeline.stripe_events import keep_event
from stripemeter_api.answers import JsonAnswer
from stripemeter_api.bounded_bodies import BoundedBodyRoute
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.state import Accounts, Pool
from stripemeter_api.stripe_webhook_documents import WebhookAnswer


class _Route(BoundedBodyRoute):
    """Bounded by STRIPEMETER_STRIPE_WEBHOOK_BODY_LIMIT_BYTES."""

    limit = "webhook_body_bytes"


async def _raw_body(request: Request) -> bytes:
    """The bytes that were signed."""
    return await request.body()


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    400: {"model": Problem, "description": "The signature does not fit, or the body is no event; `errors` names it."},
    404: {"model": Problem, "description": "No webhook secret is set: events are not taken."},
    413: {"model": Problem, "description": "The body is too large."},
}
_BODY = {
    "security": [{}],  # the signature is the authentication
    "requestBody": {
        "required": True,
        "description": "The event as Stripe sends it: a snapshot (`event`) or a thin event (`v2.core.event`).",
        "content": {"application/json": {"schema": {"type": "object"}}},
    },
}

router = APIRouter(prefix="/v1/stripe", tags=["stripe"], route_class=_Route)


@router.post("/webhooks", response_model=WebhookAnswer, responses=_PROBLEMS, openapi_extra=_BODY)
def receive_event(
    *,
    request: Request,
    pool: Pool,
    accounts: Accounts,
    body: Annotated[bytes, Depends(_raw_body)],
    stripe_signature: Annotated[
        str | None, Header(alias=HEADER, description="Stripe's signature of the body: it is the authentication.")
    ] = None,
) -> JsonAnswer:
    """Takes an event that Stripe signed. It is on disk before the answer; delivered again, it changes nothing."""
    secrets: tuple[str, ...] = request.app.state.webhook_secrets
    if not secrets:
        raise NotFound("no event is taken: STRIPEMETER_STRIPE_WEBHOOK_SECRETS is not set")
    verify_signature(body, stripe_signature, secrets)
    now = datetime.now(UTC)
    kept = keep_event(pool, body, now=now)
    if kept != "ignored":
        # On disk already: what cannot be read now is read before the next answer about its customer.
        record_payments(pool, accounts, now=now)
    return JsonAnswer({"status": kept})
