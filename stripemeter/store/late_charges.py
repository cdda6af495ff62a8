"""Late charges: the tables late_charges and late_charge_days, and which windows want one.

Belongs here: rows and their states. Does not: what a charge comes to (`pipeline.late_pricing`), which are made
(`pipeline.late_charges`), sending them (`pipeline.late_sending`). The view `carry_changes` takes what a charge bills
off its days.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.metering.closings import BilledWindow
from stripemeter.metering.deltas import STAMP_WINDOW
from stripemeter.metering.price_mappings import LatePolicy
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("late_charges")

ChargeKind = Literal["invoice_item", "credit_note", "nothing"]
ChargeState = Literal["planned", "sending", "accepted", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LateWindows:
    """The windows of a mapping on a final invoice that lack usage. `since`: the first day that was meant for Stripe."""

    invoice_id: str
    mapping_id: UUID
    late_policy: LatePolicy
    since: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """An earlier charge of a window."""

    seq: int
    quantity_after: Decimal
    state: ChargeState
    released_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LateCharge:
    """One row of late_charges: from `quantity_before` to `quantity_after` of a window that a final invoice bills."""

    id: UUID
    identity: str
    kind: ChargeKind
    mode: str
    mapping_id: UUID
    tenant_id: str
    meter: str
    customer_ref: str
    stripe_account_id: str
    stripe_customer_id: str
    invoice_id: str
    stripe_item_id: str
    price_id: str
    starts_at: datetime
    ends_at: datetime
    seq: int
    quantity_before: Decimal
    quantity_after: Decimal
    amount_minor: int
    currency: str
    derivation: str
    derivation_sha256: str
    state: ChargeState
    planned_at: datetime
    attempt: int = 0
    key_no: int = 0
    settled_at: datetime | None = None
    stripe_object_id: str | None = None
    http_status: int | None = None
    error_message: str = ""
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargedDay:
    """How much of a day a charge bills."""

    segment_start: datetime
    day: date
    quantity: Decimal


def find_late_windows(
    tx: Tx, *, stripe_account_id: str, mode: str, invoice_id: str | None, left_out: Collection[str], now: datetime
) -> list[LateWindows]:
    """Where late usage is to be billed as money, by invoice, or of one; without these tenants."""
    values = {
        "stripe_account_id": stripe_account_id,
        "mode": mode,
        "invoice_id": invoice_id,
        "left_out": sorted(left_out),
        "open_days": STAMP_WINDOW.days,
        "now": now,
    }
    with tx.cursor(row_factory=class_row(LateWindows)) as cursor:
        return cursor.execute(_Q["find_late_windows"], values, prepare=False).fetchall()


def load_charged(tx: Tx, stripe_account_id: str, invoice_id: str, window: BilledWindow) -> list[Charged]:
    """The charges of a window, in order."""
    values = {"stripe_account_id": stripe_account_id, "invoice_id": invoice_id, **asdict(window)}
    with tx.cursor(row_factory=class_row(Charged)) as cursor:
        return cursor.execute(_Q["load_charged"], values).fetchall()


def insert_charge(tx: Tx, charge: LateCharge, days: Sequence[ChargedDay]) -> None:
    """Write a charge down. Its target must be locked."""
    tx.execute(_Q["insert_charge"], asdict(charge))
    of_charge = {"charge_id": charge.id, "mapping_id": charge.mapping_id, "customer_ref": charge.customer_ref}
    for day in days:
        tx.execute(_Q["insert_day"], {**of_charge, **asdict(day)})


def claim_due(
    tx: Tx, *, stripe_account_id: str, mode: str, but: Collection[UUID], now: datetime, lease_until: datetime
) -> LateCharge | None:
    """The next charge that is ours to send; None: there is none."""
    values = {
        "stripe_account_id": stripe_account_id,
        "mode": mode,
        "but": list(but),
        "now": now,
        "lease_until": lease_until,
    }
    with tx.cursor(row_factory=class_row(LateCharge)) as cursor:
        return cursor.execute(_Q["claim_due"], values).fetchone()


def settle_accepted(tx: Tx, charge: LateCharge, *, stripe_object_id: str, now: datetime) -> None:
    """Stripe has it."""
    tx.execute(_Q["settle_accepted"], {"id": charge.id, "stripe_object_id": stripe_object_id, "now": now})


def settle_rejected(tx: Tx, charge: LateCharge, *, http_status: int, error_message: str, now: datetime) -> None:
    """Stripe refused it."""
    values = {"id": charge.id, "http_status": http_status, "error_message": error_message, "now": now}
    tx.execute(_Q["settle_rejected"], values)


def settle_open(
    tx: Tx,
    charge: LateCharge,
    *,
    next_attempt_at: datetime,
    is_new_key: bool,
    http_status: int | None,
    error_message: str,
) -> None:
    """It is tried again."""
    values = {
        "id": charge.id,
        "next_attempt_at": next_attempt_at,
        "key_steps": int(is_new_key),
        "http_status": http_status,
        "error_message": error_message,
    }
    tx.execute(_Q["settle_open"], values)


def release(tx: Tx, charge_id: UUID, *, now: datetime) -> bool:
    """Let the usage of a refused charge be charged anew; False: it is not refused, or was released."""
    return tx.execute(_Q["release"], {"id": charge_id, "now": now}).rowcount > 0


def list_charges(
    tx: Tx, *, tenant_id: str | None = None, is_every: bool = False, limit: int = 1000
) -> list[LateCharge]:
    """Newest first: those that are not settled or wait for a person, or all."""
    values = {"tenant_id": tenant_id, "is_every": is_every, "limit": limit}
    with tx.cursor(row_factory=class_row(LateCharge)) as cursor:
        return cursor.execute(_Q["list_charges"], values).fetchall()
