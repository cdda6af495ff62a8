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
    check_expected(document, INVOICE, field)
    members = members_of(document, tuple(INVOICE), field)
    required(members, "total", field)  # the least to expect of an invoice
    return document  # type: ignore[no-any-return] # an object, as was checked; null in it is expected
