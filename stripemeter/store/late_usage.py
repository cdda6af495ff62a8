"""Carried usage: the table `push_carries`, and the days of which something may be carried.

Belongs here: rows. Does not: how much and where to (`metering.late_usage`, `pipeline.late_usage`). The view `push_days`
counts a carried quantity on the day it is owed on, and no longer on its own.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from psycopg.rows import class_row, dict_row

from stripemeter.metering.deltas import STAMP_WINDOW
from stripemeter.metering.late_usage import LateDay
from stripemeter.store.postgres import Tx
from stripemeter.store.push_entries import PushTarget
from stripemeter.store.sql import load_queries

_Q = load_queries("late_usage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    """Late usage of a day that is owed on another; `entry_id`: the row of the outbox that tells it to Stripe."""

    id: UUID = field(default_factory=uuid.uuid4)
    mapping_id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    from_segment_start: datetime
    from_day: date
    to_segment_start: datetime
    to_day: date
    quantity: Decimal
    carried_at: datetime
    entry_id: UUID | None = None
    entry_state: str | None = None


def has_policy(tx: Tx) -> bool:
    """Whether any mapping that is on carries late usage."""
    row = tx.execute(_Q["has_policy"]).fetchone()
    return row is not None and bool(row[0])


def load_late_days(
    tx: Tx,
    *,
    modes: Collection[str],
    stripe_account_id: str | None,
    left_out: Collection[str],
    first_day: date,
    today: date,
) -> Mapping[PushTarget, Sequence[LateDay]]:
    """By target: days that take nothing more and are not what was sent, of mappings that carry late usage.

    Args:
        tx: the caller's.
        modes: of mappings.
        stripe_account_id: only this account's.
        left_out: tenants.
        first_day: the first day that Stripe takes.
        today: the last day looked at.
    """
    values = {
        "modes": list(modes),
        "stripe_account_id": stripe_account_id,
        "left_out": sorted(left_out),
        "open_days": STAMP_WINDOW.days,
        "first_day": first_day,
        "today": today,
    }
    found: defaultdict[PushTarget, list[LateDay]] = defaultdict(list)
    with tx.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute(_Q["load_late_days"], values, prepare=False):
            late = LateDay(segment_start=row.pop("segment_start"), day=row.pop("day"), lacking=row.pop("lacking"))
            found[PushTarget(**row)].append(late)
    return found


def find_closed(tx: Tx, segments: Sequence[tuple[PushTarget, datetime]]) -> set[int]:
    """The places of the (target, segment start) that have a final invoice: what they are told now is on none."""
    values = {
        "mapping_ids": [target.mapping_id for target, _ in segments],
        "customer_refs": [target.customer_ref for target, _ in segments],
        "segment_starts": [start for _, start in segments],
    }
    return {row[0] - 1 for row in tx.execute(_Q["find_closed"], values)}


def cancel_final(tx: Tx, *, stripe_account_id: str, now: datetime) -> int:
    """Take back rows of an account that are not at Stripe and would come after their invoice; returns how many."""
    return tx.execute(_Q["cancel_final"], {"stripe_account_id": stripe_account_id, "now": now}).rowcount


def insert_carries(tx: Tx, carries: Sequence[Carry]) -> None:
    """Owe late usage on another day. Their targets must be locked."""
    with tx.cursor() as cursor:
        cursor.executemany(_Q["insert_carry"], [asdict(carry) for carry in carries])


def list_carries(tx: Tx, *, tenant_id: str | None = None, limit: int = 1000) -> list[Carry]:
    """What was carried, newest first."""
    with tx.cursor(row_factory=class_row(Carry)) as cursor:
        return cursor.execute(_Q["list_carries"], {"tenant_id": tenant_id, "limit": limit}).fetchall()
