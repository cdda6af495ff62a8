"""Push: send Stripe what it lacks.

Belongs here: who needs a push, the report. Does not: the protocol of their rows
(`pipeline.push_rows`), the outbox (`store.push_entries`), HTTP (`billing`).

Two pushers at once are harmless: one row in flight per (Stripe meter, customer), leases on rows, and an identifier that
Stripe refuses the second time. A failing customer stops nobody else; a failing Stripe stops the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Mode
from stripemeter.errors import NotAllowed
from stripemeter.metering.deltas import current_minute, first_open_day, whole_minutes
from stripemeter.metering.segments import day_segment
from stripemeter.pipeline.import_target import find_unread
from stripemeter.pipeline.late_usage import carry_late_usage, find_carries
from stripemeter.pipeline.prove import load_conservation
from stripemeter.pipeline.push_row import DEFAULT_RETRIES, Outcome, Pushed, PushRun, RetryPolicy
from stripemeter.pipeline.push_row import pushed as report_target
from stripemeter.pipeline.push_rows import push_targets
from stripemeter.pipeline.push_segments import open_segments
from stripemeter.store import late_usage, push_entries, push_epochs
from stripemeter.store.customers import load_phases_of
from stripemeter.store.mappings import list_mappings
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.push_entries import BlockingEntry, HeldDay, UnpushedDay
from stripemeter.store.push_witness import PushWitness

MAX_ROWS = 1000
"""Most rows of a report; the counts are of all of them."""
MOST_NAMED = 20
"""Tenants named in a report's reason; their number is always told."""
HELD_REASON = "outside Stripe's window: older than 34 days, or its invoice is final"


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRow:
    """What became of one delta."""

    tenant_id: str
    meter: str
    customer_ref: str
    day: str
    delta: Decimal
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """What a push did, for one account.

    Args:
        accepted: deltas Stripe acknowledged, now or (already_accepted) when an earlier attempt arrived.
        unsettled: in flight: Stripe was busy, failed or did not answer; tried again later by itself.
        waiting: days that must wait for their next free minute.
        rejected: refused by Stripe in this push.
        blocked: customers that wait for an operator because of an earlier refusal.
        held: days older than Stripe takes or on a final invoice, not sent; kept and reported.
        stopped: why the push ended early or left tenants out; empty when it did not.
        rows: what an operator should read first, at most MAX_ROWS.
    """

    stripe_account_id: str
    customers: int
    accepted: int
    already_accepted: int
    quantity: Decimal
    unsettled: int
    waiting: int
    rejected: int
    blocked: int
    held: int
    stopped: str
    rows: tuple[PushRow, ...]


