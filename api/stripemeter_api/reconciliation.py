"""/v1/reconciliation: ours against Stripe's by month, on demand, and approving what it suggests.

Belongs here: parameters, the answers' members, CSV. Does not: comparing (`pipeline.reconcile`, run by Dagster),
taking a surplus back (`pipeline.push`).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response

from stripemeter.errors import InvalidInput
from stripemeter.metering.events import canonical_quantity
from stripemeter.pipeline.reconciliation_months import (
    MetricDrift,
    find_run,
    parse_month,
    read_months,
    request_run,
    sum_by_metric,
)
from stripemeter.pipeline.repair import approve_corrections
from stripemeter.store.corrections import Correction
from stripemeter.store.reconciliation_periods import ReconciledMonth, drift_ratio
from stripemeter_api.actors import ActorHeader, actor_of
from stripemeter_api.answers import JsonAnswer, csv_lines, instant, number, number_or_null
from stripemeter_api.bounded_bodies import BoundedBodyRoute
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.parameters import TenantId
from stripemeter_api.reconciliation_documents import (
    ApprovalAnswer,
    ApprovalStatement,
    ReportAnswer,
    RunAccepted,
    RunAnswer,
    RunStatement,
    SummaryAnswer,
)
from stripemeter_api.state import Pool

REPORT_HEADER = ("subscription_item_id", "period", "local", "stripe", "drift_abs", "drift_pct", "status")
SUMMARY_HEADER = ("metric", "local", "stripe", "drift_abs", "drift_pct", "items")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

Format = Annotated[Literal["json", "csv"], Query(description="How the answer is written.")]


class _Route(BoundedBodyRoute):
    """Bounded by RECONCILIATION_BODY_LIMIT_BYTES."""

    limit = "reconciliation_body_bytes"


def _csv_too(example: tuple[str, ...]) -> dict[int | str, dict[str, Any]]:
    text = {"text/csv": {"schema": {"type": "string"}, "example": ",".join(example) + "\r\n"}}
    return {**READ_PROBLEMS, 200: {"content": text, "description": "JSON, or CSV as an attachment."}}


_TOO_LARGE: dict[int | str, dict[str, Any]] = {413: {"model": Problem, "description": "The body is too large."}}

router = APIRouter(prefix="/v1/reconciliation", tags=["reconciliation"], route_class=_Route)


@router.post("/run", status_code=202, response_model=RunAccepted, responses={**READ_PROBLEMS, **_TOO_LARGE})
def run_reconciliation(pool: Pool, body: RunStatement) -> JsonAnswer:
    """Answered when the request is on disk; a run of all tenants begins within a minute."""
    job_id = request_run(pool, body.tenant_id, now=datetime.now(UTC))
    return JsonAnswer({"message": "Reconciliation job queued", "jobId": str(job_id)}, status_code=202)


@router.get(
    "/runs/{id}",
    response_model=RunAnswer,
    responses={**READ_PROBLEMS, 404: {"model": Problem, "description": "The tenant has no such job."}},
)
def read_run(pool: Pool, id: UUID, tenant_id: TenantId) -> JsonAnswer:  # noqa: A002
    """What became of a requested run. Completed says that it looked, not that all is well: read the month for that."""
    found = find_run(pool, tenant_id, id)
    return JsonAnswer(
        {
            "jobId": str(found.id),
            "status": found.status,
            "requestedAt": instant(found.requested_at),
            "startedAt": found.started_at and instant(found.started_at),
            "endedAt": found.ended_at and instant(found.ended_at),
            "error": found.error_message,
        }
    )


@router.get("/summary", response_model=SummaryAnswer, responses=_csv_too(SUMMARY_HEADER))
def read_summary(
    *,
    pool: Pool,
    tenant_id: TenantId,
    period_start: Annotated[str, Query(alias="periodStart", description="First UTC month.", examples=["2026-10"])],
    period_end: Annotated[str, Query(alias="periodEnd", description="Last UTC month.", examples=["2026-11"])],
    format: Format = "json",  # noqa: A002 - the contract's name
) -> Response:
    """Sums by metric over UTC months, from the latest comparison of each day."""
    first = parse_month(period_start, field="periodStart")
    last = parse_month(period_end, field="periodEnd")
    if last < first:
        raise InvalidInput("periodEnd must not be before periodStart", field="periodEnd")
    metrics, overall = sum_by_metric(read_months(pool, tenant_id, first, last).months)
    if format == "csv":
        lines = [[row.metric, *map(_text, _sums(row)), str(row.items)] for row in (*metrics, overall)]
        return _csv(SUMMARY_HEADER, lines, f"reconciliation_summary_{tenant_id}_{period_start}_{period_end}")
    total = _metric(overall)
    del total["metric"]
    return JsonAnswer(
        {
            "periodStart": period_start,
            "periodEnd": period_end,
            "perMetric": [_metric(row) for row in metrics],
            "overall": {**total, "metrics": len(metrics)},
        }
    )


@router.post("/adjustments", response_model=ApprovalAnswer, responses={**READ_PROBLEMS, **_TOO_LARGE})
def approve(pool: Pool, body: ApprovalStatement, x_actor: ActorHeader = None) -> JsonAnswer:
    """Approves suggested corrections: the next push takes the surplus back at Stripe; what we counted stays."""
    outcomes = approve_corrections(
        pool,
        body.adjustment_ids,
        tenant_id=body.tenant_id,
        actor=actor_of(body.actor, x_actor),
        reason=body.reason,
        now=datetime.now(UTC),
    )
    failed = sum(one.outcome == "failed" for one in outcomes)
    results = [{"id": str(one.id), "outcome": one.outcome, "message": one.message} for one in outcomes]
    return JsonAnswer({"applied": len(outcomes) - failed, "failed": failed, "results": results})


@router.get("/{period}", response_model=ReportAnswer, responses=_csv_too(REPORT_HEADER))
def read_report(
    pool: Pool,
    period: str,
    tenant_id: TenantId,
    format: Format = "json",  # noqa: A002 - the contract's name
) -> Response:
    """A UTC month (`YYYY-MM`) by meter and customer, worst first, and the corrections it suggests."""
    month = parse_month(period, field="period")
    found = read_months(pool, tenant_id, month, month)
    if format == "csv":
        lines = [_report_line(row, period) for row in found.months]
        return _csv(REPORT_HEADER, lines, f"reconciliation_{tenant_id}_{period}")
    statuses = [row.status for row in found.months]
    return JsonAnswer(
        {
            "period": period,
            "reports": [_report(row) for row in found.months],
            "suggestedAdjustments": [_suggestion(one) for one in found.suggested],
            "summary": {
                "total": len(statuses),
                "ok": statuses.count("ok"),
                "investigating": statuses.count("investigate"),
                "resolved": statuses.count("resolved"),
                "maxDiff": number(max((abs(row.drift or Decimal(0)) for row in found.months), default=Decimal(0))),
            },
        }
    )


def _report(row: ReconciledMonth) -> dict[str, Any]:
    return {
        "id": f"{row.mapping_id}:{row.customer_ref}:{row.month:%Y-%m}",
        "tenantId": row.tenant_id,
        "subscriptionItemId": row.item,
        "metric": row.meter,
        "customerRef": row.customer_ref,
        "mode": row.mode,
        "periodStart": row.month.isoformat(),
        "localTotal": number(row.local),
        "stripeTotal": number_or_null(row.stripe),
        "diff": number_or_null(row.drift),
        "status": row.status,
        "verdict": _verdict(row),
        "causes": sorted(row.causes),
        "createdAt": instant(row.checked_at),
    }


def _verdict(row: ReconciledMonth) -> str:
    if row.has_unknown:
        return "unknown"
    if row.has_drift:
        return "drift"
    return "within_epsilon" if row.has_tolerated else "ok"


def _report_line(row: ReconciledMonth, period: str) -> list[str | None]:
    ratio = None if row.stripe is None or row.drift is None else drift_ratio(row.drift, row.stripe)
    drift = None if row.drift is None else abs(row.drift)
    return [row.item, period, _text(row.local), _text(row.stripe), _text(drift), _text(ratio), row.status]


def _suggestion(one: Correction) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "tenantId": one.tenant_id,
        "metric": one.meter,
        "customerRef": one.customer_ref,
        "periodStart": one.day.isoformat(),
        "segmentStart": instant(one.segment_start),
        "delta": number(-one.surplus),
        "reason": "correction",
        "status": "pending",
        "createdAt": instant(one.suggested_at),
    }


def _metric(row: MetricDrift) -> dict[str, Any]:
    names = ("local", "stripe", "drift_abs", "drift_pct")
    sums = {name: number(value) for name, value in zip(names, _sums(row), strict=True)}
    return {"metric": row.metric, **sums, "items": row.items, "unknown": row.unknown}


def _sums(row: MetricDrift) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    return row.local, row.stripe, row.drift_abs, row.drift_pct


def _text(quantity: Decimal | None) -> str | None:
    return None if quantity is None else canonical_quantity(quantity)


def _csv(header: tuple[str, ...], rows: list[list[str | None]], name: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{_UNSAFE.sub("_", name)}.csv"'}
    return Response(csv_lines(header, rows), 200, headers, "text/csv; charset=utf-8; header=present")
