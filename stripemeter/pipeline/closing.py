"""Closing: no invoice with our usage becomes final unless it is proven, or it is said how far it is off.

Belongs here: the steps of one invoice, working on several at once, the report, a person's release. Does not: finding
invoices (`closing_discovery`), whether one may be finalized (`closing_gate`), the proof (`closing_proof`).

Observing (the default) touches nothing: once Stripe has finalized and no usage of it changes any more, its lines are
compared with ours and the proof is stored, whatever it says. Under control:

    found        `control` is written, then Stripe is told to hold the draft           controlled
    controlled   until the usage is settled, counted and pushed                         drained
    drained      until Stripe's sum over the window is ours, to the last digit          reconciled
    reconciled   finalized, under one Idempotency-Key                                   finalized
    finalized    the final lines are read and compared                                  verified or failed

A state says what is known, not where to go on: whoever dies anywhere, the next one looks at Stripe and begins at the
first step, each of which finds its work done or does it. Stripe finalizes an invoice once; the lease only saves work.
What fails before it is final is looked at again every time, and goes on by itself once the cause is gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Invoice
from stripemeter.errors import (
    InvalidInput,
    NotAllowed,
    NotFound,
    OutcomeUnknown,
    StripeMeterError,
    StripeRejected,
    Unavailable,
)
from stripemeter.metering.closings import GO, ClosingState, Control, Judgement, finalize_key
from stripemeter.pipeline.closing_discovery import Prices, billed_windows, find_invoices
from stripemeter.pipeline.closing_gate import check_held, check_sent, check_settled
from stripemeter.pipeline.closing_proof import differences, prove_invoice
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.restore_fence import find_contradiction
from stripemeter.store import closings, push_epochs
from stripemeter.store.closings import Closing
from stripemeter.store.parity_proofs import insert_proof
from stripemeter.store.postgres import transaction

LEASE = timedelta(minutes=3)
"""How long an invoice is left alone by others: longer than the requests of one step may take."""
SILENT_INVOICES = 5
"""After so many invoices in a row without an answer from Stripe, the rest is left for the next time."""
MAX_ROWS = 1000
"""Most rows of a report; the counts are of all of them."""
MAX_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingRow:
    """Where an invoice got to."""

    tenant_id: str
    customer_ref: str
    invoice_id: str
    control: Control
    state: ClosingState
    settles_at: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingReport:
    """What one look at an account's invoices did.

    Args:
        found: invoices that are new to us.
        verified: proven equal in this look.
        failed: that cannot go on, or bill something else than we counted.
        waiting: that go on by themselves.
        rows: every invoice that was looked at, failed ones first, at most MAX_ROWS.
    """

    stripe_account_id: str
    found: int
    verified: int
    failed: int
    waiting: int
    rows: tuple[ClosingRow, ...]


@dataclass(slots=True, kw_only=True)
class _Run:
    """What the invoices of one look share."""

    pool: ConnectionPool
    sink: BillingSink
    prices: Prices
    now: datetime
    fenced: str = ""
    push_trouble: str = ""
    stopped: bool = False
    _silent: int = 0
    _lock: Lock = field(default_factory=Lock)

    def note(self, trouble: StripeMeterError | None) -> None:
        """How an invoice ended; without answers, or with the key refused, the rest is left for the next time."""
        with self._lock:
            self._silent = self._silent + 1 if isinstance(trouble, Unavailable | OutcomeUnknown) else 0
            self.stopped = self.stopped or self._silent >= SILENT_INVOICES or _is_key_refused(trouble)


class _Stop(Exception):
    """The invoice does not go on now."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.reason)
        self.judgement = judgement


def close_invoices(
    pool: ConnectionPool,
    sink: BillingSink,
    *,
    now: datetime,
    control: Control = "observe",
    max_workers: int = 4,
    witnesses: Path | None = None,
) -> ClosingReport:
    """Find the account's invoices with our usage, and take each as far as it goes.

    In a database that was restored drafts are held where that is wanted, and nothing is finalized or proven.

    Args:
        pool: the database.
        sink: the account.
        now: aware.
        control: what becomes of drafts that are not under control yet; those that are, are finalized all the same.
        max_workers: invoices at once.
        witnesses: as for `push_usage`.

    Raises:
        StripeRejected: the key is refused.
        NotAllowed: the key is of another account than every mapping of its mode, and something is to be pushed.
        Unavailable, OutcomeUnknown: the invoices could not be asked for, or Postgres is gone.
    """
    account = sink.account_id()
    prices = Prices(sink)
    found = find_invoices(pool, sink, prices, control=control, now=now)
    with transaction(pool) as tx:
        due = closings.list_due(tx, stripe_account_id=account, mode=sink.mode, now=now)
    run = _Run(pool=pool, sink=sink, prices=prices, now=now, fenced=_why_fenced(pool, sink, witnesses))
    if not run.fenced and any(one.control == "control" and one.settles_at <= now for one in due):
        run.push_trouble = push_usage(pool, sink, now=now, witnesses=witnesses).stopped
    with ThreadPoolExecutor(max_workers=max_workers, thread_name_prefix="close") as workers:
        list(workers.map(lambda one: _advance(run, one), due))
    return _report(pool, account, found, due)


