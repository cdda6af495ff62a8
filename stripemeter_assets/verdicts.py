"""When a check is red: the bounds an operator is told about, applied to facts of the core.

Belongs here: comparing facts with bounds. Does not: gathering facts (`stripemeter.pipeline`), wording (`presentation`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from stripemeter.metering.closings import OVERDUE_AFTER
from stripemeter.metering.deltas import first_open_day
from stripemeter.pipeline.reconcile import EXPLAINED
from stripemeter.store.closings import Closing
from stripemeter.store.freshness import FoldState
from stripemeter.store.late_charges import LateCharge
from stripemeter.store.reconciliations import OpenVerdict

HOLD_WITHIN = timedelta(minutes=30)
"""How long a draft may wait to be held: half of the shortest grace Stripe has by default."""
SHORT_GRACES = timedelta(days=35)
"""How long an invoice with too short a grace is shown: until the next month's has come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeVerdicts:
    """The open days that are not simply equal, by what they mean for an operator.

    Args:
        unexplained: drift that neither the next push nor a few minutes will clear: somebody must look.
        unknown: Stripe could not be read: neither right nor wrong.
        on_its_way: drift that passes by itself, or is within the tolerance.
    """

    unexplained: tuple[OpenVerdict, ...]
    unknown: tuple[OpenVerdict, ...]
    on_its_way: tuple[OpenVerdict, ...]


def sort_verdicts(verdicts: Iterable[OpenVerdict], *, now: datetime) -> StripeVerdicts:
    """The verdicts of days that are still compared; older ones are history. Order is kept."""
    open_days = [verdict for verdict in verdicts if verdict.day >= first_open_day(now)]
    unexplained = [one for one in open_days if one.status == "drift" and one.cause not in EXPLAINED]
    unknown = [one for one in open_days if one.status == "unknown"]
    return StripeVerdicts(
        unexplained=tuple(unexplained),
        unknown=tuple(unknown),
        on_its_way=tuple(one for one in open_days if one not in unexplained and one not in unknown),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingVerdicts:
    """Invoices that somebody must look at.

    Args:
        failed: that are held because something is wrong, or bill something else than we counted; not released.
        overdue: that are ours to finalize, or to prove, and have waited too long.
    """

    failed: tuple[Closing, ...]
    overdue: tuple[Closing, ...]


def sort_closings(closings: Iterable[Closing], *, now: datetime) -> ClosingVerdicts:
    """Of the invoices that are not closed, or failed: those with something wrong. Order is kept."""
    listed = list(closings)
    failed = tuple(one for one in listed if one.state == "failed" and one.released_at is None)
    return ClosingVerdicts(
        failed=failed, overdue=tuple(one for one in listed if one not in failed and _is_overdue(one, now))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckCharge:
    """A charge of late usage that somebody must look at."""

    tenant_id: str
    meter: str
    customer_ref: str
    invoice_id: str
    kind: str
    amount_minor: int
    currency: str
    state: str
    planned_at: datetime
    message: str


def stuck_charges(charges: Iterable[LateCharge], *, now: datetime) -> list[StuckCharge]:
    """Of the charges that are not settled or were refused: the refused, and those on their way for too long."""
    return [
        StuckCharge(
            tenant_id=one.tenant_id,
            meter=one.meter,
            customer_ref=one.customer_ref,
            invoice_id=one.invoice_id,
            kind=one.kind,
            amount_minor=one.amount_minor,
            currency=one.currency,
            state=one.state,
            planned_at=one.planned_at,
            message=one.error_message,
        )
        for one in charges
        if one.state == "rejected" or now > one.planned_at + OVERDUE_AFTER
    ]


def _is_overdue(closing: Closing, now: datetime) -> bool:
    if closing.closed_at is not None or (closing.control == "observe" and closing.state != "finalized"):
        return False
    if closing.state == "found":
        # Ours to hold, and Stripe's clock runs.
        return now > closing.found_at + HOLD_WITHIN
    return now > closing.settles_at + OVERDUE_AFTER


def is_current(state: FoldState, *, within: timedelta) -> bool:
    """Whether neither the fold's cut nor the event that waits longest for it is older than the bound."""
    return max(state.lag, state.cut_age) <= within
