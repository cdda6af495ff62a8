"""The gate before an invoice under control is finalized: is its usage settled, sent, and exactly what Stripe holds?

Belongs here: asking our tables and Stripe the three questions about one invoice. Does not: the answers' meaning
(`metering.closings`), what follows (`pipeline.closing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.metering.closings import (
    GO,
    Judgement,
    WindowDay,
    days_inside,
    inner_minutes,
    is_whole,
    judge_drained,
    judge_reconciled,
    outer_minutes,
    twice_billed,
)
from stripemeter.pipeline.closing_discovery import latest_settling
from stripemeter.store import closings, push_entries
from stripemeter.store.closings import Closing, ClosingWindow
from stripemeter.store.customers import load_phases_of
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.rulebook import load_rulebook
from stripemeter.store.slice_recounts import count_pending_days


def check_settled(pool: ConnectionPool, closing: Closing, *, now: datetime) -> Judgement:
    """Whether no usage of the invoice changes by itself any more, and all of it is counted."""
    with transaction(pool) as tx:
        parts = closings.load_windows(tx, closing)
        rules = load_rulebook(tx, [closing.tenant_id]).of(closing.tenant_id)
        settled_at = latest_settling(rules, [(part.meter, part.window) for part in parts])
        if now < settled_at:
            # The rules have changed since it was found: it is due at another time.
            closings.move(tx, closing, closing.state, now=now, settles_at=settled_at)
            return Judgement(step="wait", reason="late events may still join its usage")
        if any(closings.has_unfolded(tx, closing, part.window) for part in parts):
            return Judgement(step="wait", reason="events of it are not counted yet")
        if count_pending_days(tx, closing.tenant_id):
            return Judgement(step="wait", reason="days of the tenant wait to be counted again under changed rules")
    return GO


def check_sent(pool: ConnectionPool, closing: Closing, *, now: datetime) -> Judgement:
    """Whether we can tell what we counted of the invoice, and Stripe has acknowledged all of it."""
    with transaction(pool) as tx:
        parts = closings.load_windows(tx, closing)
        reasons = [reason for part in parts if (reason := _foreign_window(tx, closing, part))]
        twice = twice_billed([(part.meter, part.window) for part in parts])
        if twice:
            reasons.append(f"two items bill the same usage of {twice}")
        if reasons:
            return Judgement(step="fail", reason=reasons[0])
        return _judge_days(tx, closing, parts, now)[0]


def check_held(pool: ConnectionPool, sink: BillingSink, closing: Closing, *, now: datetime) -> Judgement:
    """Whether Stripe's sum over each window of the invoice is ours, to the last digit.

    Raises:
        StripeRejected, Unavailable, OutcomeUnknown: Stripe did not say.
    """
    with transaction(pool) as tx:
        parts = closings.load_windows(tx, closing)
        judgement, days = _judge_days(tx, closing, parts, now)
    if judgement != GO:
        return judgement
    for part, inside in zip(parts, days, strict=True):
        inner, outer = inner_minutes(part.window), outer_minutes(part.window)
        within = _read(sink, closing, part, inner)
        around = within if inner == outer else _read(sink, closing, part, outer)
        judgement = judge_reconciled(inside, inner=within, outer=around, now=now)
        if judgement != GO:
            return Judgement(step=judgement.step, reason=f"{part.meter}: {judgement.reason}")
    return GO


def _judge_days(
    tx: Tx, closing: Closing, parts: Sequence[ClosingWindow], now: datetime
) -> tuple[Judgement, list[list[WindowDay]]]:
    days = [days_inside(closings.load_days(tx, closing, part), part.window) for part in parts]
    blocked = push_entries.find_blocked(tx, [part.target(closing) for part in parts])
    for place, (part, inside) in enumerate(zip(parts, days, strict=True)):
        judgement = judge_drained(inside, is_blocked=place in blocked, now=now)
        if judgement != GO:
            return Judgement(step=judgement.step, reason=f"{part.meter}: {judgement.reason}"), days
    return GO, days


def _foreign_window(tx: Tx, closing: Closing, part: ClosingWindow) -> str:
    """Why nobody can say what we counted of a window; empty when it can be said."""
    window = part.window
    if part.mode != closing.mode:
        return f"{part.meter} is not mapped in {closing.mode} mode any more"
    if is_whole(load_phases_of(tx, closing.tenant_id, closing.customer_ref, part.meter), window):
        return ""
    return (
        f"{part.meter} is billed from {window.starts_at:%Y-%m-%dT%H:%M:%SZ} to {window.ends_at:%Y-%m-%dT%H:%M:%SZ}, "
        f"where no billing window of ours begins and ends: give {closing.customer_ref!r} the subscription's anchor "
        "with `stripemeter customers`"
    )


def _read(sink: BillingSink, closing: Closing, part: ClosingWindow, minutes: tuple[datetime, datetime]) -> Decimal:
    start, end = minutes
    if start >= end:
        return Decimal(0)
    return sink.read_quantity(
        stripe_meter_id=part.stripe_meter_id, stripe_customer_id=closing.stripe_customer_id, start=start, end=end
    )
