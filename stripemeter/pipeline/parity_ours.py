"""Our side of a comparison: items as `metering.parity` judges them.

Belongs here: numbers and amounts as items. Does not: reading and pricing (`parity_usage`, `parity_prices`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import reduce

from stripemeter.metering.averages import add
from stripemeter.metering.parity import ItemKey, OurItem
from stripemeter.metering.parity_rows import ExportRow
from stripemeter.pipeline.parity_prices import PricedItem, PriceVersions
from stripemeter.pipeline.parity_usage import UsageKey, UsedQuantity
from stripemeter.store.parity import WaitingAdjustment

_NOTHING = Decimal(0)


def ours_of_usage(
    theirs: Mapping[ItemKey, Sequence[ExportRow]],
    quantities: Mapping[UsageKey, UsedQuantity],
    later: Mapping[UsageKey, UsedQuantity],
) -> dict[ItemKey, OurItem]:
    """The items of the export's keys, and those with usage that it lacks.

    Args:
        theirs: the export's rows of customers and metrics of ours.
        quantities: ours of those, and of whatever the export should have.
        later: by now, where `quantities` are what was known at an earlier instant; empty otherwise.
    """
    ours = {key: _quantity_item(UsageKey(*key[:4]), quantities, later) for key in theirs}
    found = {UsageKey(*key[:4]) for key in theirs}
    for key, used in quantities.items():
        if key not in found and used.quantity:
            ours[ItemKey(*key, "")] = _quantity_item(key, quantities, later)
    return ours


def ours_of_invoices(
    theirs: Mapping[ItemKey, Sequence[ExportRow]],
    quantities: Mapping[UsageKey, UsedQuantity],
    later: Mapping[UsageKey, UsedQuantity],
    priced: Mapping[UsageKey, PricedItem],
    versions: PriceVersions,
) -> tuple[dict[ItemKey, OurItem], frozenset[str]]:
    """The items of the export's keys and those it lacks; and the metrics with usage that nobody bills.

    Args:
        theirs: as for `ours_of_usage`.
        quantities: likewise.
        later: likewise.
        priced: every one of those keys with its amount, and what is billed without usage.
        versions: of the prices.
    """
    ours = {
        key: _invoice_item(UsageKey(*key[:4]), quantities, later, priced, versions, rows)
        for key, rows in theirs.items()
    }
    found = {UsageKey(*key[:4]) for key in theirs}
    not_billed = set()
    for key, item in priced.items():
        if key in found:
            continue
        if item.quoted is None:
            not_billed |= {key.metric} if item.quantity else set()
        elif item.quantity or item.quoted.total_minor:
            currency = item.quoted.price.currency
            ours[ItemKey(*key, currency)] = _invoice_item(key, quantities, later, priced, versions, ())
    return ours, frozenset(not_billed)


def with_waiting(ours: Mapping[ItemKey, OurItem], waiting: Iterable[WaitingAdjustment]) -> dict[ItemKey, OurItem]:
    """The items with what waits for approval in their windows."""
    of: defaultdict[tuple[str, str], list[WaitingAdjustment]] = defaultdict(list)
    for each in waiting:
        of[each.customer_ref, each.metric].append(each)
    found = {}
    for key, item in ours.items():
        within = [each for each in of.get(key[:2], ()) if key.start <= each.effective_at < key.end]
        late = reduce(add, (each.delta for each in within if each.is_late), _NOTHING)
        manual = reduce(add, (each.delta for each in within if not each.is_late), _NOTHING)
        found[key] = replace(item, waiting_late=late, waiting_manual=manual) if within else item
    return found


def _quantity_item(
    key: UsageKey, quantities: Mapping[UsageKey, UsedQuantity], later: Mapping[UsageKey, UsedQuantity]
) -> OurItem:
    used = quantities[key]
    return OurItem(
        is_present=used.is_present,
        quantity=used.quantity,
        adjusted=used.adjusted,
        quantity_later=later[key].quantity if later else None,
    )


def _invoice_item(
    key: UsageKey,
    quantities: Mapping[UsageKey, UsedQuantity],
    later: Mapping[UsageKey, UsedQuantity],
    priced: Mapping[UsageKey, PricedItem],
    versions: PriceVersions,
    rows: Sequence[ExportRow],
) -> OurItem:
    used, item = quantities.get(key), priced[key]
    if item.metric is None or item.quoted is None:
        return OurItem(
            is_present=used is not None and used.is_present,
            quantity=item.quantity,
            adjusted=_NOTHING if used is None else used.adjusted,
            quantity_later=_later(key, later),
            reason=item.reason,
        )
    quantity = reduce(add, (row.quantity for row in rows), _NOTHING)
    amount = reduce(add, (row.amount_minor for row in rows if row.amount_minor is not None), _NOTHING)
    differs = bool(rows) and amount != item.quoted.total_minor
    return OurItem(
        is_present=(used is not None and used.is_present) or bool(item.quoted.total_minor),
        quantity=item.quantity,
        adjusted=_NOTHING if used is None else used.adjusted,
        quantity_later=_later(key, later),
        currency=item.quoted.price.currency,
        amount_minor=item.quoted.total_minor,
        exact_minor=item.exact_minor,
        line_count=len(item.quoted.lines),
        price_id=item.metric.price_id,
        amount_of_theirs=versions.amount_of(item.quoted.price, quantity) if differs else None,
        other_amounts=versions.other_amounts(item, quantity, {row.price for row in rows}) if differs else {},
    )


def _later(key: UsageKey, later: Mapping[UsageKey, UsedQuantity]) -> Decimal | None:
    """What will have been billed by now; never below 0."""
    return max(later[key].quantity, _NOTHING) if key in later else None
