"""Planning a delta: which day, which minute, under which name.

Belongs here: the next row of one (Stripe meter, customer), written before anything is sent. Does not: sending it
(`pipeline.push_customer`), the rules themselves (`metering.deltas`).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from stripemeter.metering.deltas import Delta, choose_minute, first_open_day, push_identifier, sendable
from stripemeter.metering.segments import day_segment
from stripemeter.store import push_entries
from stripemeter.store.customers import load_phases_of
from stripemeter.store.postgres import Tx
from stripemeter.store.push_entries import LackingDay, PushEntry, PushTarget


def plan_next(tx: Tx, target: PushTarget, *, now: datetime) -> PushEntry | list[LackingDay]:
    """A new row for the oldest lacking day that has a free minute; else the days that wait for one.

    The target must be locked and have no row in flight.
    """
    waiting: list[LackingDay] = []
    today = now.astimezone(UTC).date()
    phases = load_phases_of(tx, target.tenant_id, target.customer_ref, target.meter)
    for lacking in push_entries.load_lacking_days(tx, target, first_day=first_open_day(now), today=today):
        minute = choose_minute(
            day=lacking.day,
            segment_start=lacking.segment_start,
            segment_end=day_segment(phases, lacking.day, lacking.segment_start).end,
            now=now,
            used=push_entries.load_used_minutes(tx, target, lacking.day),
        )
        if minute is not None:
            _insert(tx, target, lacking, minute, now)
            entry = push_entries.load_open_entry(tx, target)
            return entry if entry is not None else []
        waiting.append(lacking)
    return waiting


def _insert(tx: Tx, target: PushTarget, lacking: LackingDay, minute: datetime, now: datetime) -> None:
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
    entry_id = uuid.uuid4()
    identifier = push_identifier(delta, entry_id=entry_id)
    push_entries.insert_planned(
        tx, target, delta, entry_id=entry_id, identifier=identifier, total_before=lacking.planned, now=now
    )