def release_invoice(pool: ConnectionPool, invoice_id: str, *, actor: str, reason: str, now: datetime) -> None:
    """Take a failed invoice's difference upon oneself: it is finalized as it is, and no check complains of it any more.

    Raises:
        InvalidInput: no reason is given, or it is too long.
        NotFound: no such invoice waits for a person.
        Unavailable: Postgres does not answer.
    """
    if not reason.strip() or len(reason) > MAX_REASON:
        raise InvalidInput(f"reason must have 1 to {MAX_REASON} characters", field="reason")
    with transaction(pool) as tx:
        if not closings.release(tx, invoice_id, actor=actor, reason=reason, now=now):
            raise NotFound(f"no invoice {invoice_id!r} has failed and waits for a person: see `stripemeter close list`")


def _advance(run: _Run, due: Closing) -> None:
    """One invoice, as far as it goes; its trouble is its own."""
    if run.stopped:
        return
    with transaction(run.pool) as tx:
        closing = closings.claim(tx, due, now=run.now, lease_until=run.now + LEASE)
    if closing is None:
        return
    trouble: StripeMeterError | None = None
    try:
        _close(run, closing)
    except _Stop as stop:
        _stay(run, closing, stop.judgement)
    except StripeRejected as refused:
        trouble = refused
        _stay(run, closing, Judgement(step="wait" if _is_key_refused(refused) else "fail", reason=str(refused)))
    except StripeMeterError as error:
        trouble = error
        _stay(run, closing, Judgement(step="wait", reason=str(error)))
    run.note(trouble)
    with transaction(run.pool) as tx:
        closings.let_go(tx, closing)


def _close(run: _Run, closing: Closing) -> None:
    invoice = run.sink.find_invoice(closing.invoice_id)
    if invoice is None or invoice.status == "void":
        _move(run, closing, "dropped", message="deleted or void: it bills nothing", is_closed=True)
    elif invoice.status != "draft":
        _prove(run, closing, invoice)
    elif closing.control == "observe":
        _require(Judgement(step="wait", reason="Stripe has not finalized it yet"))
    else:
        _close_draft(run, closing, invoice)


def _close_draft(run: _Run, closing: Closing, invoice: Invoice) -> None:
    if closing.state == "found":
        if invoice.is_advancing:
            _hold(run, invoice)
        closing = _move(run, closing, "controlled")
    _require_unfenced(run)
    if closing.released_at is None:
        _require(check_settled(run.pool, closing, now=run.now))
        _require(check_sent(run.pool, closing, now=run.now), trouble=run.push_trouble)
        closing = _move(run, closing, "drained")
        _require(check_held(run.pool, run.sink, closing, now=run.now))
        closing = _move(run, closing, "reconciled")
    _finalize(run, closing)


def _hold(run: _Run, invoice: Invoice) -> None:
    """Keep the draft; a refusal is tried again at every look while Stripe's clock runs, not only when it is settled."""
    try:
        run.sink.hold_invoice(invoice.invoice_id)
    except StripeRejected as refused:
        if _is_key_refused(refused):
            raise
        raise _Stop(Judgement(step="wait", reason=f"Stripe does not let it be held: {refused}")) from refused


def _finalize(run: _Run, closing: Closing) -> None:
    """Finalize, then look: whoever did it, final is final."""
    trouble = _try_finalize(run, closing)
    invoice = run.sink.find_invoice(closing.invoice_id)
    if isinstance(trouble, OutcomeUnknown) and invoice is not None and invoice.status == "draft":
        # Stripe repeats a 5xx, perhaps one that somebody who died was given: under another key it says what is.
        trouble = _try_finalize(run, _with_next_key(run, closing, trouble))
        invoice = run.sink.find_invoice(closing.invoice_id)
    if invoice is not None and invoice.status != "draft":
        _prove(run, closing, invoice)
    elif trouble is not None:
        raise trouble
    else:
        _require(Judgement(step="wait", reason="Stripe has not finalized it yet"))


