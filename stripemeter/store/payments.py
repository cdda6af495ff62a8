"""Payments as Stripe told of them: the tables `payment_attempts` and `subscription_states`.

Belongs here: rows. Does not: reading events (`pipeline.payments`), what follows from them (`access.dunning`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime

from psycopg.rows import class_row

from stripemeter.access.dunning import Outcome, PaymentAttempt
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("payments")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldAttempt:
    """An attempt to collect an invoice, as one event told it."""

    event_id: str
    stripe_account_id: str
    stripe_customer_id: str
    is_live: bool
    invoice_id: str
    outcome: Outcome
    number: int
    at: datetime
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldState:
    """A subscription's status, as one event told it."""

    event_id: str
    stripe_account_id: str
    stripe_customer_id: str
    is_live: bool
    subscription_id: str
    status: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionState:
    """What a subscription's status was said to be."""

    stripe_account_id: str
    subscription_id: str
    status: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadEvent:
    """An event about a customer's payments that nobody has read; `error_message`: why not."""

    id: str
    error_message: str | None


def insert_told(tx: Tx, told: ToldAttempt | ToldState) -> None:
    """Keep what an event told; again changes nothing."""
    tx.execute(_Q["insert_attempt" if isinstance(told, ToldAttempt) else "insert_state"], asdict(told))


def list_attempts(tx: Tx, *, tenant_id: str, customer_ref: str, is_live: bool) -> list[PaymentAttempt]:
    """Every attempt to collect from a customer, in any order."""
    values = {"tenant_id": tenant_id, "customer_ref": customer_ref, "is_live": is_live}
    with tx.cursor(row_factory=class_row(PaymentAttempt)) as cursor:
        return cursor.execute(_Q["list_attempts"], values).fetchall()


def list_states(tx: Tx, *, tenant_id: str, customer_ref: str, is_live: bool) -> list[SubscriptionState]:
    """Every status of a customer's subscriptions, in any order."""
    values = {"tenant_id": tenant_id, "customer_ref": customer_ref, "is_live": is_live}
    with tx.cursor(row_factory=class_row(SubscriptionState)) as cursor:
        return cursor.execute(_Q["list_states"], values).fetchall()


def find_unread(
    tx: Tx, *, tenant_id: str, customer_ref: str, types: Collection[str], is_live: bool
) -> UnreadEvent | None:
    """The first event of these types about a customer that waits in the inbox."""
    values = {"tenant_id": tenant_id, "customer_ref": customer_ref, "types": sorted(types), "is_live": is_live}
    with tx.cursor(row_factory=class_row(UnreadEvent)) as cursor:
        return cursor.execute(_Q["find_unread"], values).fetchone()


def delete_old(tx: Tx, *, before: datetime) -> int:
    """Forget settled invoices and superseded statuses of before then; returns how many rows."""
    settled = tx.execute(_Q["delete_settled"], {"before": before}).rowcount
    return settled + tx.execute(_Q["delete_superseded"], {"before": before}).rowcount
