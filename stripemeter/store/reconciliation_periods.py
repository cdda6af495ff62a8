"""Reconciliation by calendar month, as the HTTP contract and the metrics speak of it.

Belongs here: the latest verdicts added up by mapped meter, customer and UTC month. Does not: judging days
(`metering.drift`), how a month looks on the wire (`stripemeter_api.reconciliation`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("reconciliation_periods")

MonthStatus = Literal["ok", "investigate", "resolved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciledMonth:
    """A mapped meter and customer in one UTC month; `stripe` is None while a day of it could not be read.

    Args:
        is_billed: False for the shadow mapping of a meter that is mapped live too: left out of sums.
        had_drift: a day of it once differed without a cause that passes by itself.
        causes: of the differences there are now.
    """

    mapping_id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    month: date
    mode: str
    is_billed: bool
    local: Decimal
    stripe: Decimal | None
    has_unknown: bool
    has_drift: bool
    has_tolerated: bool
    had_drift: bool
    causes: list[str]
    checked_at: datetime

    @property
    def drift(self) -> Decimal | None:
        """Ours minus theirs; None while theirs is not known."""
        return None if self.stripe is None else self.local - self.stripe

    @property
    def item(self) -> str:
        """What the contract calls the subscription item: the meter and the customer, which decide it."""
        return f"{self.meter}:{self.customer_ref}"

    @property
    def status(self) -> MonthStatus:
        """The contract's word: a day that differs or is unknown is `investigate`, never `ok`."""
        if self.has_unknown or self.has_drift:
            return "investigate"
        return "resolved" if self.had_drift else "ok"


def list_months(tx: Tx, *, tenant_id: str | None, first_on: date, last_on: date, limit: int) -> list[ReconciledMonth]:
    """Every mapped meter, customer and month between two days, worst first: unknown, then by absolute drift."""
    values = {"tenant_id": tenant_id, "first_on": first_on, "last_on": last_on, "limit": limit}
    with tx.cursor(row_factory=class_row(ReconciledMonth)) as cursor:
        return cursor.execute(_Q["list_items"], values, prepare=False).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDrift:
    """One customer's month that differs: ours minus Stripe's, and Stripe's total."""

    tenant_id: str
    item: str
    period: str
    drift: Decimal
    stripe: Decimal


def list_worst(tx: Tx, *, first_on: date, limit: int) -> list[ItemDrift]:
    """The months that differ most since a day, over all tenants, worst first."""
    with tx.cursor(row_factory=class_row(ItemDrift)) as cursor:
        return cursor.execute(_Q["list_worst"], {"first_on": first_on, "limit": limit}).fetchall()


def drift_ratio(drift: Decimal, stripe: Decimal) -> Decimal:
    """Absolute drift as a fraction of Stripe's number; 1 where Stripe has nothing and there is drift."""
    if stripe == 0:
        return Decimal(0) if drift == 0 else Decimal(1)
    return (abs(drift) / abs(stripe)).quantize(Decimal("1e-12")).normalize()
