"""POST /v1/parity/comparisons: an export of usage or invoices against ours.

Belongs here: bodies as values, which sources a request may name, formats. Does not: comparing (`pipeline.parity`),
reports (`pipeline.parity_report`).

Nothing is kept: the answer is the comparison, so what is compared is bounded by what an answer can wait for.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import month_bounds
from stripemeter.metering.parity_rows import Kind
from stripemeter.pipeline.parity import compare_export
from stripemeter.pipeline.parity_export import ExportRequest
from stripemeter.pipeline.parity_report import CSV_HEADER, report_csv, report_document, report_html
from stripemeter.pipeline.reconciliation_months import parse_month
from stripemeter.pipeline.request_backfill import parse_source_url
from stripemeter.store.files import FileFormat, SourceFile, fetch_source, payload_source
from stripemeter_api.answers import JsonAnswer
from stripemeter_api.backfills import BackfillLimits, Bounds
from stripemeter_api.bounded_bodies import TOO_LARGE, BoundedBodyRoute
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.parity_documents import ParityAnswer, ParityQuestion
from stripemeter_api.state import Pool

MOST_COMPARED: Mapping[Kind, int] = {"usage": 20_000, "invoice": 5_000}
"""Rows of one answer, and items of ours: seconds of work, pricing some two milliseconds a customer. Longer exports are
compared by the command line."""
# A decimal stays the number it was.
_encode = msgspec.json.Encoder(decimal_format="number").encode
_ANSWERS: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    200: {
        "description": "JSON with what is not `ok`, CSV with every item, or one page that loads nothing.",
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": ",".join(CSV_HEADER) + "\r\n"},
            "text/html": {"schema": {"type": "string"}},
        },
    },
    404: {"model": Problem, "description": "There is no such object."},
    413: {
        "model": Problem,
        "description": "The body, or the export it brings along, is too large.",
    },
}

router = APIRouter(prefix="/v1/parity", tags=["reconciliation"], route_class=BoundedBodyRoute)


@router.post(
    "/comparisons", response_model=ParityAnswer, responses=_ANSWERS, summary="Compare an export of usage or invoices"
)
def compare(
    pool: Pool,
    bounds: Bounds,
    body: ParityQuestion,
    format: Annotated[  # noqa: A002 - the contract's name
        Literal["json", "csv", "html"], Query(description="How the answer is written.")
    ] = "json",
) -> Response:
    """Item by item: customer, metric and window. Nothing is changed or kept, and Stripe is not asked.

    Ours is what the usage routes answer, adjustments included, and for invoices what the invoice preview makes of it,
    of mappings in shadow as well. An item is `ok` only when its numbers are equal to the last digit.
    """
    report = compare_export(pool, _asked(body, bounds), tenant_id=body.tenant_id, now=datetime.now(UTC))
    if format == "csv":
        headers = {"content-disposition": 'attachment; filename="parity.csv"'}
        return Response(report_csv(report), 200, headers, "text/csv; charset=utf-8; header=present")
    if format == "html":
        return Response(report_html(report), 200, None, "text/html; charset=utf-8")
    return JsonAnswer(report_document(report))


def _asked(body: ParityQuestion, bounds: BackfillLimits) -> ExportRequest:
    source, source_format = _source(body, bounds)
    if source.size > bounds.payload_bytes:
        raise HTTPException(TOO_LARGE)
    return ExportRequest(
        source=source,
        source_format=source_format,
        kind=body.kind,
        period=None if body.period is None else month_bounds(parse_month(body.period, field="period")),
        metrics=tuple(body.metrics or ()),
        columns=dict(body.columns or {}),
        amounts=body.amounts,
        as_of=body.as_of,
        rounding=body.rounding,
        most_rows=MOST_COMPARED[body.kind],
        most_items=MOST_COMPARED[body.kind],
    )


def _source(body: ParityQuestion, bounds: BackfillLimits) -> tuple[SourceFile, FileFormat]:
    given = [name for name in ("rows", "csvData", "sourceUrl") if getattr(body, _MEMBERS[name]) is not None]
    if len(given) != 1:
        raise InvalidInput(
            f"exactly one of rows, csvData and sourceUrl, not {' and '.join(given) or 'none'}", field="rows"
        )
    if body.rows is not None:
        if len(body.rows) > bounds.max_events:
            raise InvalidInput(f"rows must have at most {bounds.max_events} members", field="rows")
        return payload_source(b"".join(_encode(row) + b"\n" for row in body.rows)), "jsonl"
    if body.csv_data is not None:
        return payload_source(body.csv_data.encode()), "csv"
    source_format = parse_source_url(body.source_url or "", bounds.folders)
    return fetch_source(body.source_url or "", most_bytes=bounds.payload_bytes), source_format


_MEMBERS = {"rows": "rows", "csvData": "csv_data", "sourceUrl": "source_url"}
