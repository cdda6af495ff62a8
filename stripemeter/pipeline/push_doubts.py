"""Settling doubts: did Stripe count what it acknowledged?

Belongs here: reading back the minutes of doubted rows, and an operator's doubts. Does not: error reports
(`pipeline.stripe_error_reports`), rows nobody acknowledged (`pipeline.push_probe`).

Nobody's word is enough to send a row again, a report's neither: it may be of a duplicate. The row's minute is its
alone, so Stripe's sum over it says whether the row counts. What is there settles the doubt at once. What is absent must
be absent twice, AGAIN apart, SETTLE after it was last sent; then the row is `rejected_async`, its delta is lacking, and
the next push plans it anew: under another identifier and in another minute, once an operator has released the customer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Mode
from stripemeter.errors import InvalidInput, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.deltas import MINUTE, fixed_point
from stripemeter.pipeline.push_probe import AGAIN, SETTLE
from stripemeter.store import push_doubts
from stripemeter.store.postgres import transaction
from stripemeter.store.push_doubts import DayRows, PushDoubt

MAX_READINGS = 1000
"""Minutes read in one go; the rest is read by the next."""
SILENT_READINGS = 5
"""After so many readings in a row without an answer the rest waits for the next run."""
MAX_REASON = 500
NEIGHBOUR = "Stripe dropped another row of this customer and meter"

DoubtOutcome = Literal["present", "absent", "otherwise", "again", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtRow:
    """What a reading of one row's minute decided; `again`: it is read once more."""

    tenant_id: str
    meter: str
    customer_ref: str
    day: str
    delta: Decimal
    outcome: DoubtOutcome
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtReport:
    """What reading back decided, for one account.

    Args:
        present: rows that Stripe counts.
        absent: rows it does not: they are lacking again.
        otherwise: rows whose minute holds something else: they stay as they are, the reconciliation shows the day.
        waiting: rows still doubted.
        unreadable: readings that failed now.
    """

    stripe_account_id: str
    present: int
    absent: int
    otherwise: int
    waiting: int
    unreadable: int
    rows: tuple[DoubtRow, ...]


def recheck_day(
    pool: ConnectionPool, sink: BillingSink, rows: DayRows, *, actor: str, reason: str, now: datetime
) -> int:
    """Doubt a day's accepted, unconfirmed rows; those that turn out absent are sent again without another word.

    For usage that Stripe acknowledged and dropped without a report. Returns how many rows.

    Raises:
        InvalidInput: no reason is given, or it is too long.
        Unavailable: Postgres does not answer.
    """
    if not reason.strip() or len(reason) > MAX_REASON:
        raise InvalidInput(f"reason must have 1 to {MAX_REASON} characters", field="reason")
    account = sink.account_id()
    with transaction(pool) as tx:
        return push_doubts.raise_approved(tx, rows, stripe_account_id=account, actor=actor, reason=reason, now=now)


def settle_doubts(pool: ConnectionPool, sink: BillingSink, *, now: datetime) -> DoubtReport:
    """Read back what is due, and settle what can be settled.

    Raises:
        StripeRejected: the key is refused.
        Unavailable, OutcomeUnknown: the account could not be asked for, or Postgres is gone.
    """
    account = sink.account_id()
    with transaction(pool) as tx:
        push_doubts.settle_known(tx, stripe_account_id=account, now=now)
        due = push_doubts.list_due(tx, stripe_account_id=account, sent_before=now - SETTLE, now=now, limit=MAX_READINGS)
    rows: list[DoubtRow] = []
    silent = 0
    for doubt in due:
        row = _read_back(pool, sink, doubt, now)
        rows.append(row)
        silent = silent + 1 if row.outcome == "unreadable" else 0
        if silent >= SILENT_READINGS:
            break
    with transaction(pool) as tx:
        waiting = push_doubts.count_open(tx, stripe_account_id=account)
    counts = Counter(row.outcome for row in rows)
    return DoubtReport(
        stripe_account_id=account,
        present=counts["present"],
        absent=counts["absent"],
        otherwise=counts["otherwise"],
        waiting=waiting,
        unreadable=counts["unreadable"],
        rows=tuple(rows),
    )


