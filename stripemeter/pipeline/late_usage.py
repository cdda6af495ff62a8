"""Carrying late usage: what Stripe no longer takes on its own day is owed on the current one, where a mapping says so.

Belongs here: finding it before a push looks for what is lacking, and where it goes. Does not: how much of it may be
carried (`metering.late_usage`), sending it: carried usage is lacking like any other (the view `push_days`).

A day takes nothing more when it is older than STAMP_WINDOW or an invoice that bills its segment is final. Under `hold`
such a day stays as it is, is reported and waits.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from stripemeter.metering.deltas import first_open_day
from stripemeter.metering.late_usage import LateDay, carriable
from stripemeter.metering.push_segments import PushSegment, push_segments
from stripemeter.store import late_usage, push_entries
from stripemeter.store.customers import load_phases_of_each
from stripemeter.store.late_usage import Carry
from stripemeter.store.postgres import Tx
from stripemeter.store.push_entries import PushTarget


def carry_late_usage(
    tx: Tx, *, modes: Collection[str], stripe_account_id: str | None, left_out: Collection[str], now: datetime
) -> int:
    """Owe today what late days lack; returns how many days were carried.

    Their customers' meters stay locked until the transaction ends: nobody plans for them meanwhile.

    Args:
        tx: the caller's; read committed, so that what others did before the lock is seen.
        modes: of mappings.
        stripe_account_id: only this account's.
        left_out: tenants whose counters nobody can vouch for.
        now: aware.
    """
    found = find_carries(tx, modes=modes, stripe_account_id=stripe_account_id, left_out=left_out, now=now)
    if not found:
        return 0
    push_entries.lock_targets(tx, list({target: None for target, _ in found}))
    again = find_carries(tx, modes=modes, stripe_account_id=stripe_account_id, left_out=left_out, now=now)
    late_usage.insert_carries(tx, [carry for _, carry in again])
    return len(again)


def find_carries(
    tx: Tx, *, modes: Collection[str], stripe_account_id: str | None, left_out: Collection[str], now: datetime
) -> list[tuple[PushTarget, Carry]]:
    """What `carry_late_usage` would carry; nothing while today has no whole minute in an open segment."""
    if not late_usage.has_policy(tx):
        return []
    late = late_usage.load_late_days(
        tx,
        modes=modes,
        stripe_account_id=stripe_account_id,
        left_out=left_out,
        first_day=first_open_day(now),
        today=now.astimezone(UTC).date(),
    )
    carried = {target: found for target, days in late.items() if (found := carriable(days))}
    if not carried:
        return []
    current = _current_segments(tx, list(carried), now)
    return [
        (target, _carry(target, day, current[target], now))
        for target, days in carried.items()
        if target in current
        for day in days
    ]


def _current_segments(tx: Tx, targets: list[PushTarget], now: datetime) -> dict[PushTarget, PushSegment]:
    """The segment of now of each target, where it takes deltas today."""
    today = now.astimezone(UTC).date()
    phases = load_phases_of_each(tx, [(target.tenant_id, target.customer_ref, target.meter) for target in targets])
    found = []
    for target, own in zip(targets, phases, strict=True):
        segments = push_segments(own, since=today, now=now)
        if segments and segments[-1].end > now and segments[-1].pushes_from <= today <= segments[-1].closes_on:
            found.append((target, segments[-1]))
    closed = late_usage.find_closed(tx, [(target, segment.start) for target, segment in found])
    return {target: segment for place, (target, segment) in enumerate(found) if place not in closed}


def _carry(target: PushTarget, late: LateDay, to: PushSegment, now: datetime) -> Carry:
    return Carry(
        mapping_id=target.mapping_id,
        tenant_id=target.tenant_id,
        meter=target.meter,
        customer_ref=target.customer_ref,
        from_segment_start=late.segment_start,
        from_day=late.day,
        to_segment_start=to.start,
        to_day=now.astimezone(UTC).date(),
        quantity=late.lacking,
        carried_at=now,
    )
