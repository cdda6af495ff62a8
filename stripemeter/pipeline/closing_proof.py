"""Proving a closed invoice: what it bills against what we counted.

Belongs here: comparing a final invoice's lines with our windows, the evidence, naming what was pushed too late. Does
not: when an invoice is ready for it (`pipeline.closing`), storing (`store.parity_proofs`).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from stripemeter.billing.sink import Invoice, InvoiceLine
from stripemeter.metering.closings import BilledWindow, WindowDay, days_inside, evidence_text, is_whole
from stripemeter.metering.deltas import fixed_point
from stripemeter.pipeline.closing_amounts import WindowAmounts, compare_amounts
from stripemeter.pricing.prices import Price
from stripemeter.store import closings
from stripemeter.store.closings import Closing, ClosingWindow, SentEntry
from stripemeter.store.customers import load_phases_of
from stripemeter.store.parity_proofs import ParityProof, ProofAmounts, ProofLine
from stripemeter.store.postgres import Tx

CLOCK_STEP = timedelta(seconds=1)
"""Stripe tells when an invoice became final in whole seconds."""
UNTOLD = "no billing windows of ours are Stripe's, or the meter is not mapped any more"
MOST_NAMED = 100
"""Events a line names that came too late; their sum is of all."""


def prove_invoice(
    tx: Tx,
    closing: Closing,
    invoice: Invoice,
    terms: Mapping[str, Price | str],
    *,
    finalized_at: datetime,
    now: datetime,
) -> ParityProof:
    """The proof of a final invoice; nothing is stored.

    Args:
        tx: our side, as it is now.
        closing: the invoice's row.
        invoice: the invoice as it is final.
        terms: of each price, what a unit costs, or why that cannot be said.
        finalized_at: when it became final.
        now: aware.
    """
    billed: defaultdict[BilledWindow, list[InvoiceLine]] = defaultdict(list)
    for line in invoice.lines:
        window = BilledWindow(
            stripe_item_id=line.stripe_item_id, price_id=line.price_id, starts_at=line.start, ends_at=line.end
        )
        billed[window].append(line)
    lines: list[ProofLine] = []
    windows: list[dict[str, Any]] = []
    amounts: list[WindowAmounts] = []
    for part in closings.load_windows(tx, closing):
        theirs = billed[part.window]
        days = _our_days(tx, closing, part)
        sent = closings.sent_inside(closings.load_sent(tx, closing, part), part.window)
        proven = _line(part, days, sum((one.quantity for one in theirs), Decimal(0)), sent, finalized_at)
        lines.append(proven)
        amounts.append(compare_amounts(theirs, terms[part.window.price_id], proven.counted))
        windows.append(_window_evidence(part, days, sent, amounts[-1]))
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
        is_equal=all(line.counted == line.billed for line in lines) and not any(one.differs for one in amounts),
        evidence=text,
        evidence_sha256=sha256,
        proven_at=now,
        lines=tuple(lines),
    )


def differences(proof: ParityProof) -> str:
    """What a proof found, in a sentence per line that differs; empty when all are equal."""
    return "; ".join(
        sentence
        for line, amounts in zip(proof.lines, proof.amounts(), strict=True)
        if (sentence := _difference(line, amounts))
    )


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


def _difference(line: ProofLine, amounts: ProofAmounts) -> str:
    if line.counted is None:
        return f"{line.meter}: billed {fixed_point(line.billed)}; what we counted of it cannot be told: {UNTOLD}"
    if line.counted != line.billed:
        pushed = f", {fixed_point(line.pushed_late)} of it pushed after the invoice was final"
        late = pushed if line.late_identifiers else ""
        return f"{line.meter}: billed {fixed_point(line.billed)}, counted {fixed_point(line.counted)}{late}"
    if amounts.priced_minor not in (None, amounts.billed_minor):
        return (
            f"{line.meter}: {fixed_point(line.billed)} cost {amounts.billed_minor} {amounts.currency} in minor units, "
            f"and {amounts.priced_minor} by our price"
        )
    return ""


def _window_evidence(
    part: ClosingWindow, days: Sequence[WindowDay] | None, sent: Sequence[SentEntry], amounts: WindowAmounts
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
        "currency": amounts.currency,
        "billedMinor": amounts.billed_minor,
        "pricedMinor": amounts.priced_minor,
        "rounding": amounts.rounding,
        "unpriced": amounts.unpriced,
    }


def _line_evidence(line: InvoiceLine) -> dict[str, Any]:
    return {
        "id": line.line_id,
        "item": line.stripe_item_id,
        "price": line.price_id,
        "start": line.start,
        "end": line.end,
        "quantity": line.quantity,
        "amountMinor": line.amount_minor,
        "currency": line.currency,
    }
