"""Days that wait to be counted again because a rule changed: the table `slice_recounts`.

Belongs here: asking, taking, finishing. Does not: the recount (`pipeline.slice_recounts`), who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from stripemeter.errors import InvariantBroken
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("slice_recounts")
MAX_FAILURES = 3
"""After so many failures of one day nothing tries its range again by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRecount:
    """A range of days of one tenant, or of one reference of a customer; the days before `next_day` are done."""

    id: int
    tenant_id: str
    customer_ref: str | None
    next_day: date
    last_day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckSlice:
    """A range that nothing tries any more; `customer_ref` is empty when it is all of a tenant."""

    tenant_id: str
    customer_ref: str
    next_day: date
    last_day: date
    reason: str
    failed_count: int
    last_failure: str


def add_slice_recount(
    tx: Tx, tenant_id: str, customer_ref: str | None, first: date, last: date, reason: str, now: datetime
) -> None:
    """Ask for the days from first to last, both included: in the transaction that changes the rule."""
    tx.execute(
        _Q["add_slice_recount"],
        {
            "tenant_id": tenant_id,
            "customer_ref": customer_ref,
            "first": first,
            "last": last,
            "reason": reason,
            "now": now,
        },
    )


def count_pending_days(tx: Tx, tenant_id: str | None) -> int:
    """How many days wait, of one tenant or of all."""
    row = tx.execute(_Q["count_pending_days"], {"tenant_id": tenant_id}).fetchone()
    if row is None:
        raise InvariantBroken("a count came back empty")
    return int(row[0])


def take_slice(tx: Tx, tenant_id: str | None) -> SliceRecount | None:
    """The oldest range that nobody works on, this transaction's until it ends; None when there is none."""
    row = tx.execute(_Q["take_slice"], {"tenant_id": tenant_id, "max_failures": MAX_FAILURES}).fetchone()
    if row is None:
        return None
    return SliceRecount(id=row[0], tenant_id=row[1], customer_ref=row[2], next_day=row[3], last_day=row[4])


def finish_day(tx: Tx, done: SliceRecount) -> None:
    """The range's next day has been counted again."""
    tx.execute(_Q["delete_slice" if done.next_day == done.last_day else "advance_slice"], {"id": done.id})


def record_failure(tx: Tx, failed: SliceRecount, message: str) -> None:
    """The range's next day could not be counted again, and why."""
    tx.execute(_Q["record_slice_failure"], {"id": failed.id, "message": message})


def stuck_slices(tx: Tx) -> list[StuckSlice]:
    """Ranges over the failure cap: an operator must look."""
    return [
        StuckSlice(
            tenant_id=row[0],
            customer_ref=row[1],
            next_day=row[2],
            last_day=row[3],
            reason=row[4],
            failed_count=row[5],
            last_failure=row[6],
        )
        for row in tx.execute(_Q["load_stuck_slices"], {"max_failures": MAX_FAILURES})
    ]


def retry_slices(tx: Tx, day: date) -> None:
    """Whatever failed on this day is tried again: the day itself has just been counted."""
    tx.execute(_Q["retry_slices"], {"day": day})
