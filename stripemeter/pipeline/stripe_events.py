"""Keeping what Stripe tells by itself: from a verified body to a row of the inbox.

Belongs here: reading both kinds of event, which types wait for somebody. Does not: signatures (`billing.webhooks`), the
table (`store.stripe_events`), working through what waits (`pipeline.stripe_error_reports`, `pipeline.payments` and
whoever else does).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.store import stripe_events
from stripemeter.store.postgres import transaction
from stripemeter.store.stripe_events import StripeEvent

ERROR_REPORTS = frozenset({"v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"})
INVOICES = frozenset({"invoice.created", "invoice.finalized"})
PAYMENTS = frozenset(
    {
        "invoice.payment_failed",
        "invoice.paid",
        "invoice.voided",
        "customer.subscription.updated",
        "customer.subscription.deleted",
    }
)
PROCESSED_TYPES = ERROR_REPORTS | INVOICES | PAYMENTS
"""Types that wait to be processed; any other is kept as ignored."""

Kept = Literal["waiting", "ignored", "duplicate"]


def keep_event(pool: ConnectionPool, body: bytes, *, now: datetime) -> Kept:
    """Put a verified event in the inbox; a delivery of one that is there changes nothing.

    Raises:
        InvalidInput: it is no event of Stripe's; names the member.
        Unavailable: Postgres does not answer; nothing is kept.
    """
    event = parse_event(body, received_at=now)
    is_awaited = event.type in PROCESSED_TYPES
    with transaction(pool) as tx:
        is_new = stripe_events.insert_event(tx, event, is_awaited=is_awaited)
    if not is_new:
        return "duplicate"
    return "waiting" if is_awaited else "ignored"


def parse_event(body: bytes, *, received_at: datetime) -> StripeEvent:
    """A snapshot event (v1) or a thin event's notification (v2).

    Raises:
        InvalidInput: it is neither; names the member.
    """
    try:
        payload = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the body must be the JSON of an event") from error
    if not isinstance(payload, dict):
        raise InvalidInput("the body must be an object: an event")
    if b"\\u0000" in body:
        raise InvalidInput("the body holds \\u0000, which no event of Stripe's does and Postgres does not keep")
    kind = _text(payload, "object")
    if kind not in ("event", "v2.core.event"):
        raise InvalidInput(f"object must be event or v2.core.event, not {kind[:100]!r}", field="object")
    is_live = payload.get("livemode")
    if not isinstance(is_live, bool):
        raise InvalidInput("livemode must be true or false", field="livemode")
    return StripeEvent(
        id=_text(payload, "id"),
        type=_text(payload, "type"),
        stripe_account_id=_account(payload),
        is_live=is_live,
        is_thin=kind == "v2.core.event",
        created_at=_created(payload.get("created")),
        received_at=received_at,
        payload=payload,
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _text(payload: Mapping[str, Any], member: str) -> str:
    text = payload.get(member)
    if not isinstance(text, str) or not 1 <= len(text) <= 255:
        raise InvalidInput(f"{member} must be a string of 1 to 255 characters", field=member)
    return text


def _account(payload: Mapping[str, Any]) -> str | None:
    """`account` of a snapshot of a connected account, `context` of a thin event; absent for the webhook's own."""
    account = payload.get("account") or payload.get("context")
    return account if isinstance(account, str) else None


def _created(created: object) -> datetime:
    """Unix seconds of a snapshot, RFC 3339 of a thin event."""
    try:
        if isinstance(created, int) and not isinstance(created, bool):
            return datetime.fromtimestamp(created, UTC)
        if isinstance(created, str):
            at = datetime.fromisoformat(created)
            return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidInput(f"created is no instant: {str(created)[:100]!r}", field="created") from error
    raise InvalidInput("created must be Unix seconds, or an RFC 3339 instant", field="created")
