"""GET /health...: is the process alive, can the service work.

Belongs here: the answers and their statuses. Does not: probing (`probes.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter

import stripemeter
from stripemeter_api.answers import JsonAnswer, instant, number_or_null
from stripemeter_api.documents import HealthAnswer, LiveAnswer, ReadyAnswer
from stripemeter_api.state import ProbesOfProcess

router = APIRouter(prefix="/health", tags=["health"])


@router.get("", response_model=HealthAnswer, summary="The process answers")
async def read_health() -> JsonAnswer:
    """Always 200 while the process can answer; asks nothing of anybody."""
    return JsonAnswer({"status": "ok", "timestamp": instant(datetime.now(UTC))})


@router.get("/live", response_model=LiveAnswer, summary="The process lives")
async def read_live() -> JsonAnswer:
    """For a supervisor that restarts what does not answer."""
    return JsonAnswer({"status": "alive"})


@router.get(
    "/ready",
    response_model=ReadyAnswer,
    summary="The service can do its work",
    responses={503: {"model": ReadyAnswer, "description": "Unhealthy: without its database it can do nothing."}},
)
def read_ready(probes: ProbesOfProcess) -> JsonAnswer:
    """200 when healthy or degraded, 503 when unhealthy; every check is tried within a deadline."""
    found = probes.readiness()
    answer = {
        "status": found.status,
        "version": stripemeter.__version__,
        "checks": found.checks,
        "reasons": found.reasons,
        "metrics": {
            "eventsPerSecond": found.events_per_second,
            "writerLag": found.fold_lag_seconds,
            "reconciliationDiff": number_or_null(found.worst_drift),
        },
    }
    if found.status == "unhealthy":
        return JsonAnswer(answer, 503, {"retry-after": "1"})
    return JsonAnswer(answer)
