"""Stripe corrections: the table `stripe_corrections`.

Belongs here: rows. Does not: when a surplus becomes a suggestion (`pipeline.reconcile`), deciding one
(`pipeline.repair`). An approved one counts as at Stripe in `push_totals`, so the next push sends its negative.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.store.postgres import Tx
from stripemeter.store.reconciliations import LocalDay
from stripemeter.store.sql import load_queries

_Q = load_queries("corrections")


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What Stripe holds too much of a day. `status`: suggested, approved, resolved."""

    id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    segment_start: datetime
    day: date
    surplus: Decimal
    status: str
    suggested_at: datetime
    actor: str | None
    reason: str | None


def suggest(tx: Tx, day: LocalDay, surplus: Decimal, *, now: datetime) -> None:
    """Suggest taking a surplus back; one suggestion per day, which follows the surplus."""
    values = {"id": uuid.uuid4(), "tenant_id": day.tenant_id, "meter": day.meter, "customer_ref": day.customer_ref}
    tx.execute(_Q["suggest"], {**_key(day), **values, "surplus": surplus, "now": now})


def resolve(tx: Tx, days: Sequence[LocalDay], *, now: datetime) -> None:
    """Withdraw the suggestions of some days, where there are any: their surplus is gone."""
    keys = [_key(day) for day in days]
    tx.execute(_Q["resolve"], {name: [key[name] for key in keys] for name in _KEY_NAMES} | {"now": now})


def lock_correction(tx: Tx, correction_id: UUID, *, tenant_id: str | None = None) -> Correction | None:
    """One, nobody else's until the transaction ends; None: there is none, or it is another tenant's."""
    with tx.cursor(row_factory=class_row(Correction)) as cursor:
        return cursor.execute(_Q["lock_correction"], {"id": correction_id, "tenant_id": tenant_id}).fetchone()


def approve(tx: Tx, correction_id: UUID, *, actor: str, reason: str, now: datetime) -> None:
    """A person lets a locked suggestion be taken back."""
    tx.execute(_Q["approve"], {"id": correction_id, "actor": actor, "reason": reason, "now": now})


def list_suggested(
    tx: Tx,
    *,
    tenant_id: str | None = None,
    first_on: date | None = None,
    last_on: date | None = None,
    limit: int = 1000,
) -> list[Correction]:
    """What awaits a decision, oldest day first."""
    values = {"tenant_id": tenant_id, "first_on": first_on, "last_on": last_on, "limit": limit}
    with tx.cursor(row_factory=class_row(Correction)) as cursor:
        return cursor.execute(_Q["list_suggested"], values, prepare=False).fetchall()


_KEY_NAMES = ("stripe_account_id", "stripe_event_name", "stripe_customer_id", "segment_start", "day")


def _key(day: LocalDay) -> dict[str, object]:
    return {name: getattr(day, name) for name in _KEY_NAMES}
