"""Entries: what can happen in a story.

Belongs here: the typed entries of a timeline. Does not: reading them (`timelines`), making them happen (`playing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from stripemeter.metering.segments import BillingPhase
from stripemeter.pricing import CreditGrant, Discount, MinimumCommitment, PrepaidCommitment, Price
from stripemeter.simulation.traffic import Delivery, Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Hold a plan from now on; the first one says how the customer's time is cut."""

    customer_ref: str
    plan: str
    phase: BillingPhase | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Hold another plan instead of one."""

    customer_ref: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Hold a plan no longer; what was owed until now is on the invoice of the period."""

    customer_ref: str
    plan: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reprice:
    """Another price of a plan's metric, from now on and for all who hold the plan."""

    plan: str
    metric: str
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Events that arrive now."""

    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantCredit:
    """Credit, by its reason."""

    customer_ref: str
    grant: CreditGrant


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveExpiry:
    """Another expiry of a credit grant: later rolls it over, now ends it."""

    customer_ref: str
    reason: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A commitment, by its name; a minimum is owed of every period that ends after now."""

    customer_ref: str
    commitment: PrepaidCommitment | MinimumCommitment


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduce:
    """A discount of every period that ends after now and begins before it ends."""

    customer_ref: str
    discount: Discount
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjust:
    """An approved adjustment of a metric's usage, with effect at an instant."""

    customer_ref: str
    metric: str
    delta: Decimal
    effective_at: datetime


@dataclass(frozen=True, slots=True)
class ApproveLate:
    """Let every late event count that waits for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payments:
    """Whether the customer's payments succeed from now on; they do until something else is said."""

    customer_ref: str
    succeed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PayNow:
    """The customer pays everything that is open."""

    customer_ref: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What should be seen now.

    Args:
        customer_ref: of whom.
        span: of the usage; None: the billing period that holds the instant.
        expected: in the shape of STATE.
    """

    customer_ref: str
    span: tuple[datetime, datetime] | None
    expected: Mapping[str, Any]


Action = (
    Subscribe
    | Change
    | Cancel
    | Reprice
    | Send
    | Generator
    | GrantCredit
    | MoveExpiry
    | Commit
    | Reduce
    | Adjust
    | ApproveLate
    | Payments
    | PayNow
    | Expect
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that happens at an instant; without an action only the clock moves."""

    path: str
    at: datetime
    action: Action | None
