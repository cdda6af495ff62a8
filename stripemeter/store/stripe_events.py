"""The inbox of Stripe's events: the table `stripe_events`.

Belongs here: rows. Does not: signatures (`billing.webhooks`), what an event means (`pipeline.stripe_events` and
whoever else processes a type).

To process types of one's own: name them in `pipeline.stripe_events.PROCESSED_TYPES` so that they are kept waiting,
`list_waiting(tx, types=..., is_live=...)`, do the work so that doing it twice is harmless, then `mark_processed`, or
`note_trouble` to have the event come again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("stripe_events")

EventOutcome = Literal["done", "ignored", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """One event as Stripe told it.

    Args:
        id: Stripe's id; the same for every delivery.
        type: e.g. `invoice.created`.
        stripe_account_id: the account it says it is of; None: the account the webhook belongs to.
        is_live: whether it is of a live account.
        is_thin: a notification without its object: what it tells is asked for by id.
        created_at: by Stripe's clock.
        received_at: by ours, at its first delivery.
        payload: all of it, as delivered; a snapshot's object is `payload["data"]["object"]`.
    """

    id: str
    type: str
    stripe_account_id: str | None
    is_live: bool
    is_thin: bool
    created_at: datetime
    received_at: datetime
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingEvents:
    """How many events nobody has processed yet, and when the first of them arrived."""

    count: int
    oldest_received_at: datetime | None


def insert_event(tx: Tx, event: StripeEvent, *, is_awaited: bool) -> bool:
    """Keep an event, waiting when somebody processes its type; False: it is here already, and nothing changed."""
    values = {name: getattr(event, name) for name in StripeEvent.__dataclass_fields__}
    return tx.execute(_Q["insert"], {**values, "payload": Jsonb(event.payload), "is_awaited": is_awaited}).rowcount > 0


def list_waiting(tx: Tx, *, types: Collection[str], is_live: bool, limit: int = 100) -> list[StripeEvent]:
    """Events of these types that nobody has processed, in the order Stripe made them."""
    values = {"types": sorted(types), "is_live": is_live, "limit": limit}
    with tx.cursor(row_factory=class_row(StripeEvent)) as cursor:
        return cursor.execute(_Q["list_waiting"], values).fetchall()


def mark_processed(
    tx: Tx, event_id: str, outcome: EventOutcome, *, now: datetime, error_message: str | None = None
) -> bool:
    """End an event's wait; False: somebody has, already."""
    values = {"id": event_id, "outcome": outcome, "now": now, "error_message": error_message}
    return tx.execute(_Q["mark_processed"], values).rowcount > 0


def note_trouble(tx: Tx, event_id: str, error_message: str) -> None:
    """Write down why an event still waits."""
    tx.execute(_Q["note_trouble"], {"id": event_id, "error_message": error_message})


def count_waiting(tx: Tx) -> WaitingEvents:
    """What nobody has processed yet."""
    with tx.cursor(row_factory=class_row(WaitingEvents)) as cursor:
        return cursor.execute(_Q["count_waiting"]).fetchone() or WaitingEvents(count=0, oldest_received_at=None)


def delete_processed(tx: Tx, *, before: datetime) -> int:
    """Forget what was processed long ago, but for errors; returns how many."""
    return tx.execute(_Q["delete_processed"], {"before": before}).rowcount
