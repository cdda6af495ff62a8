"""Verdicts: how each day compares with Stripe.

Belongs here: our side of the comparison, the latest verdicts, confirming rows. Does not: judging (`metering.drift`),
reading Stripe (`billing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.metering.drift import Cause, Status
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("reconciliation")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDay:
    """One day of one mapped meter and bound customer, as we know it."""

    mapping_id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    stripe_account_id: str
    stripe_event_name: str
    stripe_meter_id: str
    stripe_customer_id: str
    segment_start: datetime
    day: date
    counted: Decimal
    planned: Decimal
    accepted: Decimal
    last_accepted_at: datetime | None
    is_rejected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciledDay:
    """A day's verdict as it is stored; `stripe_quantity` is None when Stripe could not be read."""

    mapping_id: UUID
    customer_ref: str
    segment_start: datetime
    day: date
    tenant_id: str
    meter: str
    status: Status
    cause: Cause | None
    local_quantity: Decimal
    pushed_quantity: Decimal
    stripe_quantity: Decimal | None
    checked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVerdict:
    """A verdict that is not ok."""

    tenant_id: str
    meter: str
    customer_ref: str
    segment_start: datetime
    day: date
    status: str
    cause: Cause | None
    local_quantity: Decimal
    pushed_quantity: Decimal
    stripe_quantity: Decimal | None
    drift: Decimal | None
    checked_at: datetime


def load_local_days(tx: Tx, *, stripe_account_id: str, mode: str, first_day: date, today: date) -> list[LocalDay]:
    """Every day inside the window that we counted or sent, by mapping and customer."""
    values = {"stripe_account_id": stripe_account_id, "mode": mode, "first_day": first_day, "today": today}
    with tx.cursor(row_factory=class_row(LocalDay)) as cursor:
        return cursor.execute(_Q["load_days"], values).fetchall()


def replace_verdicts(tx: Tx, verdicts: Sequence[ReconciledDay]) -> None:
    """Make these the latest verdicts."""
    values = {column.name: [getattr(verdict, column.name) for verdict in verdicts] for column in fields(ReconciledDay)}
    tx.execute(_Q["replace_verdicts"], values)


def confirm_days(tx: Tx, readings: Sequence[tuple[LocalDay, Decimal]]) -> int:
    """Confirm the accepted rows of the days that Stripe reports exactly, each with its reading; returns how many."""
    names = ("stripe_account_id", "stripe_event_name", "stripe_customer_id", "segment_start", "day")
    values: dict[str, list[object]] = {name: [getattr(day, name) for day, _ in readings] for name in names}
    return tx.execute(_Q["confirm_days"], values | {"stripe_quantity": [quantity for _, quantity in readings]}).rowcount


def list_verdicts(tx: Tx, *, tenant_id: str | None = None, limit: int = 100) -> list[OpenVerdict]:
    """The latest verdicts that are not ok, worst first."""
    with tx.cursor(row_factory=class_row(OpenVerdict)) as cursor:
        return cursor.execute(_Q["list_verdicts"], {"tenant_id": tenant_id, "limit": limit}).fetchall()


def count_verdicts(tx: Tx, *, tenant_id: str | None = None) -> dict[str, int]:
    """How many days have each status."""
    return {row[0]: row[1] for row in tx.execute(_Q["count_verdicts"], {"tenant_id": tenant_id})}
