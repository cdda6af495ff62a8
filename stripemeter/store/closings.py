"""Closings: the tables invoice_closings and invoice_windows, and our side of an invoice's windows.

Belongs here: rows, their states and leases, what was counted and sent. Does not: what a state means
(`pipeline.closing`), proofs (`store.parity_proofs`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from stripemeter.metering.closings import BilledWindow, ClosingState, Control, WindowDay
from stripemeter.metering.days import day_of
from stripemeter.store import ledger
from stripemeter.store.customers import refs_of
from stripemeter.store.postgres import Tx
from stripemeter.store.push_entries import PushTarget
from stripemeter.store.sql import load_queries

_Q = load_queries("closings")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundInvoice:
    """An invoice that bills our usage, as it was found."""

    stripe_account_id: str
    invoice_id: str
    mode: str
    tenant_id: str
    customer_ref: str
    stripe_customer_id: str
    created_at: datetime
    found_at: datetime
    finalizes_at: datetime | None
    settles_at: datetime
    is_grace_short: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """One row of invoice_closings; `control` says who finalizes, `closed_at` that nothing is left to do."""

    stripe_account_id: str
    invoice_id: str
    mode: str
    tenant_id: str
    customer_ref: str
    stripe_customer_id: str
    control: Control
    state: ClosingState
    created_at: datetime
    found_at: datetime
    finalizes_at: datetime | None
    settles_at: datetime
    is_grace_short: bool
    finalize_key_no: int
    finalized_at: datetime | None
    closed_at: datetime | None
    checked_at: datetime | None
    message: str
    released_at: datetime | None
    released_by: str | None
    release_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingWindow:
    """What an invoice bills, and the mapping that feeds it."""

    window: BilledWindow
    mapping_id: UUID
    meter: str
    mode: str
    stripe_event_name: str
    stripe_meter_id: str

    def target(self, closing: Closing) -> PushTarget:
        """The customer on the Stripe meter, as the outbox knows it."""
        return PushTarget(
            mapping_id=self.mapping_id,
            tenant_id=closing.tenant_id,
            meter=self.meter,
            customer_ref=closing.customer_ref,
            stripe_account_id=closing.stripe_account_id,
            stripe_event_name=self.stripe_event_name,
            stripe_meter_id=self.stripe_meter_id,
            stripe_customer_id=closing.stripe_customer_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SentEntry:
    """An event Stripe acknowledged; `settled_at` is when."""

    segment_start: datetime
    day: date
    identifier: str
    delta: Decimal
    stamped_at: datetime
    settled_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedMeter:
    """Our meter that feeds a meter at Stripe."""

    mapping_id: UUID
    meter: str


def load_poll(tx: Tx, stripe_account_id: str) -> datetime | None:
    """Up to when an account's invoices are known; None: nobody looked yet."""
    row = tx.execute(_Q["load_poll"], {"stripe_account_id": stripe_account_id}).fetchone()
    return None if row is None else row[0]


def save_poll(tx: Tx, stripe_account_id: str, polled_at: datetime) -> None:
    """They are known up to here; never moves back."""
    tx.execute(_Q["save_poll"], {"stripe_account_id": stripe_account_id, "polled_at": polled_at})


def load_owners(tx: Tx, stripe_account_id: str, customers: Collection[str]) -> dict[str, tuple[str, str]]:
    """(tenant, customer) of each of these Stripe customers that somebody is."""
    values = {"stripe_account_id": stripe_account_id, "stripe_customer_ids": sorted(customers)}
    return {row[0]: (row[1], row[2]) for row in tx.execute(_Q["load_owners"], values)}


def load_mapped(tx: Tx, stripe_account_id: str, mode: str) -> dict[tuple[str, str], MappedMeter]:
    """By (tenant, Stripe meter): what feeds it in this mode."""
    rows = tx.execute(_Q["load_mapped"], {"stripe_account_id": stripe_account_id, "mode": mode})
    return {(row[0], row[1]): MappedMeter(mapping_id=row[2], meter=row[3]) for row in rows}


