"""Planning deltas: which day, which minute, under which name.

Belongs here: the next row of each of some (Stripe meter, customer), written before anything is sent. Does not: sending
it (`pipeline.push_rows`), the rules themselves (`metering.deltas`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from stripemeter.metering.deltas import Delta, choose_minute, first_open_day, push_identifier, sendable
from stripemeter.metering.segments import BillingPhase, day_segment
from stripemeter.store import push_entries
from stripemeter.store.customers import load_phases_of_each
from stripemeter.store.postgres import Tx
from stripemeter.store.push_entries import LackingDay, PushEntry, PushTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """What is to be done for a target.

    Args:
        target: whose.
        entry: its row in flight, or a new one; None: nothing is to be sent.
        has_more: whether it will lack something when the row has arrived.
        waiting: days that wait for a free minute while there is no row.
    """

    target: PushTarget
    entry: PushEntry | None = None
    has_more: bool = False
    waiting: Sequence[LackingDay] = ()


def plan_targets(tx: Tx, targets: Sequence[PushTarget], *, now: datetime) -> list[TargetPlan]:
    """Of each target the row in flight; else a new row for its oldest lacking day that has a free minute.

    The targets stay locked until the transaction ends: nobody else plans for them. One that waits for an operator gets
    no row.
    """
    push_entries.lock_targets(tx, targets)
    in_flight = push_entries.load_open_entries(tx, targets)
    blocked = push_entries.find_blocked(tx, targets)
    free = [place for place in range(len(targets)) if place not in in_flight and place not in blocked]
    fresh = _plan_free(tx, [targets[place] for place in free], now=now)
    push_entries.insert_planned(tx, [plan.entry for plan in fresh if plan.entry is not None])
    planned = dict(zip(free, fresh, strict=True))
    return [
        planned.get(place) or TargetPlan(target=target, entry=in_flight.get(place), has_more=True)
        for place, target in enumerate(targets)
    ]


def _plan_free(tx: Tx, targets: Sequence[PushTarget], *, now: datetime) -> list[TargetPlan]:
    lacking = push_entries.load_lacking_days(
        tx, targets, first_day=first_open_day(now), today=now.astimezone(UTC).date()
    )
    places = list(lacking)
    if not places:
        return [TargetPlan(target=target) for target in targets]
    whose = [(targets[place].tenant_id, targets[place].customer_ref, targets[place].meter) for place in places]
    phases = dict(zip(places, load_phases_of_each(tx, whose), strict=True))
    days = [(place, day.day) for place in places for day in lacking[place]]
    minutes = push_entries.load_used_minutes(tx, [(targets[place], day) for place, day in days])
    used = dict(zip(days, minutes, strict=True))
    return [
        _plan_target(
            target,
            lacking.get(place, []),
            phases.get(place, []),
            [used[place, day.day] for day in lacking.get(place, [])],
            now=now,
        )
        for place, target in enumerate(targets)
    ]


def _plan_target(
    target: PushTarget,
    lacking: Sequence[LackingDay],
    phases: Sequence[BillingPhase],
    used: Sequence[set[datetime]],
    *,
    now: datetime,
) -> TargetPlan:
    for day, minutes in zip(lacking, used, strict=True):
        minute = choose_minute(
            day=day.day,
            segment_start=day.segment_start,
            segment_end=day_segment(phases, day.day, day.segment_start).end,
            now=now,
            used=minutes,
        )
        if minute is not None:
            entry = _new_entry(target, day, minute, now)
            has_more = len(lacking) > 1 or entry.total_after != day.counted
            return TargetPlan(target=target, entry=entry, has_more=has_more)
    return TargetPlan(target=target, waiting=lacking)


def _new_entry(target: PushTarget, lacking: LackingDay, minute: datetime, now: datetime) -> PushEntry:
    delta = Delta(
        stripe_account_id=target.stripe_account_id,
        stripe_event_name=target.stripe_event_name,
        stripe_customer_id=target.stripe_customer_id,
        segment_start=lacking.segment_start,
        day=lacking.day,
        seq=lacking.entry_count + 1,
        stamped_at=minute,
        quantity=sendable(lacking.counted - lacking.planned),
    )
    return planned_entry(target, delta, total_before=lacking.planned, now=now)


def planned_entry(target: PushTarget, delta: Delta, *, total_before: Decimal, now: datetime) -> PushEntry:
    """A delta as a row of the outbox that nobody has written yet."""
    entry_id = uuid.uuid4()
    return PushEntry(
        id=entry_id,
        mapping_id=target.mapping_id,
        tenant_id=target.tenant_id,
        meter=target.meter,
        customer_ref=target.customer_ref,
        stripe_account_id=target.stripe_account_id,
        stripe_event_name=target.stripe_event_name,
        stripe_customer_id=target.stripe_customer_id,
        segment_start=delta.segment_start,
        day=delta.day,
        seq=delta.seq,
        delta=delta.quantity,
        total_before=total_before,
        total_after=total_before + delta.quantity,
        stamped_at=delta.stamped_at,
        identifier=push_identifier(delta, entry_id=entry_id),
        planned_at=now,
        state="planned",
        attempt=0,
        key_no=0,
        first_attempt_at=None,
        last_attempt_at=None,
        lease_until=None,
        next_attempt_at=None,
        probed_at=None,
        probed_quantity=None,
    )
