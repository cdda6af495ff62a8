"""What a push would send now, without sending or writing anything.

Belongs here: the rows of a plan, found as a push finds them. Does not: sending (`pipeline.push`), choosing minutes and
cutting digits (`metering.deltas`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.metering.deltas import choose_minute, first_open_day, sendable
from stripemeter.metering.segments import day_segment
from stripemeter.pipeline.late_usage import carry_late_usage
from stripemeter.pipeline.prove import load_conservation
from stripemeter.pipeline.push_segments import open_segments
from stripemeter.store import late_usage, push_entries, push_epochs
from stripemeter.store.customers import load_phases_of
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.push_entries import LackingDay, PushTarget

Action = Literal["send", "settle", "wait"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRow:
    """What one (tenant, meter, customer, segment, day) would get.

    Args:
        tenant_id: whose.
        meter: our meter.
        customer_ref: its customer.
        segment_start: where the billing window begins.
        day: the UTC day.
        action: `send` new events; `settle` an event in flight, sent again under its identifier or read back;
            `wait` for a free minute.
        events: how many.
        quantity: what they add up to.
    """

    tenant_id: str
    meter: str
    customer_ref: str
    segment_start: datetime
    day: date
    action: Action
    events: int
    quantity: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """What a push to one account would do.

    Args:
        stripe_account_id: where.
        mode: shadow or live.
        events: to be sent or settled.
        quantity: what they add up to.
        blocked: customers that wait for an operator because of an earlier refusal.
        held: days older than Stripe takes or on a final invoice, not sent.
        left_out: tenants whose events do not add up: nothing of them is sent.
        fenced: why nothing at all is sent: this is not the database usage was pushed from; empty when it is.
        rows: by tenant, meter, customer, day and segment.
    """

    stripe_account_id: str
    mode: str
    events: int
    quantity: Decimal
    blocked: int
    held: int
    left_out: tuple[str, ...]
    fenced: str
    rows: tuple[PlannedRow, ...]


def plan_push(pool: ConnectionPool, sink: BillingSink, *, now: datetime) -> PushPlan:
    """What `push_usage` would send at `now`.

    Raises:
        StripeRejected: the key is refused.
        Unavailable, OutcomeUnknown: the account could not be asked for, or Postgres is gone.
    """
    account = sink.account_id()
    first, today = first_open_day(now), now.astimezone(UTC).date()
    # Segments are opened and late usage is carried as a push would, and both are taken back.
    with transaction(pool) as tx, tx.transaction(force_rollback=True):
        open_segments(tx, now=now)
        broken = {tenant.tenant_id for tenant in load_conservation(tx) if not tenant.holds}
        late_usage.cancel_final(tx, stripe_account_id=account, now=now)
        carry_late_usage(tx, modes=[sink.mode], stripe_account_id=account, left_out=broken, now=now)
        targets = push_entries.find_targets(
            tx, stripe_account_id=account, mode=sink.mode, first_day=first, today=today, now=now
        )
        rows = list(_plan_targets(tx, [target for target in targets if target.tenant_id not in broken], now=now))
        held, _ = push_entries.load_held(tx, stripe_account_id=account, mode=sink.mode, first_day=first, limit=1)
        blocked = push_entries.count_blocked(tx, stripe_account_id=account)
        fenced = push_epochs.find_refusal(tx)
    going = [row for row in rows if row.action != "wait"]
    return PushPlan(
        stripe_account_id=account,
        mode=sink.mode,
        events=sum(row.events for row in going),
        quantity=sum((row.quantity for row in going), Decimal(0)),
        blocked=blocked,
        held=held,
        left_out=tuple(sorted(broken & {target.tenant_id for target in targets})),
        fenced=fenced,
        rows=tuple(rows),
    )


def _plan_targets(tx: Tx, targets: Sequence[PushTarget], *, now: datetime) -> Iterator[PlannedRow]:
    in_flight = push_entries.load_open_entries(tx, targets)
    blocked = push_entries.find_blocked(tx, targets)
    first, today = first_open_day(now), now.astimezone(UTC).date()
    lacking = push_entries.load_lacking_days(tx, targets, first_day=first, today=today)
    for place, target in enumerate(targets):
        if (entry := in_flight.get(place)) is not None:
            yield _row(target, entry.segment_start, entry.day, "settle", 1, entry.delta)
        if place not in blocked and place in lacking:
            yield from _plan_target(tx, target, lacking[place], now=now)


def _plan_target(tx: Tx, target: PushTarget, lacking: Sequence[LackingDay], *, now: datetime) -> Iterator[PlannedRow]:
    phases = load_phases_of(tx, target.tenant_id, target.customer_ref, target.meter)
    days = sorted({day.day for day in lacking})
    used = dict(zip(days, push_entries.load_used_minutes(tx, [(target, day) for day in days]), strict=True))
    for day in lacking:
        end = day_segment(phases, day.day, day.segment_start).end
        yield from _plan_day(target, day, end, used[day.day], now=now)


def _plan_day(
    target: PushTarget, lacking: LackingDay, segment_end: datetime, used: set[datetime], *, now: datetime
) -> Iterator[PlannedRow]:
    """The events of a day while it has free minutes, which become `used`; then what waits."""
    rest, sent, events = lacking.counted - lacking.planned, Decimal(0), 0
    while rest:
        minute = choose_minute(
            day=lacking.day, segment_start=lacking.segment_start, segment_end=segment_end, now=now, used=used
        )
        if minute is None:
            break
        used.add(minute)
        part = sendable(rest)
        rest, sent, events = rest - part, sent + part, events + 1
    if events:
        yield _row(target, lacking.segment_start, lacking.day, "send", events, sent)
    if rest:
        yield _row(target, lacking.segment_start, lacking.day, "wait", 0, rest)


def _row(
    target: PushTarget, segment_start: datetime, day: date, action: Action, events: int, quantity: Decimal
) -> PlannedRow:
    return PlannedRow(
        tenant_id=target.tenant_id,
        meter=target.meter,
        customer_ref=target.customer_ref,
        segment_start=segment_start,
        day=day,
        action=action,
        events=events,
        quantity=quantity,
    )
