"""/v1/events/...: accepting events (as documented here, done in `ingest.py`), listing them, listing conflicts.

Belongs here: parameters, cursors and the answers' members. Does not: reading (`store.listing`, `store.conflicts`).
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query

from stripemeter.errors import InvalidInput, InvariantBroken
from stripemeter.store.conflicts import ConflictKey, EventConflict, EventPayload, load_conflicts
from stripemeter.store.listing import EventFilter, EventKey, LedgerEvent, Sort, load_events
from stripemeter_api.answers import JsonAnswer, instant, number, stored_json
from stripemeter_api.cursors import from_microseconds, pack_cursor, to_bigint, to_microseconds, unpack_cursor
from stripemeter_api.documents import ConflictPage, EventPage, IngestAnswer, IngestProblem, IngestRequest
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.parameters import (
    Instant,
    Limit,
    OptionalCursor,
    OptionalCustomerRef,
    OptionalMetric,
    SortDirection,
    Source,
    TenantId,
)
from stripemeter_api.state import Pool

MAX_OFFSET = 10_000
"""An offset reads what it skips; a cursor does not."""

router = APIRouter(prefix="/v1/events", tags=["events"])


@router.post(
    "/ingest",
    response_model=IngestAnswer,
    response_model_exclude_none=True,
    summary="Accept usage events",
    responses={
        400: {"model": IngestProblem, "description": "The body is malformed; nothing of it was stored."},
        413: {"model": IngestProblem, "description": "The body is too large; nothing of it was stored."},
        415: {"model": IngestProblem, "description": "The body is not JSON, or encoded."},
        503: {"model": IngestProblem, "description": "Not stored now: send it again, see Retry-After."},
    },
)
async def accept_events(
    body: IngestRequest,  # noqa: ARG001 - documentation of what ingest.py parses
    idempotency_key: Annotated[  # noqa: ARG001 - as above
        str | None,
        Header(min_length=1, max_length=240, description="Key of events without their own; of several: `key:index`."),
    ] = None,
) -> IngestAnswer:
    """Answers 200 only after the events are on disk; sending them again never counts them twice."""
    raise InvariantBroken("POST /v1/events/ingest must be answered ahead of the framework")


@router.get("", response_model=EventPage, responses=READ_PROBLEMS, summary="List events")
def list_events(  # noqa: PLR0913 - one argument per query parameter
    *,
    pool: Pool,
    tenant_id: TenantId,
    metric: OptionalMetric = None,
    customer_ref: OptionalCustomerRef = None,
    source: Annotated[Source | None, Query(description="Who reported it.")] = None,
    start: Annotated[Instant | None, Query(alias="startTime", description="First `timestamp`, included.")] = None,
    end: Annotated[Instant | None, Query(alias="endTime", description="Last `timestamp`, included.")] = None,
    sort: Annotated[Sort, Query(description="Order; equals stand in ledger order.")] = "ts",
    direction: Annotated[SortDirection, Query(alias="sortDir")] = "desc",
    limit: Limit = 25,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Rows to skip; a cursor is cheaper.")] = 0,
    cursor: OptionalCursor = None,
) -> JsonAnswer:
    """A tenant's events; uncounted ones included, from the moment their POST was answered."""
    if cursor is not None and offset:
        raise InvalidInput("offset and cursor exclude each other: a cursor already says where to go on", field="offset")
    which = EventFilter(
        tenant_id=tenant_id, metric=metric, customer_ref=customer_ref, source=source, start=start, end=end
    )
    listing = ("events", tenant_id, metric, customer_ref, source, start, end, sort, direction)
    page = load_events(
        pool,
        which,
        sort=sort,
        is_descending=direction == "desc",
        limit=limit,
        offset=offset,
        after=_event_key(cursor, listing, sort) if cursor is not None else None,
    )
    answer: dict[str, Any] = {"total": page.total} if page.total is not None else {}
    answer["events"] = [_event(event) for event in page.events]
    answer["hasMore"] = page.has_more
    answer["nextCursor"] = _event_cursor(page.events[-1].key(sort), listing) if page.has_more else None
    return JsonAnswer(answer)


