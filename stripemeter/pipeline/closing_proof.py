"""Proving a closed invoice: what it bills against what we counted.

Belongs here: comparing a final invoice's lines with our windows, the evidence, naming what was pushed too late. Does
not: when an invoice is ready for it (`pipeline.closing`), storing (`store.parity_proofs`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from stripemeter.billing.sink import Invoice, InvoiceLine
from stripemeter.metering.closings import BilledWindow, WindowDay, days_inside, evidence_text, is_whole
from stripemeter.metering.deltas import fixed_point
from stripemeter.store import closings
from stripemeter.store.closings import Closing, ClosingWindow, SentEntry
from stripemeter.store.customers import load_phases_of
from stripemeter.store.parity_proofs import ParityProof, ProofLine
from stripemeter.store.postgres import Tx

CLOCK_STEP = timedelta(seconds=1)
"""Stripe tells when an invoice became final in whole seconds."""
MOST_NAMED = 100
"""Events a line names that came too late; their sum is of all."""


def prove_invoice(tx: Tx, closing: Closing, invoice: Invoice, finalized_at: datetime, *, now: datetime) -> ParityProof:
    """The proof of a final invoice; nothing is stored."""
    billed: defaultdict[BilledWindow, Decimal] = defaultdict(Decimal)
    for line in invoice.lines:
        window = BilledWindow(
            stripe_item_id=line.stripe_item_id, price_id=line.price_id, starts_at=line.start, ends_at=line.end
        )
        billed[window] += line.quantity
    lines: list[ProofLine] = []
    windows: list[dict[str, Any]] = []
    for part in closings.load_windows(tx, closing):
        days = _our_days(tx, closing, part)
        sent = closings.sent_inside(closings.load_sent(tx, closing, part), part.window)
        lines.append(_line(part, days, billed[part.window], sent, finalized_at))
        windows.append(_window_evidence(part, days, sent))
    evidence = {
        "account": closing.stripe_account_id,
        "invoice": closing.invoice_id,
        "customer": closing.stripe_customer_id,
        "finalizedAt": finalized_at,
        "lines": [_line_evidence(line) for line in invoice.lines],
        "windows": windows,
    }
    text, sha256 = evidence_text(evidence)
    return ParityProof(
        stripe_account_id=closing.stripe_account_id,
        invoice_id=closing.invoice_id,
        mode=closing.mode,
        tenant_id=closing.tenant_id,
        customer_ref=closing.customer_ref,
        control=closing.control,
        finalized_at=finalized_at,
        is_equal=all(line.counted == line.billed for line in lines),
        evidence=text,
        evidence_sha256=sha256,
        proven_at=now,
        lines=tuple(lines),
    )


def differences(proof: ParityProof) -> str:
    """What a proof found, in a sentence per line that differs; empty when all are equal."""
    return "; ".join(_difference(line) for line in proof.lines if line.counted != line.billed)


def _our_days(tx: Tx, closing: Closing, part: ClosingWindow) -> list[WindowDay] | None:
    """None: our segments are not the window's, or the meter is not mapped any more."""
    phases = load_phases_of(tx, closing.tenant_id, closing.customer_ref, part.meter)
    if part.mode != closing.mode or not is_whole(phases, part.window):
        return None
    return days_inside(closings.load_days(tx, closing, part), part.window)


def _line(
    part: ClosingWindow,
    days: Sequence[WindowDay] | None,
    billed: Decimal,
    sent: Sequence[SentEntry],
    finalized_at: datetime,
) -> ProofLine:
    counted = None if days is None else sum((day.counted for day in days), Decimal(0))
    # A line that is equal lacks nothing, whatever the two clocks say of the second it became final in.
    late = [entry for entry in sent if counted != billed and entry.settled_at >= finalized_at + CLOCK_STEP]
    return ProofLine(
        stripe_item_id=part.window.stripe_item_id,
        price_id=part.window.price_id,
        starts_at=part.window.starts_at,
        ends_at=part.window.ends_at,
        meter=part.meter,
        counted=counted,
        pushed=None if days is None else sum((day.accepted for day in days), Decimal(0)),
        billed=billed,
        difference=None if counted is None else counted - billed,
        pushed_late=sum((entry.delta for entry in late), Decimal(0)),
        late_identifiers=tuple(entry.identifier for entry in late[:MOST_NAMED]),
    )


def _difference(line: ProofLine) -> str:
    if line.counted is None or line.difference is None:
        return f"{line.meter}: billed {fixed_point(line.billed)}; our billing windows are not Stripe's"
    pushed = f", {fixed_point(line.pushed_late)} of it pushed after the invoice was final"
    late = pushed if line.late_identifiers else ""
    return f"{line.meter}: billed {fixed_point(line.billed)}, counted {fixed_point(line.counted)}{late}"


def _window_evidence(
    part: ClosingWindow, days: Sequence[WindowDay] | None, sent: Sequence[SentEntry]
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for entry in sent:
        digest.update(f"{entry.identifier} {fixed_point(entry.delta)} {entry.stamped_at.timestamp():.0f}\n".encode())
    return {
        "item": part.window.stripe_item_id,
        "price": part.window.price_id,
        "meter": part.meter,
        "startsAt": part.window.starts_at,
        "endsAt": part.window.ends_at,
        "days": [
            {"day": day.day, "segmentStart": day.segment_start, "counted": day.counted, "pushed": day.accepted}
            for day in days or ()
        ],
        "events": len(sent),
        "eventsSha256": digest.hexdigest(),
    }


def _line_evidence(line: InvoiceLine) -> dict[str, Any]:
    return {
        "id": line.line_id,
        "item": line.stripe_item_id,
        "price": line.price_id,
        "start": line.start,
        "end": line.end,
        "quantity": line.quantity,
    }
