"""/v1/events/...: accepting events (as documented here, done in `ingest.py`), listing them, listing conflicts.

Belongs here: parameters and the answers' members. Does not: reading (`store.listing`), accepting.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header

from stripemeter.errors import InvariantBroken
from stripemeter_api.documents import IngestAnswer, IngestProblem, IngestRequest, Problem

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
    body: IngestRequest,
    idempotency_key: Annotated[
        str | None, Header(description="Key of events without their own; with several events `key:index`.")
    ] = None,
) -> IngestAnswer:
    """Answers 200 only after the events are on disk; sending them again never counts them twice."""
    raise InvariantBroken("POST /v1/events/ingest must be answered ahead of the framework")
