"""GET /v1/usage/...: what a customer used.

Belongs here: parameters, the period, the answers' members. Does not: reading (`store.usage`), pricing.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import day_bounds, day_of, days_between, month_start, next_month
from stripemeter.metering.meters import Aggregation
from stripemeter.metering.segments import Segment
from stripemeter.store.usage import (
    Freshness,
    Step,
    Usage,
    load_current_usage,
    load_usage_history,
)
from stripemeter_api.answers import JsonAnswer, instant, number, number_or_null
from stripemeter_api.documents import HistoryAnswer, UsageAnswer
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.parameters import CustomerRef, Instant, Metric, OptionalMetric, TenantId
from stripemeter_api.state import Pool

MAX_POINTS = 4000
"""Buckets of one history: ten years of days, about 150 kB."""

PeriodStart = Annotated[
    Instant,
    Query(alias="periodStart", description="First instant asked for.", examples=["2026-11-01T00:00:00Z"]),
]
PeriodEnd = Annotated[
    Instant,
    Query(alias="periodEnd", description="First instant no longer asked for.", examples=["2026-12-01T00:00:00Z"]),
]

router = APIRouter(prefix="/v1/usage", tags=["usage"])


@router.get("/current", response_model=UsageAnswer, responses=READ_PROBLEMS, summary="Usage of a billing period")
def read_current(
    pool: Pool,
    tenant_id: TenantId,
    customer_ref: CustomerRef,
    metric: OptionalMetric = None,
    at: Annotated[
        Instant | None,
        Query(
            description="An instant of the billing period asked for; default: now.", examples=["2026-11-23T10:00:00Z"]
        ),
    ] = None,
) -> JsonAnswer:
    """Usage of the customer's billing period (the UTC month unless it has another), accepted events all included.

    All but late ones that wait for approval, also before the fold has found them late.

    `current` is what the metric's aggregation makes of its events plus `adjusted`, the approved manual adjustments; a
    meter counts as its definition says, a time-weighted one in unit-seconds (level times seconds) up to now. Where the
    last value counts and the period has none, `current` is the value in force, the last reported before it.
    `customerRef` is the customer's own, also when another of its references was asked for. A metric with billing
    phases of its own has a `period` of its own.
    """
    now = datetime.now(UTC)
    found = load_current_usage(
        pool, tenant_id=tenant_id, customer_ref=customer_ref, metric=metric, at=at or now, now=now
    )
    return JsonAnswer(
        {
            "customerRef": found.customer_ref,
            "period": period_members(found.segment),
            "metrics": [_metric(name, usage) for name, usage in found.metrics.items()],
            "alerts": [],
            "freshness": freshness_members(found.freshness),
        }
    )


@router.get("/history", response_model=HistoryAnswer, responses=READ_PROBLEMS, summary="Usage by day or month")
def read_history(
    pool: Pool,
    tenant_id: TenantId,
    customer_ref: CustomerRef,
    metric: Metric,
    period_start: PeriodStart,
    period_end: PeriodEnd,
    step: Annotated[Step, Query(description="Width of a bucket, in UTC.")] = "month",
) -> JsonAnswer:
    """Usage by UTC day or month; the values of a month's days add up to `current` of that month."""
    first_on, last_on = _whole_days(period_start, period_end)
    buckets = _bucket_starts(first_on, last_on, step)
    days = [max(bucket, first_on) for bucket in buckets]
    found = load_usage_history(
        pool,
        tenant_id=tenant_id,
        customer_ref=customer_ref,
        metric=metric,
        buckets=days,
        last_on=last_on,
        step=step,
        now=datetime.now(UTC),
    )
    return JsonAnswer(
        {
            "usage": [
                _point(bucket, found.buckets.get(day), aggregation)
                for bucket, day, aggregation in zip(buckets, days, found.aggregations, strict=True)
            ],
            "period": {"start": instant(day_bounds(first_on)[0]), "end": instant(day_bounds(last_on)[1])},
            "aggregation": found.aggregations[-1],
            "freshness": freshness_members(found.freshness),
        }
    )


def _whole_days(start: datetime, end: datetime) -> tuple[date, date]:
    """First and last UTC day that `[start, end)` touches: counters know no finer time."""
    if end <= start:
        raise InvalidInput("periodEnd must be after periodStart", field="periodEnd")
    last_on = day_of(end - timedelta(microseconds=1))
    if last_on == date.max:
        raise InvalidInput("periodEnd must lie before 9999-12-31", field="periodEnd")
    return day_of(start), last_on


def _bucket_starts(first_on: date, last_on: date, step: Step) -> list[date]:
    days = (last_on - first_on).days + 1
    count = days if step == "day" else (last_on.year - first_on.year) * 12 + last_on.month - first_on.month + 1
    if count > MAX_POINTS:
        raise InvalidInput(
            f"the period holds {count} {step}s, at most {MAX_POINTS} are answered: ask for less, or step=month",
            field="periodEnd",
        )
    if step == "day":
        return days_between(first_on, last_on)
    starts = [month_start(first_on)]
    while len(starts) < count:
        starts.append(next_month(starts[-1]))
    return starts


def _point(bucket: date, usage: Usage | None, aggregation: Aggregation) -> dict[str, Any]:
    empty = 0 if aggregation in ("sum", "count", "unique", "time_weighted") else None
    return {
        "ts": instant(day_bounds(bucket)[0]),
        "value": empty if usage is None else number(usage.quantity),
        "aggregation": aggregation,
        "adjusted": 0 if usage is None else number(usage.adjusted),
    }


def _metric(name: str, usage: Usage) -> dict[str, Any]:
    return {
        "name": name,
        "current": number(usage.quantity),
        "unit": "unit-second" if usage.aggregation == "time_weighted" else "unit",
        "aggregation": usage.aggregation,
        "count": usage.event_count,
        "sum": number(usage.quantity_sum),
        "min": number_or_null(usage.quantity_min),
        "max": number_or_null(usage.quantity_max),
        "last": number_or_null(usage.quantity_last),
        "adjusted": number(usage.adjusted),
        "period": None if usage.segment is None else period_members(usage.segment),
    }


def period_members(segment: Segment) -> dict[str, str]:
    """A half-open period."""
    return {"start": instant(segment.start), "end": instant(segment.end)}


def freshness_members(freshness: Freshness) -> dict[str, Any]:
    """How far the counters have come, as every answer of usage says it."""
    return {
        "foldedThrough": None if freshness.folded_at is None else instant(freshness.folded_at),
        "pendingEvents": freshness.pending_count,
        "recountPendingDays": freshness.recount_days,
    }
