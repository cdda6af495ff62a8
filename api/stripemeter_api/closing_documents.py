"""The documents of /v1/closings, as OpenAPI shows them.

Belongs here: members and examples of answers. Does not: closing (`pipeline.closing`).
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from stripemeter.metering.closings import ClosingState, Control
from stripemeter_api.documents import Document, Quantity


class ProofLineRow(Document):
    """An item at a price over `[startsAt, endsAt)`."""

    meter: str = Field(examples=["api_calls"])
    subscription_item_id: str
    price_id: str
    starts_at: datetime
    ends_at: datetime
    counted: Quantity | None = Field(description="Ours; null: our billing windows are not Stripe's.")
    pushed: Quantity | None = Field(description="What Stripe acknowledged.")
    billed: Quantity = Field(description="On the final invoice, its tiers added up.")
    difference: Quantity | None = Field(description="counted minus billed.")
    pushed_late: Quantity = Field(description="Where they differ: what Stripe got after the invoice was final.")
    late_identifiers: list[str] = Field(description="The first of those events.")
    currency: str = Field(examples=["usd"])
    billed_minor: int = Field(description="In minor units, before discounts and taxes.")
    priced_minor: int | None = Field(description="By our own price function; null: `unpriced` says why.")
    rounding: str = Field(description="The direction of fractions the two were compared under.", examples=["half_up"])
    unpriced: str


class ProofAnswer(Document):
    """What a closed invoice bills against what was counted. Written once, never changed."""

    is_equal: bool
    proven_at: datetime
    evidence: str = Field(description="What was compared, as JSON text.")
    evidence_sha256: str = Field(description="Of `evidence`, in hexadecimal.")
    lines: list[ProofLineRow]


class ClosingRow(Document):
    """An invoice with usage of the tenant on it, and how far its closing is."""

    invoice_id: str = Field(examples=["in_1"])
    stripe_account: str
    customer_ref: str
    mode: str = Field(examples=["live"])
    control: Control = Field(description="control: held until it is right, and finalized by us.")
    state: ClosingState
    message: str = Field(description="What it waits for, or why it failed.")
    created_at: datetime = Field(description="When Stripe made the draft.")
    finalizes_at: datetime | None = Field(description="When Stripe said it would finalize it.")
    settles_at: datetime = Field(description="From when on no usage joins it by itself.")
    is_grace_short: bool
    finalized_at: datetime | None
    closed_at: datetime | None
    released_at: datetime | None
    released_by: str | None
    release_reason: str | None


class ClosingAnswer(ClosingRow):
    """One invoice; `proof` is null while it is not closed."""

    proof: ProofAnswer | None


class ClosingPage(Document):
    """Invoices, newest first."""

    closings: list[ClosingRow]
    has_more: bool
    next_cursor: str | None
