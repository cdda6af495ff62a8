"""The documents of /v1/access, as OpenAPI shows them.

Belongs here: members and examples of answers. Does not: the rules (`access.dunning`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from stripemeter.access.dunning import NoticeReason, State
from stripemeter_api.documents import Document, Problem


class NoticeRow(Document):
    """Something the customer should be told. StripeMeter sends nothing itself."""

    at: datetime = Field(description="Since when it is due.")
    reason: NoticeReason
    invoice_id: str | None = Field(description="Whose payment failed; null: it is about all that is owed.")


class StandingMembers(Document):
    """How the customer stands."""

    allowed: bool
    state: State = Field(
        description="past_due: something is owed and no retry is known to come; retry_scheduled: one is; recovered: "
        "what was owed was paid lately."
    )
    reason: str = Field(examples=["nothing is owed", "no payment known"])
    judged: list[Literal["payments"]] = Field(description="What the answer looks at; no cap on usage is.")
    customer_ref: str = Field(description="The customer's own reference, an alias resolved.")
    metric: str | None = Field(description="As asked; payments are the same for every metric.")
    at: datetime = Field(description="The instant the answer is about.")
    since: datetime | None = Field(description="Of owing; of having paid, when recovered.")
    blocked_at: datetime | None = Field(description="When what is owed blocks, or did; null: nothing is owed.")
    next_attempt_at: datetime | None = Field(description="When Stripe tries again.")
    unpaid_invoices: list[str] = Field(examples=[["in_1"]])
    notices: list[NoticeRow] = Field(description="Due since the trouble at hand began, oldest first.")


class AccessAnswer(StandingMembers):
    """The customer may go on."""

    allowed: Literal[True]


class PaymentRequiredProblem(Problem, StandingMembers):
    """The customer may not: a problem document with the same members."""

    allowed: Literal[False]