def load_known(tx: Tx, stripe_account_id: str, invoice_ids: Collection[str]) -> set[str]:
    """Those of these invoices that have a row."""
    values = {"stripe_account_id": stripe_account_id, "invoice_ids": sorted(invoice_ids)}
    return {row[0] for row in tx.execute(_Q["load_known"], values)}


def insert_found(tx: Tx, found: FoundInvoice, windows: Mapping[BilledWindow, MappedMeter]) -> bool:
    """Record an invoice and what it bills; False when it was recorded before."""
    is_new = tx.execute(_Q["insert_closing"], asdict(found)).rowcount > 0
    if is_new:
        add_windows(tx, found.stripe_account_id, found.invoice_id, windows)
    return is_new


def add_windows(tx: Tx, stripe_account_id: str, invoice_id: str, windows: Mapping[BilledWindow, MappedMeter]) -> None:
    """Record what an invoice bills; what is recorded stays."""
    for window, mapped in windows.items():
        values = {**asdict(window), **asdict(mapped), "stripe_account_id": stripe_account_id, "invoice_id": invoice_id}
        tx.execute(_Q["insert_window"], values)


def take_control(tx: Tx, stripe_account_id: str, invoice_id: str) -> bool:
    """Say that we finalize it from here on; False when it is under control or further already."""
    return tx.execute(_Q["take_control"], _key(stripe_account_id, invoice_id)).rowcount > 0


def list_due(tx: Tx, *, stripe_account_id: str, mode: str, now: datetime) -> list[Closing]:
    """Invoices with something to do now, the longest settled first."""
    return _closings(tx, "list_due", {"stripe_account_id": stripe_account_id, "mode": mode, "now": now})


def list_closings(
    tx: Tx,
    *,
    tenant_id: str | None = None,
    invoice_id: str | None = None,
    is_open: bool = False,
    after: tuple[datetime, str] | None = None,
    limit: int = 100,
) -> list[Closing]:
    """Invoices, newest first, those beyond `after`; open: not closed, or failed and not released."""
    values = {
        "tenant_id": tenant_id,
        "invoice_id": invoice_id,
        "is_open": is_open,
        "after_created_at": after and after[0],
        "after_invoice_id": after and after[1],
        "limit": limit,
    }
    return _closings(tx, "list_closings", values)


def load_closing(tx: Tx, closing: Closing) -> Closing:
    """An invoice as it is now."""
    return _closings(tx, "load_closing", _key(closing.stripe_account_id, closing.invoice_id))[0]


def list_short_graces(tx: Tx, *, created_from: datetime, limit: int = 100) -> list[Closing]:
    """Invoices since then that Stripe finalizes before what is late can be on them, newest first."""
    return _closings(tx, "list_short_graces", {"created_from": created_from, "limit": limit})


def claim(tx: Tx, closing: Closing, *, now: datetime, lease_until: datetime) -> Closing | None:
    """Take an invoice to work on, as it is now; None when somebody else has it or it is closed."""
    values = {**_key(closing.stripe_account_id, closing.invoice_id), "now": now, "lease_until": lease_until}
    found = _closings(tx, "claim", values)
    return found[0] if found else None


def move(
    tx: Tx,
    closing: Closing,
    state: ClosingState,
    *,
    now: datetime,
    message: str = "",
    settles_at: datetime | None = None,
    finalized_at: datetime | None = None,
    closed_at: datetime | None = None,
) -> bool:
    """Put an invoice into its next state, or a message on the one it has; False when somebody else moved it."""
    values = {
        **_key(closing.stripe_account_id, closing.invoice_id),
        "from_state": closing.state,
        "state": state,
        "message": message,
        "settles_at": settles_at,
        "finalized_at": finalized_at,
        "closed_at": closed_at,
        "now": now,
    }
    return tx.execute(_Q["move"], values).rowcount > 0


