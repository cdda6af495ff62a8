"""Query parameters: their types, bounds and messages, once for every route.

Belongs here: parsing what stands in a URL. Does not: bodies, what a parameter is used for.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Query
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

MAX_TEXT = 255
MAX_CURSOR = 2048
_INSTANT = re.compile(
    r"(?P<head>\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,9}))?(?P<zone>[Zz]|[+-]\d\d:\d\d)"
)


def parse_instant(text: object) -> datetime:
    """The aware UTC instant an RFC 3339 date-time names; digits beyond microseconds are dropped.

    Raises:
        ValueError: not such a text, no zone, or outside the years 0001 to 9999 in UTC.
    """
    found = _INSTANT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(
            "must be an RFC 3339 date-time with a zone, like 2026-11-23T10:00:00Z (in a URL, + is written %2B)"
        )
    fraction = (found["fraction"] or "0")[:6].ljust(6, "0")
    try:
        zoned = datetime.fromisoformat(f"{found['head'].upper()}.{fraction}{found['zone'].upper()}")
        return zoned.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("is not an instant of the years 0001 to 9999 in UTC") from error


def _refuse_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the NUL character")
    return text


Text = Annotated[str, AfterValidator(_refuse_nul)]
Instant = Annotated[datetime, BeforeValidator(parse_instant), WithJsonSchema({"type": "string", "format": "date-time"})]

# An optional parameter is `Annotated[Text | None, Query(...)]`: inside `Annotated[...] | None` FastAPI loses the alias.
_tenant_id = Query(alias="tenantId", min_length=1, max_length=MAX_TEXT, description="Whose account.", examples=["demo"])
_customer_ref = Query(
    alias="customerRef",
    min_length=1,
    max_length=MAX_TEXT,
    description="Whose usage: the tenant's own reference of its customer.",
    examples=["cust_123"],
)
_metric = Query(min_length=1, max_length=MAX_TEXT, description="Name of the metric.", examples=["api_calls"])
_cursor = Query(
    min_length=1,
    max_length=MAX_CURSOR,
    description="`nextCursor` of the page before: no row that stood then is repeated or skipped.",
)

TenantId = Annotated[Text, _tenant_id]
CustomerRef = Annotated[Text, _customer_ref]
OptionalCustomerRef = Annotated[Text | None, _customer_ref]
Metric = Annotated[Text, _metric]
OptionalMetric = Annotated[Text | None, _metric]
OptionalCursor = Annotated[Text | None, _cursor]
Limit = Annotated[int, Query(ge=1, le=100, description="Rows of one page.")]
Source = Literal["sdk", "http", "etl", "import", "system"]
SortDirection = Literal["asc", "desc"]