def push_usage(
    pool: ConnectionPool,
    sink: BillingSink,
    *,
    now: datetime,
    max_workers: int = 4,
    retries: RetryPolicy = DEFAULT_RETRIES,
    witnesses: Path | None = None,
    connected_accounts: Collection[str] = (),
) -> PushReport:
    """Send everything that Stripe lacks and takes, and settle what earlier pushes left in flight.

    Nothing of a tenant whose events do not add up (law 2) is sent until they do: the verdict is read here, in the
    transaction that finds what to send, for a check in the UI stops only its own run. So is the push epoch: from a
    database that was restored nothing is sent.

    Args:
        pool: the database.
        sink: the account.
        now: aware.
        max_workers: requests at once.
        retries: how often one row is tried.
        witnesses: the directory of files that remember what was sent; None: there is none.
        connected_accounts: accounts that other sinks push to with the same key.

    Raises:
        StripeRejected: the key is refused.
        NotAllowed: the key is of another account than every mapping of its mode, or this is not the database usage was
            pushed from. Nothing was sent.
        Unavailable, OutcomeUnknown: the account could not be asked for, or Postgres is gone. Nothing was sent.
    """
    started = time.monotonic_ns()
    account = sink.account_id()
    first, today = first_open_day(now), now.astimezone(UTC).date()
    witness = PushWitness(witnesses, account) if witnesses is not None else None
    with transaction(pool) as tx:
        _require_mapped_account(tx, account, sink.mode, connected_accounts)
        epoch = _require_same_database(tx, witness)
        open_segments(tx, now=now)
        broken = {tenant.tenant_id for tenant in load_conservation(tx) if not tenant.holds}
        late_usage.cancel_final(tx, stripe_account_id=account, now=now)
        carry_late_usage(tx, modes=[sink.mode], stripe_account_id=account, left_out=broken, now=now)
        found = push_entries.find_targets(
            tx, stripe_account_id=account, mode=sink.mode, first_day=first, today=today, now=now
        )
    targets = [target for target in found if target.tenant_id not in broken]
    left_out = sorted(broken & {target.tenant_id for target in found})
    unread = find_unread(pool, sink, targets, epoch=epoch, now=now)

    def current_time() -> datetime:
        return now + timedelta(microseconds=(time.monotonic_ns() - started) // 1000)

    run = PushRun(pool=pool, sink=sink, clock=current_time, retries=retries, witness=witness)
    pushed = [report_target(target, None, "unsettled", reason) for target, reason in unread.items()]
    pushed += push_targets(run, [target for target in targets if target not in unread], max_workers=max_workers)
    with transaction(pool) as tx:
        blocking = push_entries.list_blocking(tx, stripe_account_id=account, limit=MAX_ROWS)
        held, held_days = push_entries.load_held(
            tx, stripe_account_id=account, mode=sink.mode, first_day=first, limit=MAX_ROWS
        )
    reasons = [reason for reason in (run.stopped, _unproven(left_out)) if reason]
    return _report(account, len(targets), pushed, blocking, held, held_days, "; ".join(reasons))


def has_unpushed_usage(pool: ConnectionPool, *, now: datetime, modes: Sequence[Mode] = ("shadow",)) -> bool:
    """Whether a push would find something to send now; False while everything lacking is held, blocked or waiting.

    It calls nobody. The segments that began since the last push are opened, as that would.
    """
    with transaction(pool) as tx:
        open_segments(tx, now=now)
        if push_entries.has_due_entry(tx, modes=modes, now=now):
            return True
        unpushed = push_entries.scan_unpushed(
            tx,
            modes=modes,
            first_day=first_open_day(now),
            today=now.astimezone(UTC).date(),
            minute=current_minute(now),
        )
        if any(_can_stamp(tx, day) for day in unpushed):
            return True
        return bool(find_carries(tx, modes=modes, stripe_account_id=None, left_out=(), now=now))


def _require_mapped_account(tx: Tx, account: str, mode: Mode, connected_accounts: Collection[str]) -> None:
    of_mode = {mapping.stripe_account_id for mapping in list_mappings(tx) if mapping.mode == mode}
    mapped = sorted(of_mode.difference(connected_accounts))
    if mapped and account not in mapped and account not in connected_accounts:
        raise NotAllowed(
            f"the key for {mode} pushes is of {account}, but usage is mapped to {', '.join(mapped[:MOST_NAMED])}: "
            "set the key of that account, or map the meters to this one; nothing was sent"
        )


def _require_same_database(tx: Tx, witness: PushWitness | None) -> int:
    epoch = push_epochs.require_open(tx).epoch
    contradiction = witness.contradiction(tx, epoch) if witness is not None else ""
    if contradiction:
        raise NotAllowed(contradiction)
    return epoch


def _can_stamp(tx: Tx, day: UnpushedDay) -> bool:
    phases = load_phases_of(tx, day.tenant_id, day.customer_ref, day.meter)
    end = day_segment(phases, day.day, day.segment_start).end
    minutes = whole_minutes(day=day.day, segment_start=day.segment_start, segment_end=end)
    return minutes[0] < minutes[1]


def _unproven(tenants: Sequence[str]) -> str:
    if not tenants:
        return ""
    named = ", ".join(repr(tenant) for tenant in tenants[:MOST_NAMED])
    return f"nothing sent of {len(tenants)} tenants whose events do not add up (check conservation): {named}"


def _report(
    account: str,
    customers: int,
    pushed: Sequence[Pushed],
    blocking: Sequence[BlockingEntry],
    held: int,
    held_days: Sequence[HeldDay],
    stopped: str,
) -> PushReport:
    counts = Counter(row.outcome for row in pushed)
    arrived = [row for row in pushed if row.outcome in ("accepted", "already_accepted")]
    open_rows = [row for row in pushed if row.outcome not in ("accepted", "already_accepted", "rejected")]
    rows = [
        *(_blocking_row(entry) for entry in blocking),
        *(_pushed_row(row) for row in open_rows),
        *(_held_row(day) for day in held_days),
        *(_pushed_row(row) for row in arrived),
    ]
    return PushReport(
        stripe_account_id=account,
        customers=customers,
        accepted=counts["accepted"],
        already_accepted=counts["already_accepted"],
        quantity=sum((row.delta for row in arrived), Decimal(0)),
        unsettled=counts["unsettled"],
        waiting=counts["waiting"],
        rejected=counts["rejected"],
        blocked=len({(entry.stripe_event_name, entry.stripe_customer_id) for entry in blocking}),
        held=held,
        stopped=stopped,
        rows=tuple(rows[:MAX_ROWS]),
    )


def _pushed_row(row: Pushed) -> PushRow:
    return PushRow(
        tenant_id=row.target.tenant_id,
        meter=row.target.meter,
        customer_ref=row.target.customer_ref,
        day=row.day.isoformat() if row.day is not None else "",
        delta=row.delta,
        outcome=row.outcome,
        reason=row.reason,
    )


def _blocking_row(entry: BlockingEntry) -> PushRow:
    return PushRow(
        tenant_id=entry.tenant_id,
        meter=entry.meter,
        customer_ref=entry.customer_ref,
        day=entry.day.isoformat(),
        delta=entry.delta,
        outcome="quarantined" if entry.state == "quarantined" else "rejected",
        reason=entry.error_message or "",
    )


def _held_row(day: HeldDay) -> PushRow:
    return PushRow(
        tenant_id=day.tenant_id,
        meter=day.meter,
        customer_ref=day.customer_ref,
        day=day.day.isoformat(),
        delta=day.lacking,
        outcome="held",
        reason=HELD_REASON,
    )
