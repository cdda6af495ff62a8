"""Parity proofs: what closed invoices bill against what we counted. Written once, never changed.

Belongs here: the tables parity_proofs and parity_proof_lines. Does not: comparing (`pipeline.closing_proof`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from decimal import Decimal

from psycopg.rows import class_row

from stripemeter.metering.closings import Control
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("parity_proofs")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofLine:
    """An item at a price over a window.

    Args:
        stripe_item_id: Stripe's subscription item; '' when the line names none.
        price_id: Stripe's price.
        starts_at: first instant of the window.
        ends_at: the instant after it.
        meter: ours.
        counted: what we counted; None: our billing windows are not Stripe's, so nobody can say.
        pushed: what Stripe acknowledged; likewise.
        billed: what the final invoice says, its tiers added up.
        difference: counted minus billed.
        pushed_late: of a line that differs, what Stripe acknowledged after the invoice was final.
        late_identifiers: the first of those events.
    """

    stripe_item_id: str
    price_id: str
    starts_at: datetime
    ends_at: datetime
    meter: str
    counted: Decimal | None
    pushed: Decimal | None
    billed: Decimal
    difference: Decimal | None
    pushed_late: Decimal
    late_identifiers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofAmounts:
    """What a line costs, in minor units of `currency`.

    Args:
        meter: ours.
        currency: of the invoice's lines; '' without any.
        billed_minor: the sum of the invoice's lines, before discounts and taxes.
        priced_minor: by our own price function, of what we counted; None: `unpriced` says why not.
        rounding: the direction of fractions under which the two were compared.
        unpriced: empty when there is an amount of ours.
    """

    meter: str
    currency: str
    billed_minor: int
    priced_minor: int | None
    rounding: str
    unpriced: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityProof:
    """One closed invoice; `evidence` is what was compared, as JSON: amounts are only there."""

    stripe_account_id: str
    invoice_id: str
    mode: str
    tenant_id: str
    customer_ref: str
    control: Control
    finalized_at: datetime
    is_equal: bool
    evidence: str
    evidence_sha256: str
    proven_at: datetime
    lines: Sequence[ProofLine] = ()

    def amounts(self) -> list[ProofAmounts]:
        """What each line costs, in the order of the lines."""
        return [
            ProofAmounts(
                meter=window["meter"],
                currency=window["currency"],
                billed_minor=window["billedMinor"],
                priced_minor=window["pricedMinor"],
                rounding=window["rounding"],
                unpriced=window["unpriced"],
            )
            for window in json.loads(self.evidence)["windows"]
        ]


def insert_proof(tx: Tx, proof: ParityProof) -> bool:
    """Store a proof; False when the invoice has one."""
    if tx.execute(_Q["insert_proof"], asdict(replace(proof, lines=()))).rowcount == 0:
        return False
    key = {"stripe_account_id": proof.stripe_account_id, "invoice_id": proof.invoice_id}
    for line in proof.lines:
        tx.execute(_Q["insert_line"], {**asdict(line), **key, "late_identifiers": list(line.late_identifiers)})
    return True


def list_proofs(
    tx: Tx, *, tenant_id: str | None = None, invoice_id: str | None = None, limit: int = 100
) -> list[ParityProof]:
    """The newest, with their lines; of one tenant or invoice when given."""
    values = {"tenant_id": tenant_id, "invoice_id": invoice_id, "limit": limit}
    columns = [name for name in ParityProof.__dataclass_fields__ if name != "lines"]
    proofs = [ParityProof(**dict(zip(columns, row, strict=True))) for row in tx.execute(_Q["list_proofs"], values)]
    return [replace(proof, lines=_lines(tx, proof)) for proof in proofs]


def _lines(tx: Tx, proof: ParityProof) -> Sequence[ProofLine]:
    key = {"stripe_account_id": proof.stripe_account_id, "invoice_id": proof.invoice_id}
    with tx.cursor(row_factory=class_row(ProofLine)) as cursor:
        return tuple(cursor.execute(_Q["load_lines"], key).fetchall())
