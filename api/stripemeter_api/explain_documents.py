"""The documents of /v1/explain, as OpenAPI shows them.

Belongs here: members and what they mean. Does not: explaining (`pipeline.explain`).
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from stripemeter.metering.explanations import EventState, Lane
from stripemeter.metering.meters import Aggregation, Unread
from stripemeter_api.documents import Document, Payload, Period, Quantity, SourceName

LateStatus = Literal["pending", "approved", "rejected", "reverted", "absorbed"]
_STATE = (
    "`counted`: in the counters; `late`: too late to be counted like any other, its adjustment says whether it counts; "
    "`pending_fold`: not in the counters yet, but in every read unless so late that it will wait for approval; "
    "`voided`: counts nowhere; `unmatched`: no meter reads it."
)
_REASON = (
    "Why the meter does not count it: its `metric` is another, the `filter` refuses, the value is missing, or it is no "
    "number a quantity can be."
)
_LANE = "`late`: counted by an approved adjustment, beside the counters; `main`: by the counters."
_DIMENSIONS = "Values by path; null without dimensions. Beyond `maxGroups`, counters share one row, `other`."


class ExplainedAdjustment(Document):
    """The adjustment of a late event."""

    id: UUID
    status: LateStatus


class ExplainedVoid(Document):
    """Why it counts nowhere."""

    voided_at: datetime
    reason: str
    actor: str
    request_id: str | None = Field(description="Of the HTTP request that voided it; null: not one.")
    replaced_by: str | None = Field(description="Idempotency key of the event in its place.")


class ReadingDocument(Document):
    """What a meter reads of an event, and where."""

    meter: str
    version: int | None = Field(description="Of the meter; null: the implicit one of the metric.")
    customer_ref: str = Field(description="The customer's own reference.")
    day: date
    segment: Period
    dimensions: Any = Field(description=_DIMENSIONS)
    quantity: Quantity
    lane: Lane = Field(description=_LANE)


class RefusalDocument(Document):
    """A meter of the day that does not count the event."""

    meter: str
    version: int
    reason: Unread = Field(description=_REASON)


class LedgerEventDocument(Document):
    """An event as it stands in the ledger."""

    id: str = Field(description="Its idempotency key.")
    metric: str
    customer_ref: str
    resource_id: str | None = None
    quantity: Quantity
    timestamp: datetime
    received_at: datetime
    source: SourceName
    backfill_id: UUID | None = Field(description="The import that brought it; null: it came over HTTP.")
    batch: str | None = Field(
        description="The transaction that stored it: events of one batch share it; null once it is in the lake alone."
    )


class ConflictingPayload(Payload):
    """A payload that was refused because the key was taken."""

    times_refused: int
    last_refused_at: datetime


class ExplainEventAnswer(Document):
    """What became of an event. `readings` say what it is or would be: `isCounting` whether it is in the counters."""

    event: LedgerEventDocument
    meta: dict[str, Any] | None
    state: EventState = Field(description=_STATE)
    is_counting: bool
    adjustment: ExplainedAdjustment | None
    void: ExplainedVoid | None
    readings: list[ReadingDocument]
    refusals: list[RefusalDocument]
    conflicts: list[ConflictingPayload] = Field(description="Other payloads that came under its key; none counts.")
    is_recount_pending: bool = Field(
        description="Its day waits to be counted again: the counters may still follow other rules."
    )


class ExplainedCounter(Document):
    """One row of the counters. `quantity` is what the aggregation makes of it alone; null where that needs more."""

    day: date
    segment: Period
    dimensions: Any = Field(description=_DIMENSIONS)
    lane: Lane = Field(description=_LANE)
    quantity: Quantity | None
    count: int
    sum: Quantity
    min: Quantity
    max: Quantity
    last: Quantity


class UsageAdjustment(Document):
    """An adjustment of the days. A late event's is the event itself: `eventId` is its idempotency key."""

    id: UUID
    reason: Literal["backfill", "correction", "promo", "credit", "manual", "late_event"]
    status: LateStatus
    period: Literal["day", "month"]
    day: date
    delta: Quantity | None
    actor: str
    note: str | None
    event_id: str | None
    created_at: datetime


class VersionSpanDocument(Document):
    """Which version counts which days, both included; `version` null: the implicit meter of a metric so named."""

    version: int | None
    first_day: date
    last_day: date
    definition: dict[str, Any] | None


class UsageEventDocument(LedgerEventDocument):
    """An event of the meter's metrics, and what the meter reads of it or why nothing."""

    state: EventState = Field(description=_STATE)
    is_counting: bool
    reading: ReadingDocument | None
    reason: Unread | None = Field(description=_REASON)


class ExplainUsageAnswer(Document):
    """What usage is made of. Events come in pages, oldest first; all else is whole on every page."""

    customer_ref: str = Field(description="The customer's own reference.")
    references: list[str] = Field(description="Every reference that means the customer.")
    metric: str
    aggregation: Aggregation
    first_day: date
    last_day: date
    counters: list[ExplainedCounter]
    adjustments: list[UsageAdjustment] = Field(description="The oldest 1000.")
    has_more_adjustments: bool = Field(description="There are more: `GET /v1/adjustments` lists all of them by cursor.")
    versions: list[VersionSpanDocument]
    events: list[UsageEventDocument]
    has_more: bool
    next_cursor: str | None
    is_in_lake: bool = Field(
        description="A month was dropped from Postgres: the lake alone has its events; they are in the pages as ever."
    )
    is_recount_pending: bool
