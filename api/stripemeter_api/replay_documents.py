"""The documents of POST /v1/replay, as OpenAPI shows them.

Belongs here: members, bounds and examples. Does not: what a replay is (`pipeline.replay`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from stripemeter.metering.durations import before
from stripemeter_api.documents import Document, Quantity
from stripemeter_api.parameters import MAX_CURSOR, MAX_TEXT, Text, parse_instant

MAX_METRICS = 100


def moment(text: str, now: datetime) -> datetime:
    """The instant a text means: RFC 3339, `now`, or a duration before now such as -PT24H or -P7D.

    Raises:
        ValueError: none of these.
    """
    if text == "now":
        return now
    return before(text, now) if text.startswith("-P") else parse_instant(text)


def _check_moment(text: str) -> str:
    moment(text, datetime.fromisoformat("9999-01-01T00:00:00+00:00"))
    return text


Moment = Annotated[
    Text,
    AfterValidator(_check_moment),
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [
                {"format": "date-time"},
                {"enum": ["now"]},
                {"pattern": r"^-P([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+S)?)?$"},
            ],
        }
    ),
]


class ReplayStatement(Document):
    """Which days to replay, and whether to change anything."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tenant_id: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)] = Field(examples=["demo"])
    metrics: list[Annotated[Text, Field(min_length=1, max_length=100)]] = Field(
        default=[],
        max_length=MAX_METRICS,
        description="Always reported; empty: all. What else changes is reported too: a day is replayed whole.",
    )
    since: Moment = Field(examples=["-PT24H"])
    until: Moment = Field(default="now", examples=["now"])
    mode: Literal["dry-run", "apply"]
    cursor: Annotated[Text, Field(min_length=1, max_length=MAX_CURSOR)] | None = Field(
        default=None, description="That of the page before; with it, since and until as it answered them."
    )
    watermark: Annotated[Text, Field(min_length=1, max_length=30, pattern="^[0-9]+$")] | None = Field(
        default=None,
        description="That of a dry run of this page: 409 when the days come to something else now; nothing changed.",
    )


class TimeRange(Document):
    """Half-open; the UTC days it touches are replayed."""

    since: datetime
    until: datetime


class ReplayChange(Document):
    """Of one metric or meter. `counterDelta` is of the sum; late events move without changing a number."""

    events_found: int
    late_events: int
    counter_delta: Quantity
    affected_customers: list[str] = Field(description="The first 100.")
    affected_customer_count: int


class ReplaySummary(Document):
    """Of this page. Withheld late events count nowhere, before and after."""

    days: int
    changed_counters: int
    withheld_late_events: int
    pending_late_events: int = Field(description="Of the withheld: they wait for somebody to approve them.")


class ReplayAnswer(Document):
    """One page of at most 31 days."""

    mode: Literal["dry-run", "apply"]
    tenant_id: str
    metrics: list[str]
    time_range: TimeRange
    changes: dict[str, ReplayChange]
    cursor: str | None = Field(description="Null: done.")
    watermark: str = Field(description="Of what the tenant's events make of the page's days.")
    applied: bool
    summary: ReplaySummary
