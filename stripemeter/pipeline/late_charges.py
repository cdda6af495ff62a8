"""Charging late usage: what came after its invoice was final, as money, where a mapping says so.

Belongs here: which windows, what each is charged, the report. Does not: the amount (`late_pricing`), sending it
(`late_sending`), usage that is carried instead (`late_usage`).

A window is charged when its invoice is final and its usage has settled, so that late usage is one item and not one for
each event; and before its parity is proven, so that the proof counts without what is billed elsewhere. What costs more
becomes an item on the customer's next invoice; what costs less becomes a credit note under the policy `credit_note`,
and is held under `invoice_item`. Usage that moved between days of a window changes no amount, and is held. Of an
invoice whose proof failed nothing is charged unless somebody names it: a person may have billed it by hand.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Invoice, InvoiceLine
from stripemeter.errors import NotAllowed, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.closings import WindowDay, days_inside, is_whole
from stripemeter.metering.late_usage import charge_identity
from stripemeter.metering.price_mappings import LatePolicy
from stripemeter.pipeline.closing_discovery import Prices
from stripemeter.pipeline.late_pricing import LatePrice, price_late
from stripemeter.pipeline.late_sending import Sent, send_charges
from stripemeter.pipeline.prove import load_conservation
from stripemeter.pipeline.restore_fence import find_contradiction
from stripemeter.pricing.prices import Price
from stripemeter.store import closings, late_charges, push_entries, push_epochs
from stripemeter.store.closings import Closing, ClosingWindow
from stripemeter.store.customers import load_phases_of
from stripemeter.store.late_charges import Charged, ChargedDay, LateCharge, LateWindows
from stripemeter.store.mappings import list_mappings
from stripemeter.store.postgres import Tx, transaction

_MONEY: tuple[LatePolicy, ...] = ("invoice_item", "credit_note")
_FAILED = "its proof failed, so it may be billed by hand: if it is not, `stripemeter late apply --invoice` charges it"
MAX_ROWS = 1000
"""Most rows of a report; the counts are of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateRow:
    """What became of a window's late usage; `amount_minor` is below 0 where it is credited."""

    tenant_id: str
    meter: str
    customer_ref: str
    invoice_id: str
    quantity: Decimal
    amount_minor: int
    currency: str
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LateReport:
    """What charging did, for one account.

    Args:
        accepted: amounts Stripe has now, and windows whose late usage costs nothing.
        unsettled: on their way; tried again by themselves.
        rejected: refused by Stripe: they wait for a person.
        held: windows with late usage that is not charged; the row says why.
        stopped: why nothing more was done; empty when everything was.
        rows: each of them, at most MAX_ROWS.
    """

    stripe_account_id: str
    accepted: int
    unsettled: int
    rejected: int
    held: int
    stopped: str
    rows: tuple[LateRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """A window with late usage, its lines on the invoice that bills it, and whether that one was asked for."""

    closing: Closing
    part: ClosingWindow
    late: LateWindows
    lines: Sequence[InvoiceLine]
    is_asked: bool


def charge_late_usage(
    pool: ConnectionPool,
    sink: BillingSink,
    *,
    now: datetime,
    witnesses: Path | None = None,
    invoice_id: str | None = None,
) -> LateReport:
    """Write down what late usage is to be charged at the account, and send what is not there yet.

    Nothing of a tenant whose events do not add up is charged, nor anything from a database that was restored. What
    stops it is told in the report, not raised: closing goes on after it, and a charge that was written down by itself.

    Args:
        pool: the database.
        sink: the account; only mappings of its mode are charged there.
        now: aware.
        witnesses: as for `push_usage`.
        invoice_id: only this invoice's late usage, although its proof may have failed; None: every other's.
    """
    account, stopped, rows = "", "", list[LateRow]()
    try:
        account = sink.account_id()
        _require_same_database(pool, sink, witnesses)
        rows = _plan(pool, sink, account, invoice_id, now=now)
        sent, stopped = send_charges(pool, sink, now=now)
        rows += [_sent_row(one) for one in sent]
    except (StripeRejected, Unavailable, OutcomeUnknown, NotAllowed) as error:
        stopped = str(error)
    counts = Counter(row.outcome for row in rows)
    return LateReport(
        stripe_account_id=account,
        accepted=counts["accepted"],
        unsettled=counts["unsettled"],
        rejected=counts["rejected"],
        held=counts["held"],
        stopped=stopped,
        rows=tuple(sorted(rows, key=lambda row: row.outcome == "accepted")[:MAX_ROWS]),
    )


def _require_same_database(pool: ConnectionPool, sink: BillingSink, witnesses: Path | None) -> None:
    with transaction(pool) as tx:
        push_epochs.require_open(tx)
    contradiction = "" if witnesses is None else find_contradiction(pool, [sink], witnesses)
    if contradiction:
        raise NotAllowed(contradiction)


def _plan(
    pool: ConnectionPool, sink: BillingSink, account: str, invoice_id: str | None, *, now: datetime
) -> list[LateRow]:
    """Charges of what is late now, written down; the rows are of what costs nothing or is held."""
    with transaction(pool) as tx:
        if not any(one.mode == sink.mode and one.late_policy in _MONEY for one in list_mappings(tx)):
            return []
        broken = {tenant.tenant_id for tenant in load_conservation(tx) if not tenant.holds}
        found = late_charges.find_late_windows(
            tx, stripe_account_id=account, mode=sink.mode, invoice_id=invoice_id, left_out=broken, now=now
        )
    prices, rows = Prices(sink), list[LateRow]()
    invoices: dict[str, Invoice | None] = {}
    for late in found:
        if late.invoice_id not in invoices:
            invoices[late.invoice_id] = sink.find_invoice(late.invoice_id)
        invoice = invoices[late.invoice_id]
        if invoice is None or invoice.status in ("draft", "void"):
            continue  # closing drops it, or has not seen that it is no draft any more
        for window in _windows(pool, account, late, invoice, is_asked=invoice_id is not None):
            terms = prices.terms_of(window.part.window.price_id)
            with transaction(pool) as tx:
                push_entries.lock_targets(tx, [window.part.target(window.closing)])
                row = _plan_window(tx, window, terms, now=now)
            rows += [row] if row is not None else []
    return rows


def _windows(
    pool: ConnectionPool, account: str, late: LateWindows, invoice: Invoice, *, is_asked: bool
) -> list[_Window]:
    with transaction(pool) as tx:
        (closing,) = [
            one
            for one in closings.list_closings(tx, invoice_id=late.invoice_id, limit=2)
            if one.stripe_account_id == account
        ]
        parts = [part for part in closings.load_windows(tx, closing) if part.mapping_id == late.mapping_id]
    return [
        _Window(
            closing=closing,
            part=part,
            late=late,
            lines=[line for line in invoice.lines if _is_of(line, part)],
            is_asked=is_asked,
        )
        for part in parts
    ]


def _is_of(line: InvoiceLine, part: ClosingWindow) -> bool:
    window = part.window
    ours = (window.stripe_item_id, window.price_id, window.starts_at, window.ends_at)
    return (line.stripe_item_id, line.price_id, line.start, line.end) == ours


def _plan_window(tx: Tx, window: _Window, terms: Price | str, *, now: datetime) -> LateRow | None:
    """Write a charge of the window down; a row when it costs nothing or is held. Its target is locked."""
    closing, part = window.closing, window.part
    days = days_inside(closings.load_days(tx, closing, part), part.window)
    late = [day for day in days if day.counted != day.planned and day.day >= window.late.since]
    quantity = sum((day.counted - day.planned for day in late), Decimal(0))
    if not late:
        return None
    if closing.state == "failed" and not window.is_asked:
        return _held_row(window, quantity, _FAILED)
    charged = late_charges.load_charged(tx, closing.stripe_account_id, closing.invoice_id, part.window)
    phases = load_phases_of(tx, closing.tenant_id, closing.customer_ref, part.meter)
    reason = _why_not(
        days, charged, quantity, is_whole_window=part.mode == closing.mode and is_whole(phases, part.window)
    )
    if reason:
        return _held_row(window, quantity, reason)
    before = _billed(window.lines, charged)
    priced = price_late(window.lines, terms, before=before, after=before + quantity)
    if isinstance(priced, str) or not _allows(window.late.late_policy, priced):
        reason = priced if isinstance(priced, str) else "it costs less than was billed, and its policy credits nothing"
        return _held_row(window, quantity, reason)
    charge = _charge(window, priced, seq=len(charged) + 1, before=before, after=before + quantity, now=now)
    of_days = [
        ChargedDay(segment_start=day.segment_start, day=day.day, quantity=day.counted - day.planned) for day in late
    ]
    late_charges.insert_charge(tx, charge, of_days)
    return (
        _sent_row(Sent(charge=charge, outcome="accepted", reason="costs nothing")) if priced.amount_minor == 0 else None
    )


def _why_not(days: Sequence[WindowDay], charged: Sequence[Charged], quantity: Decimal, *, is_whole_window: bool) -> str:
    """Why a window is not charged now; empty when it is."""
    if not is_whole_window:
        return "no billing windows of ours are Stripe's, or the mapping was switched"
    if any(day.planned != day.accepted for day in days):
        return "usage of it is in flight"
    if any(one.state in ("planned", "sending") for one in charged):
        return "an earlier charge of it is on its way"
    if any(one.state == "rejected" and one.released_at is None for one in charged):
        return "Stripe refused to charge it: see `stripemeter late list`"
    return "" if quantity else "it moved between days of the window"


def _billed(lines: Sequence[InvoiceLine], charged: Sequence[Charged]) -> Decimal:
    """What the invoice and earlier charges bill."""
    standing = [one.quantity_after for one in charged if one.state == "accepted"]
    return standing[-1] if standing else sum((line.quantity for line in lines), Decimal(0))


def _allows(policy: LatePolicy, priced: LatePrice) -> bool:
    return priced.kind != "credit_note" or policy == "credit_note"


def _charge(
    window: _Window, priced: LatePrice, *, seq: int, before: Decimal, after: Decimal, now: datetime
) -> LateCharge:
    closing, part = window.closing, window.part
    is_sent = priced.amount_minor > 0
    return LateCharge(
        id=uuid.uuid4(),
        identity=charge_identity(
            stripe_account_id=closing.stripe_account_id,
            invoice_id=closing.invoice_id,
            window=part.window,
            seq=seq,
            before=before,
            after=after,
            amount=f"{priced.kind} {priced.amount_minor} {priced.currency}",
        ),
        kind=priced.kind,
        mode=closing.mode,
        mapping_id=part.mapping_id,
        tenant_id=closing.tenant_id,
        meter=part.meter,
        customer_ref=closing.customer_ref,
        stripe_account_id=closing.stripe_account_id,
        stripe_customer_id=closing.stripe_customer_id,
        invoice_id=closing.invoice_id,
        stripe_item_id=part.window.stripe_item_id,
        price_id=part.window.price_id,
        starts_at=part.window.starts_at,
        ends_at=part.window.ends_at,
        seq=seq,
        quantity_before=before,
        quantity_after=after,
        amount_minor=priced.amount_minor,
        currency=priced.currency,
        derivation=priced.derivation,
        derivation_sha256=priced.derivation_sha256,
        state="planned" if is_sent else "accepted",
        planned_at=now,
        settled_at=None if is_sent else now,
    )


def _held_row(window: _Window, quantity: Decimal, reason: str) -> LateRow:
    return LateRow(
        tenant_id=window.closing.tenant_id,
        meter=window.part.meter,
        customer_ref=window.closing.customer_ref,
        invoice_id=window.closing.invoice_id,
        quantity=quantity,
        amount_minor=0,
        currency="",
        outcome="held",
        reason=reason,
    )


def _sent_row(sent: Sent) -> LateRow:
    charge = sent.charge
    return LateRow(
        tenant_id=charge.tenant_id,
        meter=charge.meter,
        customer_ref=charge.customer_ref,
        invoice_id=charge.invoice_id,
        quantity=charge.quantity_after - charge.quantity_before,
        amount_minor=-charge.amount_minor if charge.kind == "credit_note" else charge.amount_minor,
        currency=charge.currency,
        outcome=sent.outcome,
        reason=sent.reason,
    )
