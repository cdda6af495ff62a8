"""/v1/closings: invoices with a tenant's usage on them, and the proofs of what they bill.

Belongs here: parameters, the answers' members. Does not: closing (`pipeline.closing`, run by Dagster).
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from stripemeter.errors import NotFound
from stripemeter.store import closings, parity_proofs
from stripemeter.store.closings import Closing
from stripemeter.store.parity_proofs import ParityProof, ProofAmounts, ProofLine
from stripemeter.store.postgres import transaction
from stripemeter_api.answers import JsonAnswer, instant, number, number_or_null
from stripemeter_api.closing_documents import ClosingAnswer, ClosingPage
from stripemeter_api.cursors import from_microseconds, pack_cursor, to_microseconds, unpack_cursor
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.parameters import MAX_TEXT, Limit, OptionalCursor, TenantId, Text
from stripemeter_api.state import Pool

_INVOICE = "/{invoiceId}"

router = APIRouter(prefix="/v1/closings", tags=["closings"])

InvoiceId = Annotated[Text, Path(alias="invoiceId", min_length=1, max_length=MAX_TEXT, description="Stripe's id.")]


@router.get("", response_model=ClosingPage, responses=READ_PROBLEMS, summary="List invoices and their closing")
def list_closings(
    *,
    pool: Pool,
    tenant_id: TenantId,
    is_open: Annotated[
        bool, Query(alias="isOpen", description="Only those not closed, or failed and not released.")
    ] = False,
    limit: Limit = 50,
    cursor: OptionalCursor = None,
) -> JsonAnswer:
    """Newest first; Stripe is not asked."""
    listing = ("closings", tenant_id, is_open)
    after = None
    if cursor is not None:
        at, invoice_id = unpack_cursor(cursor, listing, (int, str))
        after = from_microseconds(int(at)), str(invoice_id)
    with transaction(pool) as tx:
        found = closings.list_closings(tx, tenant_id=tenant_id, is_open=is_open, after=after, limit=limit + 1)
    page, has_more = found[:limit], len(found) > limit
    last = (to_microseconds(page[-1].created_at), page[-1].invoice_id) if has_more else None
    return JsonAnswer(
        {
            "closings": [_row(one) for one in page],
            "hasMore": has_more,
            "nextCursor": None if last is None else pack_cursor(listing, last),
        }
    )


@router.get(
    _INVOICE,
    response_model=ClosingAnswer,
    responses={**READ_PROBLEMS, 404: {"model": Problem, "description": "No usage of the tenant is known on it."}},
    summary="An invoice's closing and its proof",
)
def read_closing(pool: Pool, invoice_id: InvoiceId, tenant_id: TenantId) -> JsonAnswer:
    """What it bills, line by line, against what was counted and what Stripe acknowledged."""
    with transaction(pool) as tx:
        found = closings.list_closings(tx, tenant_id=tenant_id, invoice_id=invoice_id, limit=1)
        proofs = parity_proofs.list_proofs(tx, tenant_id=tenant_id, invoice_id=invoice_id, limit=1)
    if not found:
        raise NotFound(f"no usage of {tenant_id!r} is known on invoice {invoice_id!r}")
    return JsonAnswer({**_row(found[0]), "proof": _proof(proofs[0]) if proofs else None})


def _row(closing: Closing) -> dict[str, Any]:
    return {
        "invoiceId": closing.invoice_id,
        "stripeAccount": closing.stripe_account_id,
        "customerRef": closing.customer_ref,
        "mode": closing.mode,
        "control": closing.control,
        "state": closing.state,
        "message": closing.message,
        "createdAt": instant(closing.created_at),
        "finalizesAt": closing.finalizes_at and instant(closing.finalizes_at),
        "settlesAt": instant(closing.settles_at),
        "isGraceShort": closing.is_grace_short,
        "finalizedAt": closing.finalized_at and instant(closing.finalized_at),
        "closedAt": closing.closed_at and instant(closing.closed_at),
        "releasedAt": closing.released_at and instant(closing.released_at),
        "releasedBy": closing.released_by,
        "releaseReason": closing.release_reason,
    }


def _proof(proof: ParityProof) -> dict[str, Any]:
    return {
        "isEqual": proof.is_equal,
        "provenAt": instant(proof.proven_at),
        "evidence": proof.evidence,
        "evidenceSha256": proof.evidence_sha256,
        "lines": [_line(line, amounts) for line, amounts in zip(proof.lines, proof.amounts(), strict=True)],
    }


def _line(line: ProofLine, amounts: ProofAmounts) -> dict[str, Any]:
    return {
        "meter": line.meter,
        "subscriptionItemId": line.stripe_item_id,
        "priceId": line.price_id,
        "startsAt": instant(line.starts_at),
        "endsAt": instant(line.ends_at),
        "counted": number_or_null(line.counted),
        "pushed": number_or_null(line.pushed),
        "billed": number(line.billed),
        "difference": number_or_null(line.difference),
        "pushedLate": number(line.pushed_late),
        "lateIdentifiers": list(line.late_identifiers),
        "currency": amounts.currency,
        "billedMinor": amounts.billed_minor,
        "pricedMinor": amounts.priced_minor,
        "rounding": amounts.rounding,
        "unpriced": amounts.unpriced,
    }
