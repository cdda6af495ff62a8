"""Deductions: what discounts, prepaid commitments and credit grants take off, from what, in which order.

Belongs here: the order of burning, and the share of each item. Does not: the terms (`contracts`), the sum (`invoices`).

Nothing is taken below zero: each item has an amount left, and no deduction exceeds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from stripemeter.pricing.contracts import CreditGrant, Discount, InvoiceInputs, PrepaidCommitment, concerns
from stripemeter.pricing.prices import UNIT, scaled
from stripemeter.pricing.rounding import Rounding, round_line

_EVER = datetime.min.replace(tzinfo=UTC)
_FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deduction:
    """What one of them took off.

    Args:
        kind: what it is.
        position: its number among those of its kind, as they were given.
        name: its name.
        currency: of its amounts.
        applied_minor: taken off this invoice.
        remaining_minor: what is left for later invoices; None of a discount.
        by_item: the part of each item of the invoice, in order; they sum to `applied_minor`.
    """

    kind: Literal["discount", "commitment", "credit"]
    position: int
    name: str
    currency: str
    applied_minor: int
    remaining_minor: int | None
    by_item: tuple[int, ...]


def take_discounts(inputs: InvoiceInputs, left: list[int], rounding: Rounding) -> list[Deduction]:
    """What each discount takes off `left`, the amounts of the items, which become what is left.

    A percentage is of what the discounts before it left. It is rounded once, as a line, and shared by the items in
    proportion; of what does not divide, the first items bear a unit more.
    """
    deductions = []
    for position, discount in enumerate(inputs.discounts):
        open_to_it = [
            amount if concerns(discount.metrics, item.metric) else 0
            for item, amount in zip(inputs.items, left, strict=True)
        ]
        by_item = _shared(_discount_amount(discount, sum(open_to_it), rounding), open_to_it)
        deductions.append(_deduct("discount", position, discount.name, inputs.currency, None, by_item, left))
    return deductions


def take_prepaid(inputs: InvoiceInputs, left: list[int]) -> list[Deduction]:
    """What each prepaid commitment pays of `left` (items, then true-ups), in the order of the invoice."""
    deductions = []
    for position, commitment in sorted(enumerate(inputs.prepaid), key=_prepaid_order):
        remaining = max(commitment.amount_minor - commitment.applied_minor, 0)
        usable = remaining if _serves(commitment, inputs) else 0
        by_item = _in_turn(usable, left)
        currency = commitment.currency.upper()
        deductions.append(_deduct("commitment", position, commitment.name, currency, remaining, by_item, left))
    return deductions


def take_credits(inputs: InvoiceInputs, left: list[int]) -> list[Deduction]:
    """What each credit grant pays of `left` (items, then true-ups), in Stripe's order; metered items only.

    Source: stripe.md 2.7: priority, earliest expiry, promotional before paid, earliest effective, earliest created.
    """
    deductions = []
    for position, grant in sorted(enumerate(inputs.grants), key=_grant_order):
        remaining = max(grant.amount_minor - grant.applied_minor, 0)
        open_to_it = [
            amount if item.is_metered and concerns(grant.metrics, item.metric) else 0
            for item, amount in zip(inputs.items, left, strict=False)
        ]
        by_item = _in_turn(remaining if _pays(grant, inputs) else 0, open_to_it)
        by_item += [0] * (len(left) - len(by_item))
        currency = grant.currency.upper()
        deductions.append(_deduct("credit", position, grant.name, currency, remaining, by_item, left))
    return deductions


def _prepaid_order(numbered: tuple[int, PrepaidCommitment]) -> tuple[datetime, datetime, int]:
    position, commitment = numbered
    return commitment.ends_at or _FOREVER, commitment.starts_at or _EVER, position


def _grant_order(numbered: tuple[int, CreditGrant]) -> tuple[int, datetime, bool, datetime, datetime, int]:
    position, grant = numbered
    return (
        grant.priority,
        grant.expires_at or _FOREVER,
        grant.category == "paid",
        grant.effective_at or _EVER,
        grant.created_at or _EVER,
        position,
    )


def _serves(commitment: PrepaidCommitment, inputs: InvoiceInputs) -> bool:
    is_current = (commitment.starts_at or _EVER) < inputs.period_end and (
        commitment.ends_at or _FOREVER
    ) > inputs.period_start
    return is_current and commitment.currency.upper() == inputs.currency


def _pays(grant: CreditGrant, inputs: InvoiceInputs) -> bool:
    is_effective = (grant.effective_at or _EVER) <= inputs.period_end < (grant.expires_at or _FOREVER)
    return is_effective and grant.currency.upper() == inputs.currency


def _discount_amount(discount: Discount, base: int, rounding: Rounding) -> int:
    if discount.percent_off is None:
        return min(discount.amount_off_minor or 0, base)
    return round_line(base * scaled(discount.percent_off, "percent_off"), 100 * UNIT, rounding)


def _shared(amount: int, parts: Sequence[int]) -> list[int]:
    """`amount` shared in proportion to `parts`, none of which gets more than it is; at most their sum."""
    whole = sum(parts)
    if not whole:
        return [0] * len(parts)
    shares = [amount * part // whole for part in parts]
    by_rest = sorted(range(len(parts)), key=lambda number: (-(amount * parts[number] % whole), number))
    for number in by_rest[: amount - sum(shares)]:
        shares[number] += 1
    return shares


def _in_turn(amount: int, parts: Sequence[int]) -> list[int]:
    """`amount` taken from the first part until nothing is left of it, then from the next."""
    taken = []
    for part in parts:
        taken.append(min(amount, part))
        amount -= taken[-1]
    return taken


def _deduct(
    kind: Literal["discount", "commitment", "credit"],
    position: int,
    name: str,
    currency: str,
    before: int | None,
    by_item: list[int],
    left: list[int],
) -> Deduction:
    for number, amount in enumerate(by_item):
        left[number] -= amount
    applied = sum(by_item)
    return Deduction(
        kind=kind,
        position=position,
        name=name,
        currency=currency,
        applied_minor=applied,
        remaining_minor=None if before is None else before - applied,
        by_item=tuple(by_item),
    )
