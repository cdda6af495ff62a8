"""The documents of /v1/adjustments and /v1/policies, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: which transition is allowed
(`pipeline.adjustments`).
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from stripemeter.metering.rulebook import LateApproval
from stripemeter.store.adjustments import Action, Period, Reason, Status
from stripemeter_api.documents import Document, Quantity
from stripemeter_api.meter_documents import Day
from stripemeter_api.parameters import MAX_TEXT, Text

MAX_NOTE = 1000
MAX_SECONDS = 10 * 366 * 86_400
"""Ten years: more is not a window but none."""
MAX_WINDOWS = 1000
_DELTA = re.compile(r"-?[0-9]{1,26}(\.[0-9]{1,12})?")

GivenReason = Literal["backfill", "correction", "promo", "credit", "manual"]


def _parse_delta(value: object) -> Decimal:
    """The exact decimal of a JSON number or decimal text."""
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    text = format(value, "f") if is_number else value
    if isinstance(text, str) and "." in text and is_number:
        text = text.rstrip("0").rstrip(".")
    if not isinstance(text, str) or not _DELTA.fullmatch(text):
        raise ValueError("must be a number or decimal text of at most 26 digits and 12 decimals")
    return Decimal(text)


Delta = Annotated[
    Decimal,
    BeforeValidator(_parse_delta),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[0-9]{1,26}(\.[0-9]{1,12})?$"}],
            "description": "Signed, not 0; at most 26 digits and 12 decimals, within MAX_ADJUSTMENT_DELTA.",
        }
    ),
]
_Text = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]
_Actor = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]
_Note = Annotated[Text, Field(min_length=1, max_length=MAX_NOTE)]
_Seconds = Annotated[int, Field(ge=0, le=MAX_SECONDS, strict=True)]


class _Closed(Document):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class AdjustmentStatement(_Closed):
    """A correction somebody asks for. It counts once it is approved."""

    tenant_id: _Text = Field(examples=["demo"])
    metric: Annotated[Text, Field(min_length=1, max_length=100)] = Field(examples=["api_calls"])
    customer_ref: _Text = Field(examples=["cust_123"])
    period_start: Day = Field(description="UTC day it changes; of a month its first.", examples=["2026-11-01"])
    period: Period = Field(default="day", description="`month`: a correction of the month as a whole.")
    delta: Delta = Field(examples=[-5])
    reason: GivenReason
    request_id: _Text | None = Field(default=None, description="A retry with the same is the same adjustment.")
    note: _Note | None = None
    actor: _Actor | None = Field(
        default=None, description="Who asks, for the record; absent: the header `x-actor`, else `api`."
    )


class DecisionStatement(_Closed):
    """Who decides, and why."""

    tenant_id: _Text = Field(examples=["demo"])
    note: _Note | None = None
    actor: _Actor | None = Field(
        default=None, description="Who asks, for the record; absent: the header `x-actor`, else `api`."
    )


class TransitionRow(Document):
    """One change of an adjustment; never altered."""

    action: Action
    status_before: Status | None
    status_after: Status
    actor: str
    request_id: str | None
    note: str | None
    happened_at: datetime


class AdjustmentRow(Document):
    """One adjustment. The last members belong to late events."""

    id: UUID
    tenant_id: str
    metric: str
    customer_ref: str
    period_start: date
    period: Period
    delta: Quantity | None = Field(description="Null where a late event alone has no delta (unique, avg, ...).")
    reason: Reason
    status: Status
    request_id: str | None
    note: str | None
    actor: str
    created_at: datetime
    updated_at: datetime
    effective_at: datetime = Field(description="Decides the segment: the start of the day, or the event's ts.")
    event_id: str | None = Field(description="Idempotency key of the late event.")


class AdjustmentAnswer(AdjustmentRow):
    """One adjustment with its audit, oldest first."""

    transitions: list[TransitionRow]


class AdjustmentPage(Document):
    """Newest first."""

    adjustments: list[AdjustmentRow]
    has_more: bool
    next_cursor: str | None


class DecisionAnswer(Document):
    """`already`: it was so before; nothing changed."""

    ok: Literal[True]
    already: bool | None = None


class PolicyStatement(_Closed):
    """What a tenant decides; absent members stay."""

    tenant_id: _Text = Field(examples=["demo"])
    late_approval: LateApproval | None = Field(
        default=None, description="When a late event counts without a person: while its segment is open, always, never."
    )
    close_after_seconds: _Seconds | None = Field(
        default=None, description="How long after its end a segment is open; 172800 by default."
    )
    four_eyes: bool | None = Field(default=None, description="Its creator may not approve an adjustment.", strict=True)
    lateness_windows: dict[Annotated[Text, Field(min_length=1, max_length=100)], _Seconds | None] | None = Field(
        default=None,
        max_length=MAX_WINDOWS,
        description="Seconds an event of a metric may be behind and still fold; null: 172800 again.",
    )


class PolicyAnswer(Document):
    """What holds for a tenant; metrics without a window of their own have 172800 seconds."""

    tenant_id: str
    late_approval: LateApproval
    close_after_seconds: int
    four_eyes: bool
    lateness_windows: dict[str, int]
