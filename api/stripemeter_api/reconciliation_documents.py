"""The documents of /v1/reconciliation, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: comparing (`pipeline.reconcile`).
Members with an underscore are the contract's.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from stripemeter.pipeline.repair import MAX_REASON
from stripemeter.store.reconciliation_periods import MonthStatus
from stripemeter_api.documents import Document, Quantity
from stripemeter_api.parameters import MAX_TEXT, Text

MAX_APPROVALS = 1000
"""`MAX_RECONCILIATION_APPROVALS_PER_REQUEST` of the contract."""
_Text = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]


class _Closed(Document):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class RunStatement(_Closed):
    """Who asks for a comparison."""

    tenant_id: _Text = Field(examples=["demo"])


class RunAccepted(Document):
    """The request is on disk."""

    message: Literal["Reconciliation job queued"]
    job_id: UUID


class RunAnswer(Document):
    """What became of a request."""

    job_id: UUID
    status: Literal["queued", "running", "completed", "failed"]
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: str | None = Field(description="Why it failed.")


class ApprovalStatement(_Closed):
    """Suggestions that a person approves: the surplus at Stripe is taken back by the next push."""

    adjustment_ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_APPROVALS)]
    reason: Annotated[Text, Field(min_length=1, max_length=MAX_REASON)] = Field(examples=["another writer, stopped"])
    tenant_id: _Text | None = Field(default=None, description="Only this tenant's are approved; absent: any tenant's.")
    actor: _Text | None = Field(
        default=None, description="Who approves, for the record; absent: the header `x-actor`, else `api`."
    )


class ApprovalRow(Document):
    """One id's outcome; `already`: approved before, and it is not done twice."""

    id: UUID
    outcome: Literal["applied", "already", "failed"]
    message: str


class ApprovalAnswer(Document):
    """How many; `already` counts as applied."""

    applied: int
    failed: int
    results: list[ApprovalRow]


class ReportRow(Document):
    """One meter and customer of the month."""

    id: str = Field(description="The same for the same mapping, customer and month.")
    tenant_id: str
    subscription_item_id: str = Field(description="`metric:customer`.", examples=["api_calls:cust_123"])
    metric: str
    customer_ref: str
    mode: Literal["shadow", "live"]
    period_start: date
    local_total: Quantity
    stripe_total: Quantity | None = Field(description="Null while Stripe does not answer for one of its days.")
    diff: Quantity | None = Field(description="Ours minus Stripe's.")
    status: MonthStatus
    verdict: Literal["ok", "within_epsilon", "drift", "unknown"] = Field(description="Of its worst day.")
    causes: list[str]
    created_at: datetime = Field(description="When it was last compared.")


class SuggestionRow(Document):
    """A surplus at Stripe that a person may let us take back."""

    id: UUID
    tenant_id: str
    metric: str
    customer_ref: str
    period_start: date = Field(description="UTC day.")
    segment_start: datetime
    delta: Quantity = Field(description="What Stripe would be sent: negative.", examples=[-7])
    reason: Literal["correction"]
    status: Literal["pending"]
    created_at: datetime


class ReportSummary(Document):
    """Counts of the rows by status."""

    total: int
    ok: int
    investigating: int
    resolved: int
    max_diff: Quantity = Field(description="Greatest absolute difference.")


class ReportAnswer(Document):
    """A month, worst first."""

    period: str
    reports: list[ReportRow]
    suggested_adjustments: list[SuggestionRow]
    summary: ReportSummary


class MetricRow(Document):
    """Sums of a metric over the items Stripe answered for."""

    metric: str
    local: Quantity
    stripe: Quantity
    drift_abs: Quantity = Field(alias="drift_abs", description="Sum of each item's absolute difference.")
    drift_pct: Quantity = Field(alias="drift_pct", description="A fraction of `stripe`; 1 where that is 0.")
    items: int
    unknown: int = Field(description="Items Stripe did not answer for; in neither sum.")


class OverallRow(Document):
    """Sums over all metrics."""

    local: Quantity
    stripe: Quantity
    drift_abs: Quantity = Field(alias="drift_abs")
    drift_pct: Quantity = Field(alias="drift_pct")
    metrics: int
    items: int
    unknown: int


class SummaryAnswer(Document):
    """Sums by metric, by name."""

    period_start: str
    period_end: str
    per_metric: list[MetricRow]
    overall: OverallRow