@router.get("/conflicts", response_model=ConflictPage, responses=READ_PROBLEMS, summary="List conflicts")
def list_conflicts(pool: Pool, tenant_id: TenantId, limit: Limit = 25, cursor: OptionalCursor = None) -> JsonAnswer:
    """Events refused because their key already stood with a different payload, beside what stands; newest first."""
    listing = ("conflicts", tenant_id)
    after = _conflict_key(cursor, listing) if cursor is not None else None
    page = load_conflicts(pool, tenant_id=tenant_id, limit=limit, after=after)
    return JsonAnswer(
        {
            "conflicts": [_conflict(conflict) for conflict in page.conflicts],
            "hasMore": page.has_more,
            "nextCursor": _conflict_cursor(page.conflicts[-1].key, listing) if page.has_more else None,
        }
    )


def _event(event: LedgerEvent) -> dict[str, Any]:
    return {
        "id": event.idempotency_key,
        "tenantId": event.tenant_id,
        "metric": event.metric,
        "customerRef": event.customer_ref,
        **({} if event.resource_id is None else {"resourceId": event.resource_id}),
        "quantity": number(event.quantity),
        "timestamp": instant(event.ts),
        "receivedAt": instant(event.received_at),
        "meta": stored_json(event.meta),
        "source": event.source,
        **({} if event.voided_at is None else {"voidedAt": instant(event.voided_at)}),
        **({} if event.replaced_by is None else {"replacedBy": event.replaced_by}),
    }


def _conflict(conflict: EventConflict) -> dict[str, Any]:
    return {
        "idempotencyKey": conflict.idempotency_key,
        "standing": None if conflict.standing is None else _payload(conflict.standing),
        "refused": _payload(conflict.refused),
        "timesRefused": conflict.times_refused,
        "lastRefusedAt": instant(conflict.last_refused_at),
    }


def _payload(payload: EventPayload) -> dict[str, Any]:
    return {
        "metric": payload.metric,
        "customerRef": payload.customer_ref,
        **({} if payload.resource_id is None else {"resourceId": payload.resource_id}),
        "quantity": number(payload.quantity),
        "timestamp": instant(payload.ts),
        "meta": stored_json(payload.meta),
        "source": payload.source,
        "receivedAt": instant(payload.received_at),
    }


def _event_cursor(key: EventKey, listing: tuple[object, ...]) -> str:
    value = key.value if isinstance(key.value, str) else to_microseconds(key.value)
    return pack_cursor(listing, (value, key.seq))


def _event_key(cursor: str, listing: tuple[object, ...], sort: Sort) -> EventKey:
    value, seq = unpack_cursor(cursor, listing, (int if sort == "ts" else str, int))
    return EventKey(
        value=from_microseconds(value) if isinstance(value, int) else _without_nul(value), seq=to_bigint(int(seq))
    )


def _conflict_cursor(key: ConflictKey, listing: tuple[object, ...]) -> str:
    return pack_cursor(listing, (to_microseconds(key.first_received_at), key.key_hash.hex, key.payload_hash))


def _conflict_key(cursor: str, listing: tuple[object, ...]) -> ConflictKey:
    microseconds, key_hash, payload_hash = unpack_cursor(cursor, listing, (int, str, int))
    try:
        key = UUID(str(key_hash))
    except ValueError as error:
        raise InvalidInput("cursor is not a cursor of ours: send nextCursor as it came", field="cursor") from error
    return ConflictKey(
        first_received_at=from_microseconds(int(microseconds)), key_hash=key, payload_hash=to_bigint(int(payload_hash))
    )


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise InvalidInput("cursor is not a cursor of ours: send nextCursor as it came", field="cursor")
    return text
