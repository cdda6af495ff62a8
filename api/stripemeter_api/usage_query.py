"""GET /v1/usage/query: usage by window and group, as JSON or CSV.

Belongs here: parameters, their bounds and messages, the answers' members. Does not: reading (`store.usage_windows`),
cutting windows (`metering.windows`).

A parameter this route does not know is refused: a misspelt filter would otherwise answer for everything.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import Field
from starlette.responses import Response

from stripemeter.errors import InvalidInput
from stripemeter.metering.windows import Window, parse_time_zone, window_edges
from stripemeter.store.metered_windows import load_metered_windows
from stripemeter.store.usage_windows import (
    MAX_CELLS,
    MAX_GROUPS,
    Aggregation,
    GroupBy,
    UniqueOf,
    UsageCell,
    UsageQuestion,
    UsageWindows,
    load_usage_windows,
)
from stripemeter_api.answers import JsonAnswer, csv_lines, instant, number, number_or_null
from stripemeter_api.documents import QueryAnswer
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.parameters import MAX_TEXT, Instant, Metric, Source, TenantId, Text
from stripemeter_api.state import Pool

MAX_CUSTOMERS = 100
"""Customers of one question: a URL of a few kB; more are a question without the filter, grouped by customer."""
MAX_PATH = 8
"""Names of one path into `meta`: deeper than any event's 4096 bytes need."""
CSV_HEADER = ("start", "end", "localStart", "group", "value", "count", "sum", "adjusted", "aggregation")
KNOWN = frozenset(
    {"tenantId", "metric", "customerRef", "from", "to", "window", "timeZone", "groupBy", "source", "resourceId"}
    | {"aggregation", "uniqueOf", "asOf", "format"}
)
_META = re.compile(rf"meta(\.[^.\x00]+){{1,{MAX_PATH}}}")
_EXAMPLE = """start,end,localStart,group,value,count,sum,adjusted,aggregation\r
2026-10-24T22:00:00Z,2026-10-25T23:00:00Z,2026-10-25T00:00:00+02:00,eu,12.5,3,12.5,0,sum\r
"""
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One row per window and group; as CSV (RFC 4180) with the same columns, always with a header.",
        "content": {"text/csv": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    **READ_PROBLEMS,
}

router = APIRouter(prefix="/v1/usage", tags=["usage"])
Format = Literal["json", "csv"]
OneCustomer = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]


def _meta_filters(request: Request) -> list[tuple[list[str], str]]:
    """Every `meta.<path>=<text>` of the URL; also where unknown and repeated parameters are refused."""
    filters: list[tuple[list[str], str]] = []
    for name in dict.fromkeys(request.query_params):
        values = request.query_params.getlist(name)
        if name not in KNOWN and not _META.fullmatch(name):
            raise InvalidInput(
                f"{name} is not a parameter of this route; a filter on meta is written meta.<path>=<text>, the path at "
                f"most {MAX_PATH} names joined by dots",
                field=name,
            )
        if len(values) > 1 and name != "customerRef":
            raise InvalidInput(f"{name} must stand once; only customerRef may be repeated", field=name)
        if name not in KNOWN:
            if "\x00" in values[0]:
                raise InvalidInput(f"{name} must not contain the NUL character", field=name)
            filters.append((name.split(".")[1:], values[0]))
    return filters


