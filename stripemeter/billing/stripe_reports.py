"""Stripe's error reports: which accepted meter events were invalid after all.

Belongs here: reading the report out of a v2 event's JSON. Does not: fetching it (`stripe_sink`), what is done about it
(`pipeline.stripe_error_reports`).

Source: docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api, sample of
`v1.billing.meter.error_report_triggered`. Stripe's pages name the key of a sample `identifier` and `idempotency_key`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from stripemeter.billing.sink import ErrorReport, ErrorSample
from stripemeter.errors import InvalidInput


def parse_error_report(event: Mapping[str, Any]) -> ErrorReport:
    """The report an event tells.

    Raises:
        InvalidInput: it tells none; names the member.
    """
    told = _object(event, "data")
    reason = _object(told, "reason", "data.")
    related = event.get("related_object")
    kinds = [kind for kind in _list(reason, "error_types", "data.reason.") if isinstance(kind, Mapping)]
    samples = [
        _sample(str(kind.get("code") or "unknown"), sample)
        for kind in kinds
        for sample in _list(kind, "sample_errors", "data.reason.error_types[].")
    ]
    count = reason.get("error_count")
    if not isinstance(count, int):
        raise InvalidInput("data.reason.error_count must be a whole number", field="data.reason.error_count")
    return ErrorReport(
        event_id=str(event.get("id")),
        stripe_meter_id=related.get("id") if isinstance(related, Mapping) else None,
        error_count=count,
        samples=tuple(samples),
        validated_from=_instant(told, "validation_start"),
        validated_until=_instant(told, "validation_end"),
    )


def _sample(code: str, sample: object) -> ErrorSample:
    found = sample if isinstance(sample, Mapping) else {}
    request = found.get("request")
    keys = request if isinstance(request, Mapping) else {}
    key = keys.get("identifier") or keys.get("idempotency_key")
    return ErrorSample(code=code, message=str(found.get("error_message") or ""), request_key=str(key or ""))


def _object(owner: Mapping[str, Any], member: str, path: str = "") -> Mapping[str, Any]:
    found = owner.get(member)
    if not isinstance(found, Mapping):
        raise InvalidInput(f"{path}{member} must be an object", field=f"{path}{member}")
    return found


def _list(owner: Mapping[str, Any], member: str, path: str) -> list[Any]:
    found = owner.get(member)
    if not isinstance(found, list):
        raise InvalidInput(f"{path}{member} must be an array", field=f"{path}{member}")
    return found


def _instant(owner: Mapping[str, Any], member: str) -> datetime:
    try:
        at = datetime.fromisoformat(str(owner.get(member)))
    except ValueError as error:
        raise InvalidInput(f"data.{member} must be an RFC 3339 instant", field=f"data.{member}") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
