"""Expectations: what a scenario may expect, of an invoice or at an instant.

Belongs here: the shapes, and reading them. Does not: comparing (`comparisons`), finding out what came (`observing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stripemeter.pricing.reading import members_of, parse_text, refused, required, within
from stripemeter.simulation.comparisons import Each, Shape, check_expected

_LINE_ITEM: Shape = {
    "metric": "text",
    "quantity": "number",
    "unitPrice": "number",
    "subtotal": "amount",
    "description": "text",
}
_LINE: Shape = {
    "metric": "text",
    "kind": "text",
    "tier": "number",
    "units": "number",
    "unitPrice": "number",
    "unrounded": "number",
    "amount": "amount",
    "priceVersion": "text",
    "description": "text",
}
_DEDUCTION: Shape = {
    "position": "number",
    "name": "text",
    "currency": "text",
    "applied": "amount",
    "remaining": "amount",
    "byItem": Each("amount"),
}
INVOICE: dict[str, Shape] = {
    "customerId": "text",
    "periodStart": "instant",
    "periodEnd": "instant",
    "currency": "text",
    "lineItems": Each(_LINE_ITEM),
    "lines": Each(_LINE),
    "subtotal": "amount",
    "adjustments": "amount",
    "credits": "amount",
    "taxable": "amount",
    "taxRate": "number",
    "tax": "amount",
    "total": "amount",
    "appliedDiscounts": Each(_DEDUCTION),
    "appliedCommitments": Each(_DEDUCTION),
    "appliedCredits": Each(_DEDUCTION),
}
"""What `Invoice.to_dict` says."""
BILL: dict[str, Shape] = {
    **INVOICE,
    "id": "text",
    "status": "text",
    "finalizedAt": "instant",
    "unbilled": Each("number", is_named=True),
}
"""An invoice of a story: draft until it is final, then open or paid; `unbilled` is what came too late for it."""
STATE: dict[str, Shape] = {
    "usage": Each("number", is_named=True),
    "costToDate": INVOICE,
    "invoice": BILL,
    "invoices": Each(BILL),
    "credits": {
        "balance": "amount",
        "grants": Each(
            {"granted": "amount", "applied": "amount", "remaining": "amount", "state": "text"}, is_named=True
        ),
    },
    "commitments": Each({"committed": "amount", "applied": "amount", "remaining": "amount"}, is_named=True),
    "access": {
        "state": "text",
        "httpStatus": "number",
        "nextAttemptAt": "instant",
        "blockedAt": "instant",
        "unpaidInvoices": Each("text"),
        "notices": Each({"at": "instant", "reason": "text", "invoice": "text"}),
    },
    "events": dict.fromkeys(("accepted", "duplicates", "conflicts", "rejected", "late", "pending"), "number"),
}
"""What can be seen of a customer at an instant (`playing`)."""
SELECTORS = ("customerRef", "from", "until")
"""Members of an expectation that say whose and which usage is looked at."""
REFUSED = "refused"
"""`{"refused": path}` instead of an expectation: the scenario is one that must not be accepted, for what is there."""


def expected_refusal(document: object, field: str) -> str | None:
    """The path at which the scenario must be refused; None: it must not be."""
    if not isinstance(document, Mapping) or REFUSED not in document:
        return None
    members = members_of(document, (REFUSED,), field)
    path = parse_text(required(members, REFUSED, field), within(field, REFUSED))
    if not path:
        raise refused("must be the path of what must be refused", within(field, REFUSED))
    return path


def parse_expected_invoice(document: object, field: str) -> Mapping[str, Any]:
    """What an invoice should be; its total is the least.

    Raises:
        InvalidInput: nothing could ever meet it.
    """
    expected = _checked(document, INVOICE, field)
    required(members_of(document, tuple(INVOICE), field), "total", field)  # the least to expect of an invoice
    return expected


def parse_expected_state(document: object, field: str) -> Mapping[str, Any]:
    """What should be seen at an instant.

    Raises:
        InvalidInput: nothing could ever meet it.
    """
    return _checked(document, STATE, field)


def _checked(document: object, shape: Shape, field: str) -> Mapping[str, Any]:
    check_expected(document, shape, field)
    if not isinstance(document, Mapping):
        raise refused("must be an object", field)
    return document