@router.get("/query", response_model=QueryAnswer, responses=_ANSWERS, summary="Usage by window and group")
def query_usage(  # noqa: PLR0913 - one argument per query parameter
    *,
    pool: Pool,
    meta_filters: Annotated[list[tuple[list[str], str]], Depends(_meta_filters)],
    tenant_id: TenantId,
    metric: Metric,
    start: Annotated[
        Instant, Query(alias="from", description="First instant asked for.", examples=["2026-10-24T22:00:00Z"])
    ],
    end: Annotated[
        Instant, Query(alias="to", description="First instant no longer asked for.", examples=["2026-10-31T23:00:00Z"])
    ],
    window: Annotated[
        Window, Query(description="Length of a window on the time zone's clock; weeks begin on Monday.")
    ] = "day",
    time_zone: Annotated[
        Text,
        Query(
            alias="timeZone",
            min_length=1,
            max_length=MAX_TEXT,
            description="IANA name of the zone whose clock and calendar cut the windows.",
            examples=["Europe/Berlin"],
        ),
    ] = "UTC",
    customer_refs: Annotated[
        list[OneCustomer] | None,
        Query(
            alias="customerRef",
            min_length=1,
            max_length=MAX_CUSTOMERS,
            description="Only these customers' usage; may be repeated. Default: everybody's.",
        ),
    ] = None,
    group_by: Annotated[
        Text | None,
        Query(
            alias="groupBy",
            max_length=MAX_TEXT,
            pattern=rf"^(customerRef|source|resourceId|meta(\.[^.]+){{1,{MAX_PATH}}})$",
            description=f"One number per value of this, at most {MAX_GROUPS} values: `customerRef`, `source`, "
            '`resourceId`, or `meta.<path>` (names joined by dots; values as text, so 1 and "1" are one).',
            examples=["meta.region"],
        ),
    ] = None,
    source: Annotated[Source | None, Query(description="Only events reported by it.")] = None,
    resource_id: Annotated[
        Text | None,
        Query(alias="resourceId", min_length=1, max_length=MAX_TEXT, description="Only events of this resource."),
    ] = None,
    aggregation: Annotated[
        Aggregation | None,
        Query(description="How events become a number. Default: as the metric's price mapping says, else `sum`."),
    ] = None,
    unique_of: Annotated[
        UniqueOf | None,
        Query(alias="uniqueOf", description="What `aggregation=unique` counts the distinct values of; exact."),
    ] = None,
    as_of: Annotated[
        Instant | None,
        Query(
            alias="asOf",
            description="Only events received until then, with the voids, approvals and adjustments of then: what was "
            "known at that instant.",
        ),
    ] = None,
    answer_format: Annotated[
        Format | None, Query(alias="format", description="Default: what the Accept header asks for, else JSON.")
    ] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Usage over `[from, to)` by window and group; windows are cut at both ends, never overlap and leave no gap.

    Filters on `meta` are further parameters `meta.<path>=<text>`, such as `meta.region=eu` or `meta.plan.name=pro`.
    Every group has a row for every window. `value` is 0 for `sum`, `count` and `unique` of a window without events and
    null for the others; that of `avg` is `sum / count` with 12 decimals, half away from zero. Questions about whole UTC
    days without filters on `source`, `resourceId` or `meta` are answered from the counters, all others (and `asOf`)
    from the ledger's events, of which at most 1 000 000 may match; the numbers are the same.

    `metric` may name a meter: each window counts as the version of its last day (or of today) says what each day's own
    version reads, named in `aggregation`, and the counters answer for its dimensions too. Filters and groups are
    answered as if no other events had come; so the level with which a window of a time-weighted meter begins, in
    unit-seconds, is that of the last reading among them, and with `asOf` it is known up to that instant.

    `adjusted` is the sum of the approved manual adjustments in `value`, each at the instant it takes effect and in the
    unit of `value`. They are added where `value` is the metric's own number: its own aggregation, no groups but
    `customerRef`, no filter but it; `adjustments` says whether they are, else why not.
    """
    _check(aggregation, unique_of, as_of)
    zone = parse_time_zone(time_zone)
    kind, path = _grouping(group_by)
    question = UsageQuestion(
        tenant_id=tenant_id,
        metric=metric,
        edges=window_edges(start, end, window=window, zone=zone, most=MAX_CELLS),
        aggregation=aggregation,
        unique_of=unique_of,
        customer_refs=customer_refs,
        source=source,
        resource_id=resource_id,
        meta_filters=meta_filters,
        group_by=kind,
        group_path=path,
        known_at=as_of,
    )
    found = load_metered_windows(pool, question, now=datetime.now(UTC)) or load_usage_windows(pool, question)
    if (answer_format or _accepted(accept)) == "csv":
        return _csv(found, zone)
    return _json(
        found, zone, {"metric": metric, "window": window, "timeZone": time_zone, "groupBy": group_by}, question
    )


def _check(aggregation: Aggregation | None, unique_of: UniqueOf | None, as_of: datetime | None) -> None:
    if (aggregation == "unique") != (unique_of is not None):
        raise InvalidInput("uniqueOf belongs to aggregation=unique, which needs it", field="uniqueOf")
    if as_of is not None and as_of > datetime.now(UTC):
        raise InvalidInput("asOf must not be in the future: what will be known then is not known", field="asOf")


def _grouping(group_by: str | None) -> tuple[GroupBy, list[str]]:
    match group_by:
        case None:
            return "none", []
        case "customerRef" | "source" | "resourceId":
            return group_by, []
        case _:
            return "meta", group_by.split(".")[1:]


def _accepted(accept: str | None) -> Format:
    """CSV when the header names it and does not name JSON."""
    named = {part.partition(";")[0].strip().lower() for part in (accept or "").split(",")}
    return "csv" if "text/csv" in named and "application/json" not in named else "json"


def _json(found: UsageWindows, zone: ZoneInfo, asked: dict[str, Any], question: UsageQuestion) -> Response:
    folded_at = found.freshness.folded_at
    return JsonAnswer(
        {
            **asked,
            "aggregation": found.aggregation,
            "uniqueOf": question.unique_of,
            "asOf": None if question.known_at is None else instant(question.known_at),
            "period": {"start": instant(question.edges[0]), "end": instant(question.edges[-1])},
            "usage": [_row(cell, zone) for cell in found.cells],
            "adjustments": found.adjusting,
            "readFrom": found.reader,
            "freshness": {
                "foldedThrough": None if folded_at is None else instant(folded_at),
                "pendingEvents": found.freshness.pending_count,
                "recountPendingDays": found.freshness.recount_days,
            },
        }
    )


def _row(cell: UsageCell, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "start": instant(cell.start),
        "end": instant(cell.end),
        "localStart": cell.start.astimezone(zone).isoformat(),
        "group": cell.group,
        "value": number_or_null(cell.quantity),
        "count": cell.event_count,
        "sum": number(cell.quantity_sum),
        "adjusted": number(cell.adjusted),
        "aggregation": cell.aggregation,
    }


def _csv(found: UsageWindows, zone: ZoneInfo) -> Response:
    rows = (_row(cell, zone) for cell in found.cells)
    text = csv_lines(CSV_HEADER, ([_text(row[name]) for name in CSV_HEADER] for row in rows))
    folded_at = found.freshness.folded_at
    headers = {
        "content-disposition": 'attachment; filename="usage.csv"',
        "x-adjustments": found.adjusting,
        "x-pending-events": str(found.freshness.pending_count),
        "x-recount-pending-days": str(found.freshness.recount_days),
        **({} if folded_at is None else {"x-folded-through": instant(folded_at)}),
    }
    return Response(text, 200, headers, "text/csv; charset=utf-8; header=present")


def _text(value: object) -> str | None:
    if value is None:
        return None
    return bytes(value).decode("ascii") if isinstance(value, msgspec.Raw) else str(value)
