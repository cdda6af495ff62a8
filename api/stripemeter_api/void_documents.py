"""The documents of /v1/events/void, as OpenAPI shows them.

Belongs here: members, bounds and examples. Does not: reading a replacement: `metering.replacements` reads it as it was
sent and names the member that is wrong.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SkipValidation
from pydantic.alias_generators import to_camel

from stripemeter_api.documents import Document, IncomingQuantity, SourceName
from stripemeter_api.parameters import MAX_TEXT, Text


class ReplacementEvent(Document):
    """An event of the same tenant."""

    metric: str = Field(min_length=1, max_length=100, examples=["api_calls"])
    customer_ref: str = Field(min_length=1, max_length=MAX_TEXT, examples=["cust_123"])
    resource_id: str | None = Field(default=None, max_length=MAX_TEXT)
    quantity: IncomingQuantity = Field(examples=[4])
    ts: datetime = Field(
        description="When it happened; with a zone, at most 1 hour ahead of now.", examples=["2025-01-01T00:00:00Z"]
    )
    meta: dict[str, Any] | None = Field(default=None, description="At most 4096 bytes of JSON.")
    idempotency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_TEXT,
        description="Another than the voided event's. Absent: that key and `#2` (after `#2` comes `#3`).",
        examples=["evt-1#2"],
    )
    source: SourceName = "http"


class VoidRequest(Document):
    """Which event is to count nowhere, and why."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tenant_id: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["demo"])]
    idempotency_key: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["evt-1"])]
    reason: Annotated[Text, Field(min_length=1, max_length=500, examples=["sent twice under two keys"])]
    actor: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)] | None = Field(
        None, description="Who asks, for the record; absent: the header `x-actor`, else `api`."
    )
    replacement: SkipValidation[ReplacementEvent | None] = Field(
        None, description="What counts in its place: stored in the same transaction, or nothing happens."
    )


class VoidedEventDocument(Document):
    """An event that stays in the ledger and counts nowhere."""

    id: str = Field(description="Its idempotency key: it stays taken.")
    metric: str
    customer_ref: str
    timestamp: datetime
    voided_at: datetime
    reason: str
    actor: str
    replaced_by: str | None = Field(description="Idempotency key of the event in its place.")


class ReplacementResult(Document):
    """What the replacement came to: `duplicate` when this was a retry."""

    idempotency_key: str
    status: Literal["accepted", "duplicate"]


class VoidAnswer(Document):
    """Usage follows from this answer on."""

    voided: Literal[True, "already"] = Field(description="`already`: an earlier request did it; nothing changed.")
    event: VoidedEventDocument
    replacement: ReplacementResult | None = None