def has_due_doubt(pool: ConnectionPool, *, now: datetime, modes: Sequence[Mode] = ("shadow",)) -> bool:
    """Whether `settle_doubts` would find something to do for mappings of these modes; it asks nobody."""
    with transaction(pool) as tx:
        return push_doubts.has_due(tx, modes=modes, sent_before=now - SETTLE, now=now)


def _read_back(pool: ConnectionPool, sink: BillingSink, doubt: PushDoubt, now: datetime) -> DoubtRow:
    try:
        quantity = _quantity(sink, doubt)
    except (StripeRejected, Unavailable, OutcomeUnknown) as error:
        if isinstance(error, StripeRejected) and error.status in (401, 403):
            raise
        with transaction(pool) as tx:
            push_doubts.postpone(tx, doubt.entry_id, next_reading_at=now + AGAIN)
        return _row(doubt, "unreadable", str(error))
    is_second = doubt.read_at is not None and doubt.read_quantity == quantity and now >= doubt.read_at + AGAIN
    if quantity != doubt.delta and not is_second:
        with transaction(pool) as tx:
            push_doubts.note_reading(tx, doubt.entry_id, quantity=quantity, now=now, next_reading_at=now + AGAIN)
        return _row(doubt, "again", f"its minute holds {fixed_point(quantity)}; read once more")
    if quantity == 0:
        return _reject(pool, doubt, now)
    verdict: Literal["present", "otherwise"] = "present" if quantity == doubt.delta else "otherwise"
    with transaction(pool) as tx:
        push_doubts.settle(tx, doubt.entry_id, verdict, now=now)
    return _row(doubt, verdict, f"its minute holds {fixed_point(quantity)}")


def _quantity(sink: BillingSink, doubt: PushDoubt) -> Decimal:
    """What the row's minute holds; nothing when Stripe has no such customer (any more)."""
    try:
        return sink.read_quantity(
            stripe_meter_id=doubt.stripe_meter_id,
            stripe_customer_id=doubt.stripe_customer_id,
            start=doubt.stamped_at,
            end=doubt.stamped_at + MINUTE,
        )
    except StripeRejected as refused:
        is_missing = refused.status == 404 or refused.stripe_code == "resource_missing"
        if is_missing and sink.find_customer(doubt.stripe_customer_id) is None:
            return Decimal(0)
        raise


def _reject(pool: ConnectionPool, doubt: PushDoubt, now: datetime) -> DoubtRow:
    reason = f"acknowledged, and not in Stripe's summary: {doubt.error_message}"
    with transaction(pool) as tx:
        is_rejected = push_doubts.reject_accepted(
            tx,
            doubt.entry_id,
            now=now,
            released_at=None if doubt.actor is None else now,
            error_code=doubt.error_code,
            error_message=reason,
        )
        if not is_rejected:  # confirmed in this moment, by its whole day: the next run settles it
            return _row(doubt, "again", "its state has changed")
        push_doubts.settle(tx, doubt.entry_id, "absent", now=now)
        if doubt.actor is None:
            push_doubts.raise_neighbours(
                tx,
                [doubt.identifier],
                stripe_account_id=doubt.stripe_account_id,
                stripe_event_id=doubt.stripe_event_id,
                error_message=NEIGHBOUR,
                now=now,
            )
    return _row(doubt, "absent", reason)


def _row(doubt: PushDoubt, outcome: DoubtOutcome, reason: str) -> DoubtRow:
    return DoubtRow(
        tenant_id=doubt.tenant_id,
        meter=doubt.meter,
        customer_ref=doubt.customer_ref,
        day=doubt.day.isoformat(),
        delta=doubt.delta,
        outcome=outcome,
        reason=reason,
    )
