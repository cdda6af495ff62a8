"""/v1/events/backfill: loading old usage, looking at it, cancelling it, taking all of it back.

Belongs here: parameters, bodies as values, the answers' members. Does not: recording (`pipeline.request_backfill`),
storing rows (`pipeline.backfill`), which a Dagster run does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.exceptions import HTTPException

from stripemeter.errors import InvalidInput
from stripemeter.pipeline.error_report import load_report, report_path
from stripemeter.pipeline.request_backfill import (
    BackfillRequest,
    cancel_backfill,
    find_backfill,
    list_page,
    new_backfill,
    record_backfill,
)
from stripemeter.pipeline.revert import revert_within
from stripemeter.runtime.settings import Settings
from stripemeter.store.backfills import Backfill
from stripemeter_api.actors import ActorHeader, actor_of
from stripemeter_api.answers import JsonAnswer, instant
from stripemeter_api.backfill_documents import (
    BackfillAccepted,
    BackfillAnswer,
    BackfillPage,
    BackfillStatement,
    BackfillTenant,
    RevertStatement,
    Status,
)
from stripemeter_api.bounded_bodies import TOO_LARGE, BoundedBodyRoute
from stripemeter_api.cursors import from_microseconds, pack_cursor, to_microseconds, unpack_cursor
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.events import MAX_OFFSET
from stripemeter_api.parameters import MAX_TEXT, Limit, OptionalCursor, Text
from stripemeter_api.state import Limits, Pool

QUEUED = "Backfill operation queued successfully"
SHOWN_ERRORS = 100
REVERT_SECONDS = 5
"""How long an answer waits for a revert: some twenty thousand events; the rest is a Dagster run's."""

_FOUND: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    404: {"model": Problem, "description": "The tenant has no such operation."},
}
_ENDED: dict[int | str, dict[str, Any]] = {
    **_FOUND,
    409: {"model": Problem, "description": "The operation has ended already, or not yet; nothing changed."},
    413: {"model": Problem, "description": "The body is too large; nothing changed."},
}

