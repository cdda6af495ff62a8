"""POST /v1/replay: count days again, or say what that would change.

Belongs here: the body as values, the answer's members. Does not: replaying (`pipeline.replay`).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from fastapi import APIRouter

from stripemeter.errors import InvalidInput
from stripemeter.pipeline.replay import MetricChange, replay
from stripemeter_api.answers import JsonAnswer, instant, number
from stripemeter_api.cursors import pack_cursor, unpack_cursor
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.replay_documents import ReplayAnswer, ReplayStatement, moment
from stripemeter_api.state import Pool

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    409: {
        "model": Problem,
        "description": "The days come to something else than under the watermark; nothing changed.",
    },
}
router = APIRouter(prefix="/v1", tags=["replay"])


@router.post("/replay", response_model=ReplayAnswer, responses=_PROBLEMS, summary="Replay days from the ledger")
def replay_days(pool: Pool, body: ReplayStatement) -> JsonAnswer:
    """Counts the UTC days that `[since, until)` touches again; a dry run changes nothing and says what apply does."""
    now = datetime.now(UTC)
    since, until = moment(body.since, now), moment(body.until, now)
    listing = ("replay", body.tenant_id, body.mode, *sorted(body.metrics), instant(since), instant(until))
    done = replay(
        pool,
        body.tenant_id,
        since=since,
        until=until,
        mode=body.mode,
        now=now,
        metrics=body.metrics,
        next_day=None if body.cursor is None else _day(body.cursor, listing),
        watermark=body.watermark,
    )
    return JsonAnswer(
        {
            "mode": body.mode,
            "tenantId": body.tenant_id,
            "metrics": body.metrics,
            "timeRange": {"since": instant(since), "until": instant(until)},
            "changes": {name: _change(change) for name, change in done.changes.items()},
            "cursor": None if done.next_day is None else pack_cursor(listing, (done.next_day.isoformat(),)),
            "watermark": done.watermark,
            "applied": body.mode == "apply",
            "summary": {
                "days": done.days,
                "changedCounters": done.changed_counters,
                "withheldLateEvents": done.withheld_late,
                "pendingLateEvents": done.pending_late,
            },
        }
    )


def _day(cursor: str, listing: tuple[object, ...]) -> date:
    (text,) = unpack_cursor(cursor, listing, (str,))
    try:
        return date.fromisoformat(str(text))
    except ValueError as error:
        raise InvalidInput("cursor is not a cursor of ours: send it as it came", field="cursor") from error


def _change(change: MetricChange) -> dict[str, Any]:
    return {
        "eventsFound": change.events_found,
        "lateEvents": change.late_events,
        "counterDelta": number(change.counter_delta),
        "affectedCustomers": list(change.affected_customers),
        "affectedCustomerCount": change.affected_count,
    }