def let_go(tx: Tx, closing: Closing) -> None:
    """Let anybody work on it."""
    tx.execute(_Q["let_go"], _key(closing.stripe_account_id, closing.invoice_id))


def bump_key(tx: Tx, closing: Closing) -> None:
    """The next finalizing goes under another Idempotency-Key."""
    values = {**_key(closing.stripe_account_id, closing.invoice_id), "finalize_key_no": closing.finalize_key_no}
    tx.execute(_Q["bump_key"], values)


def release(tx: Tx, invoice_id: str, *, actor: str, reason: str, now: datetime) -> bool:
    """Record that a person takes a failed invoice's difference upon themselves; False: it is not failed, or was."""
    values = {"invoice_id": invoice_id, "actor": actor, "reason": reason, "now": now}
    return tx.execute(_Q["release"], values).rowcount > 0


def load_windows(tx: Tx, closing: Closing) -> list[ClosingWindow]:
    """What an invoice bills, by meter and time."""
    return [
        ClosingWindow(
            window=BilledWindow(stripe_item_id=row[0], price_id=row[1], starts_at=row[2], ends_at=row[3]),
            mapping_id=row[4],
            meter=row[5],
            mode=row[6],
            stripe_event_name=row[7],
            stripe_meter_id=row[8],
        )
        for row in tx.execute(_Q["load_windows"], _key(closing.stripe_account_id, closing.invoice_id))
    ]


def load_days(tx: Tx, closing: Closing, part: ClosingWindow) -> list[WindowDay]:
    """The days a window touches; of a day that it cuts, the parts on both sides."""
    values = {
        "tenant_id": closing.tenant_id,
        "mapping_id": part.mapping_id,
        "customer_ref": closing.customer_ref,
        **_days(part.window),
    }
    with tx.cursor(row_factory=class_row(WindowDay)) as cursor:
        return cursor.execute(_Q["load_days"], values).fetchall()


def load_sent(tx: Tx, closing: Closing, part: ClosingWindow) -> list[SentEntry]:
    """What Stripe acknowledged of the same days."""
    values = {
        "stripe_account_id": closing.stripe_account_id,
        "stripe_event_name": part.stripe_event_name,
        "stripe_customer_id": closing.stripe_customer_id,
        **_days(part.window),
    }
    with tx.cursor(row_factory=class_row(SentEntry)) as cursor:
        return cursor.execute(_Q["load_sent"], values).fetchall()


def has_unfolded(tx: Tx, closing: Closing, window: BilledWindow) -> bool:
    """Whether a stored event of the customer in the window is not counted yet.

    Raises:
        InvariantBroken: the database was restored into another cluster.
    """
    values = {
        "tenant_id": closing.tenant_id,
        "customer_refs": refs_of(tx, closing.tenant_id, closing.customer_ref),
        "folded_below": str(ledger.load_cursor(tx)),
        "starts_at": window.starts_at,
        "ends_at": window.ends_at,
    }
    row = tx.execute(_Q["has_unfolded"], values).fetchone()
    return row is not None and bool(row[0])


def sent_inside(entries: Iterable[SentEntry], window: BilledWindow) -> list[SentEntry]:
    """Those stamped inside the window."""
    return [entry for entry in entries if window.starts_at <= entry.stamped_at < window.ends_at]


def _closings(tx: Tx, query: str, values: dict[str, Any]) -> list[Closing]:
    with tx.cursor(row_factory=class_row(Closing)) as cursor:
        return cursor.execute(_Q[query], values).fetchall()


def _key(stripe_account_id: str, invoice_id: str) -> dict[str, str]:
    return {"stripe_account_id": stripe_account_id, "invoice_id": invoice_id}


def _days(window: BilledWindow) -> dict[str, date]:
    return {"first_day": day_of(window.starts_at), "last_day": day_of(window.ends_at)}