router = APIRouter(prefix="/v1/events/backfill", tags=["backfill"], route_class=BoundedBodyRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillLimits:
    """What the operator bounds, and where the state directory is."""

    body_bytes: int
    payload_bytes: int
    max_events: int
    folders: tuple[str, ...]
    home: Path


def backfill_limits(settings: Settings) -> BackfillLimits:
    """What the operator set."""
    return BackfillLimits(
        body_bytes=settings.backfill_body_limit_bytes,
        payload_bytes=settings.max_direct_backfill_bytes,
        max_events=settings.max_backfill_events,
        folders=settings.backfill_folders,
        home=settings.state,
    )


def _bounds_of(request: Request) -> BackfillLimits:
    bounds: BackfillLimits = request.app.state.backfills
    return bounds


Bounds = Annotated[BackfillLimits, Depends(_bounds_of)]
OptionalTenantId = Annotated[
    Text | None, Query(alias="tenantId", min_length=1, max_length=MAX_TEXT, description="Only this tenant's.")
]


@router.post(
    "",
    response_model=BackfillAccepted,
    responses={
        **READ_PROBLEMS,
        413: {
            "model": Problem,
            "description": "The body, or what it brings along, is too large; nothing was recorded.",
        },
    },
    summary="Load old usage",
)
def create_backfill(
    pool: Pool, limits: Limits, bounds: Bounds, body: BackfillStatement, x_actor: ActorHeader = None
) -> JsonAnswer:
    """Answered when the operation is on disk; it is run within a minute. Every row comes to one of five outcomes."""
    new = new_backfill(
        _asked(body, actor_of(body.actor, x_actor)), max_events=bounds.max_events, readable=bounds.folders
    )
    if new.source_size > bounds.payload_bytes:
        raise HTTPException(TOO_LARGE)
    operation_id = record_backfill(pool, new, limits=limits, now=datetime.now(UTC))
    return JsonAnswer({"operationId": str(operation_id), "status": "pending", "message": QUEUED})


@router.get("", response_model=BackfillPage, responses=READ_PROBLEMS, summary="List backfills")
def list_backfills(
    *,
    pool: Pool,
    tenant_id: OptionalTenantId = None,
    status: Annotated[Status | None, Query(description="Only these.")] = None,
    limit: Limit = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Rows to skip; a cursor is cheaper.")] = 0,
    cursor: OptionalCursor = None,
) -> JsonAnswer:
    """Backfills and imports of files, newest first."""
    if cursor is not None and offset:
        raise InvalidInput("offset and cursor exclude each other: a cursor already says where to go on", field="offset")
    listing = ("backfills", tenant_id, status)
    after = None if cursor is None else _after(cursor, listing)
    page = list_page(pool, tenant_id=tenant_id, status=status, limit=limit, offset=offset, after=after)
    last = page.backfills[-1] if page.has_more else None
    return JsonAnswer(
        {
            "operations": [_row(backfill) for backfill in page.backfills],
            **({} if page.total is None else {"total": page.total}),
            "hasMore": page.has_more,
            "nextCursor": last and pack_cursor(listing, (to_microseconds(last.created_at), str(last.id))),
        }
    )


@router.get("/{id}", response_model=BackfillAnswer, responses=_FOUND, summary="Read a backfill")
def read_backfill(
    *,
    pool: Pool,
    bounds: Bounds,
    id: UUID,  # noqa: A002 - the path's name
    tenant_id: OptionalTenantId = None,
) -> JsonAnswer:
    """One operation as it stands, with the first rows that were not taken."""
    return JsonAnswer(_answer(find_backfill(pool, id, tenant_id=tenant_id), bounds.home))


@router.post("/{id}/cancel", response_model=BackfillAnswer, responses=_ENDED, summary="Cancel a backfill")
def cancel(
    *,
    pool: Pool,
    bounds: Bounds,
    id: UUID,  # noqa: A002 - the path's name
    body: BackfillTenant | None = None,
) -> JsonAnswer:
    """Stops it for good, running or waiting. What it has stored stays: revert it to take that back."""
    tenant_id = None if body is None else body.tenant_id
    cancelled = cancel_backfill(pool, id, tenant_id=tenant_id, now=datetime.now(UTC))
    return JsonAnswer(_answer(cancelled, bounds.home))


@router.post("/{id}/revert", response_model=BackfillAnswer, responses=_ENDED, summary="Revert a backfill")
def revert(
    *,
    pool: Pool,
    bounds: Bounds,
    id: UUID,  # noqa: A002 - the path's name
    body: RevertStatement,
    x_actor: ActorHeader = None,
) -> JsonAnswer:
    """Voids every event it stored. `revertedAt` is null while a large one goes on; asking again is harmless."""
    done = revert_within(
        pool,
        id,
        tenant_id=body.tenant_id,
        reason=body.reason,
        actor=actor_of(body.actor, x_actor),
        clock=lambda: datetime.now(UTC),
        budget_seconds=REVERT_SECONDS,
    )
    return JsonAnswer(_answer(done, bounds.home))


def _asked(body: BackfillStatement, actor: str) -> BackfillRequest:
    said = {name: getattr(body, name) for name in BackfillRequest.__dataclass_fields__}
    return BackfillRequest(**{**said, "actor": actor})


def _after(cursor: str, listing: tuple[object, ...]) -> tuple[datetime, UUID]:
    created_at, operation_id = unpack_cursor(cursor, listing, (int, str))
    try:
        return from_microseconds(int(created_at)), UUID(str(operation_id))
    except ValueError as error:
        raise InvalidInput("cursor is not a cursor of ours: send nextCursor as it came", field="cursor") from error


def _row(backfill: Backfill) -> dict[str, Any]:
    counts = backfill.counts
    return {
        "id": str(backfill.id),
        "tenantId": backfill.tenant_id,
        "metric": backfill.metric,
        "customerRef": backfill.customer_ref,
        "periodStart": backfill.period_start and backfill.period_start.isoformat(),
        "periodEnd": backfill.period_end and backfill.period_end.isoformat(),
        "status": backfill.status,
        "reason": backfill.reason,
        "actor": backfill.actor,
        "totalEvents": counts.rows if backfill.status == "completed" else backfill.source_row_count,
        "processedEvents": counts.rows,
        "acceptedEvents": counts.accepted,
        "duplicateEvents": counts.duplicates,
        "conflictEvents": counts.conflicts,
        "failedEvents": counts.failed,
        "skippedEvents": counts.skipped,
        "sourceType": backfill.source_type,
        "errorMessage": backfill.error_message,
        "startedAt": backfill.started_at and instant(backfill.started_at),
        "completedAt": backfill.completed_at and instant(backfill.completed_at),
        "createdAt": instant(backfill.created_at),
        "updatedAt": instant(backfill.updated_at),
        "voidedEvents": backfill.voided_count,
        "revertReason": backfill.revert_reason,
        "revertedBy": backfill.reverted_by,
        "revertedAt": backfill.reverted_at and instant(backfill.reverted_at),
    }


def _answer(backfill: Backfill, home: Path) -> dict[str, Any]:
    path = report_path(home, backfill.id)
    errors = load_report(path, committed_bytes=backfill.report_bytes, limit=SHOWN_ERRORS)
    return {
        **_row(backfill),
        "errors": [
            {"row": error.row, "field": error.field, "code": error.code, "message": error.message} for error in errors
        ],
        "errorReport": path.relative_to(home).as_posix() if errors else None,
    }
