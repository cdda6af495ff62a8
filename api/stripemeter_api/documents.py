"""The documents of the HTTP contract, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: parsing or encoding; the routes answer
with exact JSON of their own (`answers.py`), and a test holds them to these models.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from stripemeter.metering.meters import Aggregation
from stripemeter.store.usage_windows import Adjusting

Quantity = Annotated[Decimal, WithJsonSchema({"type": "number", "description": "Exact decimal, no exponent."})]
IncomingQuantity = Annotated[
    Decimal,
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}],
            "description": "At least 0, a number or a decimal string; at most 26 digits and 12 decimals.",
        }
    ),
]
SourceName = Literal["sdk", "http", "etl", "import", "system"]


class Document(BaseModel):
    """camelCase on the wire, snake_case here."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class ProblemItem(BaseModel):
    """What is wrong where."""

    path: str = Field(examples=["limit"])
    message: str = Field(examples=["Input should be less than or equal to 100"])


class Problem(BaseModel):
    """RFC 9457, plus `error` and `message` as the original had them."""

    type: str = Field(examples=["urn:stripemeter:problem:invalid_input"])
    title: str = Field(examples=["Bad Request"])
    status: int = Field(examples=[400])
    detail: str
    code: str = Field(description="Stable.", examples=["invalid_input"])
    request_id: str
    error: str = Field(examples=["Validation Error"])
    message: str
    errors: list[ProblemItem] | None = None


class IncomingEvent(Document):
    """One fact a customer's system reports."""

    tenant_id: str = Field(min_length=1, max_length=255, examples=["demo"])
    metric: str = Field(min_length=1, max_length=100, examples=["api_calls"])
    customer_ref: str = Field(min_length=1, max_length=255, examples=["cust_123"])
    resource_id: str | None = Field(default=None, max_length=255)
    quantity: IncomingQuantity = Field(examples=[5])
    ts: datetime = Field(
        description="When it happened; with a zone, at most 1 hour ahead of now.", examples=["2025-01-01T00:00:00Z"]
    )
    meta: dict[str, Any] | None = Field(default=None, description="At most 4096 bytes of JSON.")
    idempotency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        description="The same key never counts twice. Default: the Idempotency-Key header, else a hash of the event.",
        examples=["evt-1"],
    )
    source: SourceName = "http"


class IngestRequest(Document):
    """Events to accept, in any order; all are validated before any is stored."""

    events: list[IncomingEvent] = Field(min_length=1, max_length=1000)


class IngestResult(Document):
    """What one event came to."""

    index: int
    idempotency_key: str
    status: Literal["accepted", "duplicate", "conflict", "error"]
    error: str | None = None
    code: str | None = None


class IngestError(Document):
    """An event that was not accepted."""

    index: int
    error: str
    code: str | None = None


class IngestAnswer(Document):
    """Durable: an event answered `accepted` is on disk. `results` is in the order of the request."""

    accepted: int = Field(examples=[1])
    duplicates: int = Field(examples=[0])
    conflicts: int = Field(examples=[0])
    request_id: str
    results: list[IngestResult]
    errors: list[IngestError] | None = None


class IngestProblemItem(ProblemItem):
    """What is wrong where; `index` is the event's, -1 when the body as a whole is meant."""

    index: int
    error: str


class IngestProblem(Problem):
    """Nothing of the request was stored."""

    accepted: Literal[0] = 0
    duplicates: Literal[0] = 0
    conflicts: Literal[0] = 0
    requestId: str  # noqa: N815 - the original's member, beside request_id
    errors: list[IngestProblemItem]  # type: ignore[assignment]


class EventRow(Document):
    """One event of the ledger. `id` is its idempotency key."""

    id: str
    tenant_id: str
    metric: str
    customer_ref: str
    resource_id: str | None = None
    quantity: Quantity
    timestamp: datetime
    received_at: datetime
    meta: dict[str, Any] | None
    source: SourceName
    voided_at: datetime | None = Field(default=None, description="Since when it counts nowhere; absent: it counts.")
    replaced_by: str | None = Field(default=None, description="Idempotency key of the event in its place.")


class EventPage(Document):
    """One page of events. `total` is counted for a first page only: a page asked for by cursor leaves it out."""

    total: int | None = None
    events: list[EventRow]
    has_more: bool
    next_cursor: str | None = Field(description="Ask for the next page with it; null on the last page.")


class Payload(Document):
    """What one event said."""

    metric: str
    customer_ref: str
    resource_id: str | None = None
    quantity: Quantity
    timestamp: datetime
    meta: dict[str, Any] | None
    source: SourceName
    received_at: datetime


class ConflictRow(Document):
    """A key that came again with a different payload: the first stands and counts, the other never does."""

    idempotency_key: str
    standing: Payload | None
    refused: Payload
    times_refused: int = Field(description="How often the refused payload arrived.")
    last_refused_at: datetime


