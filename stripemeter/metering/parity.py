"""Parity: an export's numbers against ours, item by item, and why they differ.

Belongs here: the verdict on each item, causes, and counts that add up. Does not: reading rows (`parity_rows`), sums
(`parity_sums`), reading ours and pricing it (`pipeline.parity`), reports (`pipeline.parity_report`).

An item is `ok` only when its numbers are equal to the last digit. What is within epsilon is listed all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Literal, NamedTuple

from stripemeter.metering.averages import add
from stripemeter.metering.drift import Status, judge_difference
from stripemeter.metering.parity_rows import ExportRow

Side = Literal["both", "only_there", "only_here"]
Verdict = Literal["equal", "within_epsilon", "different", "incomplete"]
Cause = Literal[
    "unknown_customer",
    "not_bound",
    "unmapped_metric",
    "missing_here",
    "missing_there",
    "duplicate_rows",
    "late_events",
    "adjustments",
    "rounding",
    "price_version",
    "other_price",
    "other_currency",
    "unpriced",
    "unknown",
]
CAUSES: Mapping[Cause, str] = {
    "unknown_customer": "we know no customer of this reference",
    "not_bound": "no customer of ours is bound to this Stripe customer",
    "unmapped_metric": "we count no metric of this name, and no mapping names this price",
    "missing_here": "we have counted nothing of this customer, metric and window",
    "missing_there": "the export has no row of it",
    "duplicate_rows": "the export has rows twice: without the repetitions it is equal",
    "late_events": "what came after the as-of time, or came late and waits for approval, makes the difference",
    "adjustments": "our manual adjustments, approved or waiting for approval, make the difference",
    "rounding": "no more than half a minor unit a line from the exact amount",
    "price_version": "equal to what another version of the price makes of this quantity",
    "other_price": "the export bills by another price than the mapping in force names",
    "other_currency": "the same window is billed in another currency",
    "unpriced": "we know no price of it",
    "unknown": "nothing that is known here explains it",
}
AMOUNT_FLOOR_MINOR = Decimal(1)
"""A difference of one minor unit is within epsilon, however small the amount is."""
_NOTHING, _HALF = Decimal(0), Decimal("0.5")
_SEVERITY: tuple[Status, ...] = ("ok", "within_epsilon", "drift", "unknown")


class ItemKey(NamedTuple):
    """What is compared: of a row whose customer or metric is not ours, the texts of the row."""

    customer_ref: str
    metric: str
    start: datetime
    end: datetime
    currency: str
    """'' in a usage export."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OurItem:
    """What we have of a customer, metric and window that we know.

    Args:
        is_present: whether there is anything: events, adjustments, or an amount that is due without usage.
        quantity: as usage is read; of an invoice as it is billed, never below 0.
        adjusted: approved manual adjustments in it.
        waiting_late: what late events that wait for approval would add.
        waiting_manual: what manual adjustments that wait for approval would add.
        quantity_later: what is known by now, where `quantity` is what was known at an earlier instant.
        currency: of the price; '' in a usage export or without a known price.
        amount_minor: what it costs; None in a usage export or without a known price.
        exact_minor: the same before its lines were rounded.
        line_count: lines of the amount.
        price_id: what prices it.
        amount_of_theirs: what the export's quantity costs by the same price.
        other_amounts: what the export's quantity costs by each other known version of the price.
        reason: why it has no price.
    """

    is_present: bool
    quantity: Decimal
    adjusted: Decimal = _NOTHING
    waiting_late: Decimal = _NOTHING
    waiting_manual: Decimal = _NOTHING
    quantity_later: Decimal | None = None
    currency: str = ""
    amount_minor: int | None = None
    exact_minor: Decimal | None = None
    line_count: int = 0
    price_id: str = ""
    amount_of_theirs: int | None = None
    other_amounts: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityItem:
    """One customer, metric and window of both sides.

    Args:
        key: what is compared.
        side: who has it.
        status: the worse of quantity and amount; `unknown` when ours cannot be told.
        quantity: ours; None where the customer or metric is nothing of ours.
        their_quantity: the export's rows added up; None where it has none.
        amount_minor: ours; None in a usage export or without a known price.
        their_amount_minor: the export's rows added up.
        causes: what explains the difference; empty when there is none.
        detail: in words, where there is more to say.
        lines: of the export, ascending.
    """

    key: ItemKey
    side: Side
    status: Status
    quantity: Decimal | None
    their_quantity: Decimal | None
    amount_minor: int | None
    their_amount_minor: Decimal | None
    causes: tuple[Cause, ...]
    detail: str
    lines: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many: `matched` are `ok`, `differing` are on both sides and not `ok`."""

    matched: int
    differing: int
    only_there: int
    only_here: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.matched + self.differing + self.only_there + self.only_here


def compare_items(
    rows: Mapping[ItemKey, Sequence[ExportRow]], ours: Mapping[ItemKey, OurItem], strangers: Mapping[ItemKey, Cause]
) -> list[ParityItem]:
    """Every item of either side, in the order of their keys.

    Args:
        rows: the export's, by what they are of; in any order.
        ours: what we have of each of these keys but the strangers, and of keys that the export should have.
        strangers: why a key of `rows` is of nobody and nothing we know.
    """
    items = []
    for key in sorted({*rows, *ours}):
        theirs = rows.get(key)
        if theirs is None:
            items.append(_only_here(key, ours[key]))
        elif key in strangers:
            items.append(_stranger(key, theirs, strangers[key]))
        else:
            items.append(_both(key, ours[key], theirs))
    return items


def tally_rows(items: Iterable[ParityItem]) -> Tally:
    """The rows of the export by what became of them; `only_here` is 0."""
    return _tally((item, len(item.lines)) for item in items)


def tally_items(items: Iterable[ParityItem]) -> Tally:
    """The items by what became of them."""
    return _tally((item, 1) for item in items)


def verdict_of(items: Iterable[ParityItem], *, unusable_count: int) -> Verdict:
    """The verdict on a whole comparison; an incomplete one may have differences as well."""
    statuses = {item.status for item in items}
    if unusable_count or "unknown" in statuses:
        return "incomplete"
    if "drift" in statuses:
        return "different"
    return "within_epsilon" if "within_epsilon" in statuses else "equal"


def _only_here(key: ItemKey, mine: OurItem) -> ParityItem:
    return ParityItem(
        key=key,
        side="only_here",
        status="drift",
        quantity=mine.quantity,
        their_quantity=None,
        amount_minor=mine.amount_minor,
        their_amount_minor=None,
        causes=("missing_there",),
        detail="",
        lines=(),
    )


def _stranger(key: ItemKey, theirs: Sequence[ExportRow], cause: Cause) -> ParityItem:
    return ParityItem(
        key=key,
        side="only_there",
        status="drift",
        quantity=None,
        their_quantity=_sum_quantities(theirs),
        amount_minor=None,
        their_amount_minor=_sum_amounts(theirs),
        causes=(cause,),
        detail="",
        lines=_lines(theirs),
    )


def _both(key: ItemKey, mine: OurItem, theirs: Sequence[ExportRow]) -> ParityItem:
    quantity, amount = _sum_quantities(theirs), _sum_amounts(theirs)
    by_quantity = judge_difference(mine.quantity, quantity)
    causes: list[Cause] = [] if by_quantity == "ok" else _quantity_causes(mine, theirs, quantity)
    by_amount: Status = "ok"
    detail = ""
    if amount is not None:
        by_amount, more, detail = _judge_amount(key, mine, theirs, quantity, amount)
        causes += [cause for cause in more if cause not in causes]
    status = max((by_quantity, by_amount), key=_SEVERITY.index)
    is_absent = not mine.is_present and status != "ok"
    return ParityItem(
        key=key,
        side="only_there" if is_absent else "both",
        status=status,
        quantity=mine.quantity,
        their_quantity=quantity,
        amount_minor=mine.amount_minor if mine.currency == key.currency else None,
        their_amount_minor=amount,
        causes=() if status == "ok" else tuple(causes) or ("unknown",),
        detail=detail,
        lines=_lines(theirs),
    )


def _quantity_causes(mine: OurItem, theirs: Sequence[ExportRow], quantity: Decimal) -> list[Cause]:
    causes: list[Cause] = []
    if not mine.is_present:
        causes.append("missing_here")
    once = _once(theirs)
    if len(once) < len(theirs) and _sum_quantities(once) == mine.quantity:
        causes.append("duplicate_rows")
    difference = add(quantity, mine.quantity.copy_negate())
    is_later = mine.quantity_later is not None and quantity == mine.quantity_later
    if is_later or (mine.waiting_late and difference == mine.waiting_late):
        causes.append("late_events")
    is_before = mine.adjusted and difference == mine.adjusted.copy_negate()
    if is_before or (mine.waiting_manual and difference == mine.waiting_manual):
        causes.append("adjustments")
    return causes or ["unknown"]


def _judge_amount(
    key: ItemKey, mine: OurItem, theirs: Sequence[ExportRow], quantity: Decimal, amount: Decimal
) -> tuple[Status, list[Cause], str]:
    """The verdict on an amount, what explains it beyond the quantity, and that in words."""
    if mine.amount_minor is None or mine.exact_minor is None:
        return "unknown", ["unpriced"], mine.reason
    if mine.currency != key.currency:
        return "drift", ["other_currency"], f"it is priced in {mine.currency} here"
    status = judge_difference(Decimal(mine.amount_minor), amount, floor=AMOUNT_FLOOR_MINOR)
    if status == "ok":
        return status, [], ""
    if quantity != mine.quantity and amount == mine.amount_of_theirs:
        return status, [], "the amount is what this price makes of the export's quantity"
    causes, detail = _price_causes(mine, theirs, quantity, amount)
    return status, causes or ["unknown"], detail


def _price_causes(
    mine: OurItem, theirs: Sequence[ExportRow], quantity: Decimal, amount: Decimal
) -> tuple[list[Cause], str]:
    once = _once(theirs)
    if len(once) < len(theirs) and _sum_amounts(once) == mine.amount_minor:
        return ["duplicate_rows"], ""
    most = _HALF * max(mine.line_count, len(theirs))
    if quantity == mine.quantity and mine.exact_minor is not None and abs(amount - mine.exact_minor) <= most:
        return ["rounding"], ""
    versions = [version for version, other in mine.other_amounts.items() if other == amount]
    if versions:
        return ["price_version"], f"version {versions[0]} makes it"
    named = sorted({row.price for row in theirs if row.price} - {mine.price_id})
    if named:
        return ["other_price"], f"it names {', '.join(named)}, and {mine.price_id or 'no price'} holds here"
    return [], ""


def _tally(counted: Iterable[tuple[ParityItem, int]]) -> Tally:
    counts = {"matched": 0, "differing": 0, "only_there": 0, "only_here": 0}
    for item, count in counted:
        counts[("matched" if item.status == "ok" else "differing") if item.side == "both" else item.side] += count
    return Tally(**counts)


def _once(theirs: Sequence[ExportRow]) -> list[ExportRow]:
    """The rows without repetitions: of the same id or, without one, of the same content."""
    seen: dict[object, ExportRow] = {}
    for row in theirs:
        seen.setdefault(row.id or (row.customer, row.metric, row.price, row.quantity, row.amount_minor), row)
    return list(seen.values())


def _sum_quantities(rows: Iterable[ExportRow]) -> Decimal:
    return reduce(add, (row.quantity for row in rows), _NOTHING)


def _sum_amounts(rows: Iterable[ExportRow]) -> Decimal | None:
    amounts = [row.amount_minor for row in rows if row.amount_minor is not None]
    return reduce(add, amounts, _NOTHING) if amounts else None


def _lines(rows: Iterable[ExportRow]) -> tuple[int, ...]:
    return tuple(sorted(row.line for row in rows))