def _try_finalize(run: _Run, closing: Closing) -> StripeRejected | OutcomeUnknown | None:
    key = finalize_key(closing.invoice_id, closing.finalize_key_no)
    try:
        run.sink.finalize_invoice(closing.invoice_id, idempotency_key=key)
    except (StripeRejected, OutcomeUnknown) as error:
        return error
    return None


def _with_next_key(run: _Run, closing: Closing, unknown: OutcomeUnknown) -> Closing:
    """The key stays where there was no answer at all."""
    if unknown.status is None or unknown.status < 500:
        return closing
    with transaction(run.pool) as tx:
        closings.bump_key(tx, closing)
        return closings.load_closing(tx, closing)


def _prove(run: _Run, closing: Closing, invoice: Invoice) -> None:
    """Compare the final lines with ours and store the proof, once our side does not change any more."""
    finalized_at = invoice.finalized_at or run.now
    if closing.state != "finalized":
        closing = _move(run, closing, "finalized", finalized_at=finalized_at)
    with transaction(run.pool) as tx:
        mapped = closings.load_mapped(tx, closing.stripe_account_id, closing.mode)
    windows = billed_windows(invoice, run.prices, mapped, closing.tenant_id)
    with transaction(run.pool) as tx:
        closings.add_windows(tx, closing.stripe_account_id, closing.invoice_id, windows)
        prices = {part.window.price_id for part in closings.load_windows(tx, closing)}
    _require_unfenced(run)
    terms = {price: run.prices.terms_of(price) for price in sorted(prices)}
    _require(check_settled(run.pool, closing, now=run.now))
    with transaction(run.pool) as tx:
        proof = prove_invoice(tx, closing, invoice, terms, finalized_at=finalized_at, now=run.now)
        insert_proof(tx, proof)
        state: ClosingState = "verified" if proof.is_equal else "failed"
        closings.move(tx, closing, state, now=run.now, message=differences(proof), closed_at=run.now)


def _require_unfenced(run: _Run) -> None:
    if run.fenced:
        raise _Stop(Judgement(step="wait", reason=run.fenced))


def _why_fenced(pool: ConnectionPool, sink: BillingSink, witnesses: Path | None) -> str:
    """Why nothing may be concluded from this database; empty when something may."""
    with transaction(pool) as tx:
        try:
            push_epochs.require_open(tx)
        except NotAllowed as refused:
            return str(refused)
    return "" if witnesses is None else find_contradiction(pool, [sink], witnesses)


def _require(judgement: Judgement, *, trouble: str = "") -> None:
    if judgement != GO:
        reason = f"{judgement.reason} ({trouble})" if trouble else judgement.reason
        raise _Stop(Judgement(step=judgement.step, reason=reason))


def _move(
    run: _Run,
    closing: Closing,
    state: ClosingState,
    *,
    message: str = "",
    finalized_at: datetime | None = None,
    is_closed: bool = False,
) -> Closing:
    with transaction(run.pool) as tx:
        closings.move(
            tx,
            closing,
            state,
            now=run.now,
            message=message,
            finalized_at=finalized_at,
            closed_at=run.now if is_closed else None,
        )
        return closings.load_closing(tx, closing)


def _stay(run: _Run, due: Closing, judgement: Judgement) -> None:
    """Write down why an invoice does not go on; one that had failed and now only waits is where it was before."""
    with transaction(run.pool) as tx:
        closing = closings.load_closing(tx, due)
        state: ClosingState = closing.state
        if judgement.step == "fail" and closing.finalized_at is None:
            state = "failed"
        elif state == "failed":
            state = "controlled" if closing.control == "control" else "found"
        closings.move(tx, closing, state, now=run.now, message=judgement.reason)


def _is_key_refused(trouble: StripeMeterError | None) -> bool:
    return isinstance(trouble, StripeRejected) and trouble.status in (401, 403)


def _report(pool: ConnectionPool, account: str, found: int, due: Sequence[Closing]) -> ClosingReport:
    with transaction(pool) as tx:
        looked = [closings.load_closing(tx, one) for one in due]
    counts = Counter(one.state for one in looked)
    ordered = sorted(looked, key=lambda one: (one.state != "failed", one.settles_at, one.invoice_id))
    return ClosingReport(
        stripe_account_id=account,
        found=found,
        verified=counts["verified"],
        failed=counts["failed"],
        waiting=sum(one.closed_at is None and one.state != "failed" for one in looked),
        rows=tuple(
            ClosingRow(
                tenant_id=one.tenant_id,
                customer_ref=one.customer_ref,
                invoice_id=one.invoice_id,
                control=one.control,
                state=one.state,
                settles_at=one.settles_at,
                message=one.message,
            )
            for one in ordered[:MAX_ROWS]
        ),
    )