class ConflictPage(Document):
    """One page of conflicts, newest first."""

    conflicts: list[ConflictRow]
    has_more: bool
    next_cursor: str | None


class Period(Document):
    """Half-open: start is in, end is not."""

    start: datetime
    end: datetime


class FreshnessDocument(Document):
    """The answer holds every event accepted before it; this says how much of it the counters held already."""

    folded_through: datetime | None = Field(
        description="When the counters last advanced; null before their first time."
    )
    pending_events: int = Field(
        description="Events of this answer read from the ledger because they are not counted yet."
    )
    recount_pending_days: int = Field(
        description="Days of the tenant that wait to be counted again, because a rule they were counted by changed: "
        "until it is 0, some counters may still follow the old rule."
    )


class MetricUsage(Document):
    """Usage of one metric; `current` is what its aggregation makes of it."""

    name: str = Field(examples=["api_calls"])
    current: Quantity
    unit: str = Field(examples=["unit"], description="`unit-second` where levels are weighted by time.")
    aggregation: Aggregation
    count: int
    sum: Quantity
    min: Quantity | None
    max: Quantity | None
    last: Quantity | None
    adjusted: Quantity = Field(description="Sum of the approved manual adjustments; `current` includes it.")
    period: Period | None = Field(description="Of a metric whose billing period is not that of its customer.")


class UsageAnswer(Document):
    """Usage of a billing period. A metric without events and adjustments is absent."""

    customer_ref: str
    period: Period
    metrics: list[MetricUsage]
    alerts: list[dict[str, Any]]
    freshness: FreshnessDocument


class UsagePoint(Document):
    """Usage of one bucket; null where min, max, last, avg or percentile has no event to speak of."""

    ts: datetime = Field(description="Start of the UTC day or month.")
    value: Quantity | None
    aggregation: Aggregation = Field(description="How this bucket counts: a meter may have changed in between.")
    adjusted: Quantity = Field(description="Sum of the approved manual adjustments; `value` includes it.")


class HistoryAnswer(Document):
    """Every bucket of the period, ascending; the period is widened to whole UTC days."""

    usage: list[UsagePoint]
    period: Period
    aggregation: Aggregation = Field(description="That of the last bucket.")
    freshness: FreshnessDocument


class QueryPoint(Document):
    """Usage of one window of one group; null where min, max, last or avg has no event to speak of."""

    start: datetime
    end: datetime = Field(description="The start of the next window: half-open.")
    local_start: str = Field(
        description="`start` on the clock of the time zone, with its offset: the hour an autumn night repeats is two.",
        examples=["2026-10-25T00:00:00+02:00"],
    )
    group: str | None = Field(description="Value of `groupBy`; null where events have none, or nothing is grouped by.")
    value: Quantity | None = Field(description="What the aggregation makes of the events.")
    count: int = Field(description="Events.")
    sum: Quantity = Field(description="Sum of their quantities, exact.")
    adjusted: Quantity = Field(description="Sum of the approved manual adjustments in `value`.")
    aggregation: Aggregation = Field(description="What makes `value`: a meter may have changed in between.")


class QueryAnswer(Document):
    """Every window of every group, by window, then group."""

    metric: str
    window: Literal["minute", "hour", "day", "week", "month"]
    time_zone: str
    group_by: str | None
    aggregation: Aggregation = Field(description="That of the last window.")
    unique_of: Literal["customerRef", "resourceId"] | None
    as_of: datetime | None
    period: Period
    usage: list[QueryPoint]
    adjustments: Adjusting = Field(
        description="Whether approved manual adjustments are in the values; else why not: `other_aggregation` than the "
        "metric's own, `grouped` finer than by customer, `filtered` by something else than it."
    )
    read_from: Literal["counters", "ledger"] = Field(description="Which of the two answered; the numbers are the same.")
    freshness: FreshnessDocument


class HealthAnswer(Document):
    """The process answers."""

    status: Literal["ok"]
    timestamp: datetime


class LiveAnswer(Document):
    """The process lives."""

    status: Literal["alive"]


class ReadyChecks(Document):
    """What was found working just now."""

    database: bool
    fold: bool
    workers: bool
    stripe: bool


class ReadyMetrics(Document):
    """Measured, or null where there is nothing to measure yet."""

    events_per_second: float | None = Field(description="Accepted, over all API workers, over up to the last minute.")
    writer_lag: float | None = Field(description="Seconds the oldest accepted event has waited to be counted.")
    reconciliation_diff: float | None = Field(description="Greatest difference with Stripe, in units of its meter.")


class ReadyAnswer(Document):
    """Whether this service can do its work; `reasons` has one sentence for everything that is not well."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    checks: ReadyChecks
    reasons: list[str]
    metrics: ReadyMetrics
