"""Drift: ours minus Stripe's, what explains it, and whether anyone must act.

Belongs here: the verdict on one day as a function of four numbers, and what repairs it. Does not: reading them
(`pipeline.reconcile`), repairing (`pipeline.repair`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, assert_never

Status = Literal["ok", "within_epsilon", "drift", "unknown"]
Cause = Literal["unsent", "in_flight", "rejected", "foreign_writer", "unreachable", "unknown"]

EPSILON_RATIO = Decimal("0.005")
"""Drift up to this share of our quantity is tolerated while a period is open; it is listed all the same."""
SETTLE_LAG = timedelta(minutes=15)
"""How long after its acknowledgement an event may be missing from Stripe's summaries: they are eventually consistent,
and Stripe publishes no bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayState:
    """One day as we know it and as Stripe reports it.

    Args:
        counted: our counter.
        planned: everything that is or may be at Stripe.
        accepted: what Stripe has acknowledged.
        stripe: Stripe's summary; None when it could not be read.
        is_rejected: whether Stripe refused this customer's last delta and nobody has released it.
        last_accepted_at: when Stripe last acknowledged something of the day.
    """

    counted: Decimal
    planned: Decimal
    accepted: Decimal
    stripe: Decimal | None
    is_rejected: bool
    last_accepted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to think of a day; `cause` is None when nothing needs explaining."""

    status: Status
    cause: Cause | None


def judge_day(day: DayState, *, now: datetime) -> Verdict:
    """The verdict on one day."""
    if day.stripe is None:
        return Verdict(status="unknown", cause="unreachable")
    status = judge_difference(day.counted, day.stripe)
    return Verdict(status=status, cause=None if status == "ok" else _cause(day, day.stripe, now))


def judge_difference(ours: Decimal, theirs: Decimal, *, floor: Decimal = Decimal(0)) -> Status:
    """What to think of two numbers that should be one: `ok` only when they are, to the last digit.

    Args:
        ours: of which a share of EPSILON_RATIO is tolerated.
        theirs: what somebody else says.
        floor: a difference that is tolerated however small ours is.
    """
    if ours == theirs:
        return "ok"
    tolerated = max(abs(ours) * EPSILON_RATIO, floor)
    return "within_epsilon" if abs(ours - theirs) <= tolerated else "drift"


def _cause(day: DayState, stripe: Decimal, now: datetime) -> Cause:
    if stripe != day.accepted:
        return _cause_at_stripe(day, stripe, now)
    if day.planned != day.accepted:
        return "in_flight"
    return "rejected" if day.is_rejected else "unsent"


def _cause_at_stripe(day: DayState, stripe: Decimal, now: datetime) -> Cause:
    """Stripe does not hold what it acknowledged."""
    low, high = sorted((day.accepted, day.planned))
    if day.planned != day.accepted and low <= stripe <= high:
        return "in_flight"
    if stripe > high:
        return "foreign_writer"
    is_settling = day.last_accepted_at is not None and now - day.last_accepted_at < SETTLE_LAG
    return "in_flight" if is_settling else "rejected"


def surplus_at_stripe(day: DayState, *, now: datetime) -> Decimal | None:
    """What Stripe holds of a day beyond everything we sent; 0 or less: none. None: it cannot be told at the moment.

    A row in flight, or one acknowledged so recently that the summaries may lack it, would look like a surplus or hide
    one: taking that back would take our own usage back.
    """
    is_settling = day.last_accepted_at is not None and now - day.last_accepted_at < SETTLE_LAG
    if day.stripe is None or day.planned != day.accepted or is_settling:
        return None
    return day.stripe - day.accepted


def repair_plan(cause: Cause | None) -> str:
    """What makes a difference of this cause go away; empty when there is none."""
    match cause:
        case None:
            return ""
        case "unsent":
            return "push: the next push sends it, or `stripemeter repair apply`, unless its invoice is final"
        case "in_flight":
            return "wait: a push is under way, or Stripe has not summed it up yet"
        case "rejected":
            return (
                "remove what Stripe refuses, then `stripemeter stripe release ENTRY` and push; "
                "where it refused nothing, `stripemeter stripe recheck` finds what it dropped"
            )
        case "foreign_writer":
            return "approve the suggested negative correction, or stop the other writer"
        case "unreachable":
            return "wait: Stripe did not answer, the next reconciliation asks again"
        case "unknown":
            return "look at the day's push entries: nothing explains it"
        case _:
            assert_never(cause)
