"""/v1/explain: where a number comes from, and where an event went.

Belongs here: parameters, cursors, the answers' members. Does not: explaining (`pipeline.explain`).
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Query

from stripemeter.errors import InvalidInput
from stripemeter.metering.averages import average
from stripemeter.metering.explanations import CountedReading, Refusal, VersionSpan
from stripemeter.metering.meters import meter_document
from stripemeter.metering.segments import BEGINNING, Segment
from stripemeter.pipeline import explain
from stripemeter.pipeline.explain import ExplainedEvent, UsageEventRow
from stripemeter.store.explanations import RefusedPayload, StoredAdjustment, StoredCounter, StoredEvent
from stripemeter_api.answers import JsonAnswer, instant, number, number_or_null, stored_json
from stripemeter_api.cursors import from_microseconds, pack_cursor, to_bigint, to_microseconds, unpack_cursor
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.explain_documents import ExplainEventAnswer, ExplainUsageAnswer
from stripemeter_api.meter_documents import Day
from stripemeter_api.parameters import MAX_TEXT, CustomerRef, Limit, Metric, OptionalCursor, TenantId, Text
from stripemeter_api.state import Pool

MOST_DAYS = 31
"""A month at a time: what is read is every event of the days."""

router = APIRouter(prefix="/v1/explain", tags=["explain"])


@router.get(
    "/event",
    response_model=ExplainEventAnswer,
    responses={**READ_PROBLEMS, 404: {"model": Problem, "description": "The tenant sent no event under this key."}},
    summary="Where an event counts, or why it does not",
)
def explain_event(
    pool: Pool,
    tenant_id: TenantId,
    idempotency_key: Annotated[
        Text, Query(alias="idempotencyKey", min_length=1, max_length=MAX_TEXT, examples=["evt-1"])
    ],
) -> JsonAnswer:
    """What stands under the key, every meter of its day that reads it or does not, and what was refused beside it."""
    return JsonAnswer(_explained(explain.explain_event(pool, tenant_id, idempotency_key)))


@router.get("/usage", response_model=ExplainUsageAnswer, responses=READ_PROBLEMS, summary="What usage is made of")
def explain_usage(  # noqa: PLR0913 - one argument per query parameter
    *,
    pool: Pool,
    tenant_id: TenantId,
    customer_ref: CustomerRef,
    metric: Metric,
    day: Annotated[Day | None, Query(description="The UTC day; or give `from` and `to`.")] = None,
    first: Annotated[Day | None, Query(alias="from", description="First UTC day.")] = None,
    last: Annotated[Day | None, Query(alias="to", description="Last UTC day, included; 31 days at most.")] = None,
    limit: Limit = 25,
    cursor: OptionalCursor = None,
) -> JsonAnswer:
    """The counters of a meter (or metric), who changed them, which version counted, and the events, page by page."""
    first_on, last_on = _days(day, first, last)
    listing = ("explain", tenant_id, customer_ref, metric, first_on, last_on)
    found = explain.explain_usage(
        pool,
        tenant_id=tenant_id,
        customer_ref=customer_ref,
        meter=metric,
        first_on=first_on,
        last_on=last_on,
        limit=limit,
        after=None if cursor is None else _after(cursor, listing),
    )
    return JsonAnswer(
        {
            "customerRef": found.customer_ref,
            "references": list(found.refs),
            "metric": metric,
            "aggregation": found.aggregation,
            "firstDay": first_on.isoformat(),
            "lastDay": last_on.isoformat(),
            "counters": [_counter(counter, segment, found.aggregation) for counter, segment in found.counters],
            "adjustments": [_adjustment(adjustment) for adjustment in found.adjustments],
            "hasMoreAdjustments": found.has_more_adjustments,
            "versions": [_span(span) for span in found.versions],
            "events": [_row(row) for row in found.events],
            "hasMore": found.has_more,
            "nextCursor": _cursor(found.events[-1].event, listing) if found.has_more else None,
            "isInLake": found.is_in_lake,
            "isRecountPending": found.is_recount_pending,
        }
    )


def _days(day: date | None, first: date | None, last: date | None) -> tuple[date, date]:
    if day is not None and (first is not None or last is not None):
        raise InvalidInput("day excludes from and to: give either", field="day")
    if day is not None:
        first = last = day
    if first is None:
        raise InvalidInput("day is required, or from and to", field="day" if last is None else "from")
    if last is None:
        raise InvalidInput("to is required with from", field="to")
    if last < first or last - first >= timedelta(days=MOST_DAYS):
        raise InvalidInput(f"to must be from 0 to {MOST_DAYS - 1} days after from", field="to")
    if first == BEGINNING.date() or last == date.max:
        raise InvalidInput("the first and the last day there is cannot be explained", field="day")
    return first, last


def _cursor(event: StoredEvent, listing: tuple[object, ...]) -> str:
    return pack_cursor(listing, (to_microseconds(event.ts), event.seq))


def _after(cursor: str, listing: tuple[object, ...]) -> tuple[datetime, int]:
    microseconds, seq = unpack_cursor(cursor, listing, (int, int))
    return from_microseconds(int(microseconds)), to_bigint(int(seq))


def _explained(found: ExplainedEvent) -> dict[str, Any]:
    event = found.event
    return {
        "event": _event(event),
        "meta": stored_json(event.meta),
        "state": found.state,
        "isCounting": found.is_counting,
        "adjustment": None
        if event.adjustment_id is None
        else {"id": str(event.adjustment_id), "status": event.late_status},
        "void": None
        if event.voided_at is None
        else {
            "voidedAt": instant(event.voided_at),
            "reason": event.void_reason,
            "actor": event.void_actor,
            "requestId": event.void_request_id,
            "replacedBy": event.replacement_key,
        },
        "readings": [_reading(reading, event) for reading in found.readings],
        "refusals": [_refusal(refusal) for refusal in found.refusals],
        "conflicts": [_conflict(refused) for refused in found.refused],
        "isRecountPending": found.is_recount_pending,
    }


def _event(event: StoredEvent) -> dict[str, Any]:
    return {
        "id": event.idempotency_key,
        "metric": event.metric,
        "customerRef": event.customer_ref,
        **({} if event.resource_id is None else {"resourceId": event.resource_id}),
        "quantity": number(event.quantity),
        "timestamp": instant(event.ts),
        "receivedAt": instant(event.received_at),
        "source": event.source,
        "backfillId": None if event.backfill_id is None else str(event.backfill_id),
        "batch": event.batch,
    }


def _row(row: UsageEventRow) -> dict[str, Any]:
    return {
        **_event(row.event),
        "state": row.state,
        "isCounting": row.is_counting,
        "reading": None if row.reading is None else _reading(row.reading, row.event),
        "reason": row.reason,
    }


def _reading(reading: CountedReading, event: StoredEvent) -> dict[str, Any]:
    return {
        "meter": reading.meter,
        "version": reading.version,
        "customerRef": reading.customer_ref,
        "day": event.ts.date().isoformat(),
        "segment": _segment(reading.segment),
        "dimensions": stored_json(reading.dimensions or None),
        "quantity": number(reading.quantity),
        "lane": reading.lane,
    }


def _refusal(refusal: Refusal) -> dict[str, Any]:
    return {"meter": refusal.meter, "version": refusal.version, "reason": refusal.reason}


def _conflict(refused: RefusedPayload) -> dict[str, Any]:
    return {
        "metric": refused.metric,
        "customerRef": refused.customer_ref,
        **({} if refused.resource_id is None else {"resourceId": refused.resource_id}),
        "quantity": number(refused.quantity),
        "timestamp": instant(refused.ts),
        "meta": stored_json(refused.meta),
        "source": refused.source,
        "receivedAt": instant(refused.received_at),
        "timesRefused": refused.times_refused,
        "lastRefusedAt": instant(refused.last_refused_at),
    }


def _counter(counter: StoredCounter, segment: Segment, aggregation: str) -> dict[str, Any]:
    numbers = {
        "sum": counter.quantity_sum,
        "count": Decimal(counter.event_count),
        "min": counter.quantity_min,
        "max": counter.quantity_max,
        "last": counter.quantity_last,
        "avg": average(counter.quantity_sum, counter.event_count),
        "unique": Decimal(counter.distinct_count),
    }
    return {
        "day": counter.day.isoformat(),
        "segment": _segment(segment),
        "dimensions": stored_json(counter.dimensions or None),
        "lane": "late" if counter.is_late else "main",
        "quantity": number_or_null(numbers.get(aggregation)),
        "count": counter.event_count,
        "sum": number(counter.quantity_sum),
        "min": number(counter.quantity_min),
        "max": number(counter.quantity_max),
        "last": number(counter.quantity_last),
    }


def _adjustment(adjustment: StoredAdjustment) -> dict[str, Any]:
    return {
        "id": str(adjustment.id),
        "reason": adjustment.reason,
        "status": adjustment.status,
        "period": adjustment.period,
        "day": adjustment.day.isoformat(),
        "delta": number_or_null(adjustment.delta),
        "actor": adjustment.actor,
        "note": adjustment.note,
        "eventId": adjustment.event_key,
        "createdAt": instant(adjustment.created_at),
    }


def _span(span: VersionSpan) -> dict[str, Any]:
    return {
        "version": None if span.version is None else span.version.version,
        "firstDay": span.first_on.isoformat(),
        "lastDay": span.last_on.isoformat(),
        "definition": None if span.version is None else meter_document(span.version.definition),
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return {"start": instant(segment.start), "end": instant(segment.end)}
