"""What an error of Stripe's means: no, not now, or nobody knows.

Belongs here: the table from HTTP status and body to our errors. Does not: what is done about it.

The SDK's exception classes and their `code` and `should_retry` are not used: a 409, a 429 and a 5xx carry no `code`,
and a truncated answer claims that it should not be retried although the event may be recorded.
Source: stripe-python 16.1.0, run against each fault.
"""

from __future__ import annotations

import re
from typing import Any

import stripe

from stripemeter.errors import OutcomeUnknown, StripeMeterError, StripeRejected, Unavailable

ALREADY_EXISTS = re.compile(r"An event already exists with identifier (?P<identifier>.+)\.")


def translated(error: stripe.StripeError) -> StripeMeterError:
    """Our error for one of Stripe's."""
    status = error.http_status
    body = error_body(error)
    message = str(body.get("message") or error.user_message or error)
    request_id = error.request_id
    if status in (409, 429):
        return Unavailable(f"Stripe is busy ({status}): {message}", retry_after_seconds=_retry_after(error))
    # A key used with other parameters says nothing about whether the first request was executed.
    is_definite = status is not None and 400 <= status < 500 and body.get("type") != "idempotency_error"
    if is_definite and status is not None:
        return StripeRejected(message, status=status, stripe_code=body.get("code"), request_id=request_id)
    return OutcomeUnknown(f"Stripe did not say what happened ({status or 'no answer'}): {message}", status=status)


def is_already_accepted(error: stripe.StripeError, identifier: str) -> bool:
    """Whether Stripe refuses the event because it has it: by code (v2) or by message, with our identifier in it."""
    if error.http_status != 400:
        return False
    body = error_body(error)
    if body.get("code") == "duplicate_meter_event":
        return True
    matched = ALREADY_EXISTS.fullmatch(str(body.get("message", "")))
    return matched is not None and matched["identifier"] == identifier


def error_body(error: stripe.StripeError) -> dict[str, Any]:
    """The `error` member of the answer; empty when there was none."""
    body = error.json_body
    inner = body.get("error") if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}


def _retry_after(error: stripe.StripeError) -> int | None:
    text = str((error.headers or {}).get("retry-after", ""))
    return int(text) if text.isascii() and text.isdigit() else None
