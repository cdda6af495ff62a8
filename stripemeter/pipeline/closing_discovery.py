"""Finding the invoices that bill our usage, and taking them under control where that is wanted.

Belongs here: asking Stripe what there is, telling which lines are ours, when their usage settles. Does not: what
becomes of an invoice (`pipeline.closing`).

Drafts are asked for every time, and whatever was made since the last time: an invoice that was made and finalized while
nobody looked is found too. A message that says one was made only makes somebody look sooner.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Invoice, Mode
from stripemeter.errors import InvalidInput
from stripemeter.metering.closings import BilledWindow, Control, is_grace_short, settles_at
from stripemeter.metering.rulebook import TenantRules
from stripemeter.pipeline.stripe_events import INVOICES
from stripemeter.pricing.prices import Price
from stripemeter.store import closings, stripe_events
from stripemeter.store.closings import FoundInvoice, MappedMeter
from stripemeter.store.postgres import transaction
from stripemeter.store.rulebook import load_rulebook

LONGEST_GRACE = timedelta(hours=72)
"""How far back the first look goes. Source: Stripe, configure the grace period: at most 72 hours."""
OVERLAP = timedelta(minutes=10)
"""How much of what was seen is asked for again: clocks differ, and lists may lag."""

MESSAGES = 500
"""Messages answered in one transaction."""


class Prices:
    """What each price bills, and by what terms; asked once each. Safe to use from several threads."""

    def __init__(self, sink: BillingSink) -> None:
        self._sink = sink
        self._meters: dict[str, str | None] = {}
        self._terms: dict[str, Price | str] = {}

    def meter_of(self, price_id: str) -> str | None:
        """The Stripe meter; None: the price bills no usage, or is gone."""
        if price_id not in self._meters:
            price = self._sink.find_price(price_id)
            self._meters[price_id] = None if price is None else price.stripe_meter_id
        return self._meters[price_id]

    def terms_of(self, price_id: str) -> Price | str:
        """What a unit costs, or why that cannot be said."""
        if price_id not in self._terms:
            try:
                self._terms[price_id] = self._sink.find_price_terms(price_id) or f"Stripe has no price {price_id}"
            except InvalidInput as error:
                self._terms[price_id] = str(error)
        return self._terms[price_id]


def find_invoices(pool: ConnectionPool, sink: BillingSink, prices: Prices, *, control: Control, now: datetime) -> int:
    """Record every invoice that bills usage of a bound customer on a mapped meter; returns how many are new.

    With `control`, the drafts among them that Stripe would finalize by itself become ours to finalize: that is only
    written down here, `pipeline.closing` tells Stripe.

    Raises:
        StripeRejected: the key is refused.
        Unavailable, OutcomeUnknown: Stripe could not be asked, or Postgres is gone; the next time asks the same.
    """
    account = sink.account_id()
    with transaction(pool) as tx:
        mapped = closings.load_mapped(tx, account, sink.mode)
        polled_at = closings.load_poll(tx, account)
    if not mapped:
        _answer_messages(pool, sink, now)
        return 0
    since = now - LONGEST_GRACE if polled_at is None else polled_at - OVERLAP
    invoices = {one.invoice_id: one for one in [*sink.list_invoices_since(since), *sink.list_draft_invoices()]}
    found = sum(_record(pool, sink, prices, chunk, mapped, now) for chunk in _chunks(list(invoices.values())))
    with transaction(pool) as tx:
        if control == "control":
            for invoice in invoices.values():
                if invoice.status == "draft" and invoice.is_advancing:
                    closings.take_control(tx, account, invoice.invoice_id)
        closings.save_poll(tx, account, now)
    _answer_messages(pool, sink, now)
    return found


def has_message(pool: ConnectionPool, *, modes: Collection[Mode]) -> bool:
    """Whether Stripe told of an invoice since somebody looked last."""
    with transaction(pool) as tx:
        return any(stripe_events.list_waiting(tx, types=INVOICES, is_live=mode == "live", limit=1) for mode in modes)


def _answer_messages(pool: ConnectionPool, sink: BillingSink, now: datetime) -> None:
    """Messages that came before now are answered by having looked; one that came since makes somebody look again."""
    while True:
        with transaction(pool) as tx:
            waiting = stripe_events.list_waiting(tx, types=INVOICES, is_live=sink.mode == "live", limit=MESSAGES)
            answered = [event for event in waiting if event.received_at <= now]
            for event in answered:
                stripe_events.mark_processed(tx, event.id, "done", now=now)
        if len(answered) < MESSAGES:
            return


def billed_windows(
    invoice: Invoice, prices: Prices, mapped: Mapping[tuple[str, str], MappedMeter], tenant_id: str
) -> dict[BilledWindow, MappedMeter]:
    """What an invoice bills of a tenant's usage; a window may have several lines, one per tier."""
    windows: dict[BilledWindow, MappedMeter] = {}
    for line in invoice.lines:
        stripe_meter = prices.meter_of(line.price_id) if line.price_id else None
        ours = None if stripe_meter is None else mapped.get((tenant_id, stripe_meter))
        if ours is not None and line.start < line.end:
            window = BilledWindow(
                stripe_item_id=line.stripe_item_id, price_id=line.price_id, starts_at=line.start, ends_at=line.end
            )
            windows[window] = ours
    return windows


def latest_settling(rules: TenantRules, windows: Iterable[tuple[str, BilledWindow]]) -> datetime:
    """From when on no usage of any of these (meter, window) changes by itself; at least one."""
    return max(settles_at(rules, meter, window.ends_at) for meter, window in windows)


def _record(
    pool: ConnectionPool,
    sink: BillingSink,
    prices: Prices,
    invoices: Sequence[Invoice],
    mapped: Mapping[tuple[str, str], MappedMeter],
    now: datetime,
) -> int:
    account = sink.account_id()
    with transaction(pool) as tx:
        owners = closings.load_owners(tx, account, {invoice.stripe_customer_id for invoice in invoices})
        known = closings.load_known(tx, account, {invoice.invoice_id for invoice in invoices})
        rulebook = load_rulebook(tx, {tenant for tenant, _ in owners.values()})
    new = 0
    for invoice in invoices:
        if invoice.invoice_id in known or invoice.stripe_customer_id not in owners:
            continue
        tenant_id, customer_ref = owners[invoice.stripe_customer_id]
        windows = billed_windows(invoice, prices, mapped, tenant_id)
        if not windows:
            continue
        pairs = [(ours.meter, window) for window, ours in windows.items()]
        settled_at = latest_settling(rulebook.of(tenant_id), pairs)
        ends_at = invoice.finalizes_at or invoice.finalized_at
        found = FoundInvoice(
            stripe_account_id=account,
            invoice_id=invoice.invoice_id,
            mode=sink.mode,
            tenant_id=tenant_id,
            customer_ref=customer_ref,
            stripe_customer_id=invoice.stripe_customer_id,
            created_at=invoice.created_at,
            found_at=now,
            finalizes_at=ends_at,
            settles_at=settled_at,
            is_grace_short=is_grace_short(settled_at, ends_at),
        )
        with transaction(pool) as tx:
            new += closings.insert_found(tx, found, windows)
    return new


def _chunks(invoices: Sequence[Invoice], size: int = 500) -> Iterable[Sequence[Invoice]]:
    return (invoices[start : start + size] for start in range(0, len(invoices), size))
