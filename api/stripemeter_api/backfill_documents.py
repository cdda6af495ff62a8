"""The documents of /v1/events/backfill, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: what a row must look like: one that is no
event fails by itself and is counted (`metering.rows`).
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from stripemeter_api.documents import Document
from stripemeter_api.meter_documents import Day
from stripemeter_api.parameters import MAX_TEXT, Text

Status = Literal["pending", "processing", "completed", "failed", "cancelled"]
MAX_REASON = 500

_Tenant = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["demo"])]
_Reason = Annotated[Text, Field(min_length=1, max_length=MAX_REASON, examples=["import of January"])]
_Actor = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]
# How many is a setting, so the bound in the document is the default's.
_Events = Annotated[
    list[dict[str, Any]],
    WithJsonSchema({"type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": 5000}),
]


class _Closed(Document):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class BackfillStatement(_Closed):
    """Old usage to load. Of `events`, `csvData` and `sourceUrl` the first given is meant."""

    tenant_id: _Tenant = Field(description="Every row belongs to it: one that names another fails.")
    metric: Annotated[Text, Field(min_length=1, max_length=100, examples=["api_calls"])] = Field(
        description="Metric of rows that name none; rows of another are skipped."
    )
    customer_ref: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)] | None = Field(
        default=None, description="Customer of rows that name none; rows of another are skipped."
    )
    period_start: Day = Field(description="First UTC day; earlier rows are skipped.", examples=["2026-01-01"])
    period_end: Day | None = Field(
        default=None, description="Last UTC day, included; later rows are skipped. Absent: that of the start."
    )
    reason: _Reason
    actor: _Actor | None = Field(
        default=None, description="Who asks, for the record; absent: the header `x-actor`, else `api`."
    )
    events: _Events | None = Field(
        default=None,
        description="Rows as JSON objects: members as in `POST /v1/events/ingest`, those above may be left out; "
        "`source` is `import` unless said.",
        examples=[[{"customerRef": "cust_123", "quantity": 5, "ts": "2026-01-01T00:00:00Z"}]],
    )
    csv_data: Annotated[Text, Field(min_length=1)] | None = Field(
        default=None, description="Rows as CSV with a heading.", examples=["customerRef,quantity,ts\n"]
    )
    source_url: Text | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        description="An object in S3: s3://BUCKET/KEY, ending .csv, .jsonl, .ndjson, .parquet or .pq, in a folder "
        "the operator named; otherwise 400.",
        examples=["s3://bucket/2026/usage.parquet"],
    )


class BackfillAccepted(Document):
    """Durable: it is run even if this process dies now."""

    operation_id: UUID
    status: Literal["pending"]
    message: str = Field(examples=["Backfill operation queued successfully"])


class BackfillTenant(_Closed):
    """Whose operation; absent: anybody's."""

    tenant_id: _Tenant | None = None


class RevertStatement(_Closed):
    """Why every event of an operation is to count nowhere, and who wants it."""

    tenant_id: _Tenant
    reason: _Reason
    actor: _Actor | None = Field(
        default=None, description="Who asks, for the record; absent: the header `x-actor`, else `api`."
    )


class BackfillRow(Document):
    """One operation. accepted + duplicate + conflict + failed + skipped = processed, at every moment."""

    id: UUID
    tenant_id: str
    metric: str | None
    customer_ref: str | None
    period_start: date | None
    period_end: date | None
    status: Status
    reason: str
    actor: str
    total_events: int | None = Field(
        description="Rows of the source; null while nobody has counted them, of CSV and JSON Lines in S3 until it ends."
    )
    processed_events: int
    accepted_events: int
    duplicate_events: int
    conflict_events: int
    failed_events: int
    skipped_events: int = Field(description="Rows of other metrics, customers or days than asked for.")
    source_type: Literal["file", "url", "csv", "events"]
    error_message: str | None = Field(description="Why it failed, or does not go on for now.")
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    voided_events: int = Field(description="Voided by its revert so far; events voided before are not in it.")
    revert_reason: str | None = Field(description="Set when a revert was asked for.")
    reverted_by: str | None
    reverted_at: datetime | None = Field(description="When every event was voided; null while the revert goes on.")


class BackfillError(Document):
    """A row that was not taken. `row` counts from 1, without heading and empty lines; `field` may be empty."""

    row: int
    field: str
    code: str
    message: str


class BackfillAnswer(BackfillRow):
    """One operation with the beginning of its error report."""

    errors: list[BackfillError] = Field(description="The first hundred.")
    error_report: str | None = Field(
        description="All of them (up to 16 MiB), a JSON line each: a file in the state directory of the server, kept "
        "for 90 days after the end unless the operator says otherwise."
    )


class BackfillPage(Document):
    """Newest first. `total` is counted for a first page only: a page asked for by cursor leaves it out."""

    operations: list[BackfillRow]
    total: int | None = None
    has_more: bool
    next_cursor: str | None
