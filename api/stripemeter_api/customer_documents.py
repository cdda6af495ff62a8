"""The documents of /v1/customers, as OpenAPI shows them.

Belongs here: members, bounds and examples of requests and answers. Does not: what they change (`pipeline.customers`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from stripemeter.metering.segments import Cadence
from stripemeter_api.documents import Document, Period
from stripemeter_api.parameters import MAX_TEXT, Instant, Text

MAX_ALIASES = 200
MAX_PHASES = 500
"""A price change a month for forty years."""

_Ref = Annotated[Text, Field(min_length=1, max_length=MAX_TEXT)]
_Meter = Annotated[Text, Field(min_length=1, max_length=100)]
_Reason = Annotated[Text, Field(min_length=1, max_length=500)]
_Count = Annotated[int, Field(ge=1, le=366, strict=True, description="Cadences of one segment.")]


class Statement(Document):
    """What somebody says: a member nobody knows is a mistake, not a wish to ignore."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class BillingStatement(Statement):
    """One rhythm for all of time."""

    cadence: Cadence
    count: _Count = 1
    anchor_at: Instant | None = Field(
        None,
        description="A boundary all others are counted from, both ways, to the second; a month without its day has its "
        "last day instead. Absent: calendar windows, weeks from Monday.",
        examples=["2026-01-31T09:30:00Z"],
    )


class PhaseStatement(BillingStatement):
    """A rhythm from an instant on, until the next phase."""

    starts_at: Instant | None = Field(None, description="Always a boundary; absent: the phase always held.")
    meter: _Meter | None = Field(None, description="Absent: every meter without phases of its own.")
    reason: _Reason = "billing"


class ItemStatement(Statement):
    """Which subscription item bills a meter."""

    meter: _Meter
    item_id: _Ref = Field(examples=["si_123"])


class StripeStatement(Statement):
    """Which Stripe customer a customer is. Stripe is not asked."""

    account_id: _Ref | None = Field(None, description="Absent: the tenant's only one.", examples=["acct_123"])
    customer_id: _Ref = Field(examples=["cus_123"])
    subscription_id: _Ref | None = Field(None, description="Of the items.", examples=["sub_123"])
    items: list[ItemStatement] | None = Field(None, max_length=100, description="Absent: as they are.")


class CustomerStatement(Statement):
    """What is to be so of a customer; absent members stay as they are."""

    time_zone: Annotated[Text, Field(max_length=MAX_TEXT)] | None = Field(
        None, description="IANA name, for display and calendar periods.", examples=["Europe/Berlin"]
    )
    aliases: list[_Ref] | None = Field(
        None, max_length=MAX_ALIASES, description="Every other reference of the customer: their events are its events."
    )
    billing: BillingStatement | None = Field(
        None, description="The one rhythm of every meter without phases of its own; not beside phases."
    )
    phases: list[PhaseStatement] | None = Field(
        None, max_length=MAX_PHASES, description="Every phase of every meter; not beside billing."
    )
    stripe: StripeStatement | None = None


class SplitStatement(Statement):
    """Where a segment is to be cut, and why."""

    tenant_id: _Ref = Field(examples=["demo"])
    at: Instant = Field(description="First instant of the new segment, a whole second.")
    meter: _Meter | None = Field(None, description="Absent: every meter without phases of its own.")
    reason: _Reason = Field(examples=["price change"])


class PhaseDocument(Document):
    """How segments are cut from an instant on."""

    meter: str | None = Field(description="Null: every meter without phases of its own.")
    starts_at: datetime | None = Field(description="Null: it always held.")
    cadence: Cadence
    count: int
    anchor_at: datetime
    reason: str


class ItemDocument(Document):
    """Which subscription item bills a meter."""

    meter: str
    subscription_id: str
    item_id: str


class StripeDocument(Document):
    """Which Stripe customer a customer is at an account, and its items there."""

    account_id: str
    customer_id: str
    items: list[ItemDocument]


class CustomerDocument(Document):
    """A customer; the defaults while nobody said anything about it."""

    customer_ref: str
    time_zone: str
    aliases: list[str]
    phases: list[PhaseDocument] = Field(description="None: the UTC calendar month.")
    stripe: list[StripeDocument]
    created_at: datetime | None = Field(description="Null: nobody said anything about it.")
    updated_at: datetime | None


class CustomerAnswer(CustomerDocument):
    """A customer and its segment at an instant."""

    segment: Period


class ChangedCustomerAnswer(CustomerAnswer):
    """A customer after a change."""

    recount_pending_days: int = Field(
        description="Days of the tenant that still wait to be counted by the new rules; within seconds it is 0."
    )


class CustomerPage(Document):
    """Customers somebody said something about, by reference."""

    customers: list[CustomerDocument]
    has_more: bool
    next_cursor: str | None
