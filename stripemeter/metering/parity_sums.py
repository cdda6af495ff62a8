"""Sums of a comparison, by metric and over all.

Belongs here: adding up items; currencies are never added. Does not: judging an item (`parity`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce

from stripemeter.metering.averages import add
from stripemeter.metering.parity import Cause, ParityItem, Tally, tally_items


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Both sides of some items added up.

    Args:
        ours: ours.
        theirs: the export's.
        drift: differences without their signs: one customer's surplus does not hide another's loss.
    """

    ours: Decimal
    theirs: Decimal
    drift: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricParity:
    """One metric, or all. Quantities of different metrics are not added: over all, `quantity` is None.

    Args:
        metric: its name; '' over all.
        items: how many came to what.
        causes: how many items have each cause, the most frequent first.
        quantity: sums of quantities.
        amounts: sums of amounts in minor units, by currency.
    """

    metric: str
    items: Tally
    causes: Mapping[Cause, int]
    quantity: Sums | None
    amounts: Mapping[str, Sums]


def sum_by_metric(items: Iterable[ParityItem]) -> list[MetricParity]:
    """The sums of each metric, in order of their names."""
    by_metric: defaultdict[str, list[ParityItem]] = defaultdict(list)
    for item in items:
        by_metric[item.key.metric].append(item)
    return [
        _parity(metric, of_metric, _sums([(item.quantity, item.their_quantity) for item in of_metric]))
        for metric, of_metric in sorted(by_metric.items())
    ]


def sum_over_all(items: Sequence[ParityItem]) -> MetricParity:
    """The sums of everything."""
    return _parity("", items, None)


def _parity(metric: str, items: Sequence[ParityItem], quantity: Sums | None) -> MetricParity:
    amounts: defaultdict[str, list[tuple[Decimal | None, Decimal | None]]] = defaultdict(list)
    for item in items:
        if item.key.currency and (item.amount_minor is not None or item.their_amount_minor is not None):
            mine = None if item.amount_minor is None else Decimal(item.amount_minor)
            amounts[item.key.currency].append((mine, item.their_amount_minor))
    counted = Counter(cause for item in items for cause in item.causes)
    return MetricParity(
        metric=metric,
        items=tally_items(items),
        causes=dict(sorted(counted.items(), key=lambda each: (-each[1], each[0]))),
        quantity=quantity,
        amounts={currency: _sums(pairs) for currency, pairs in sorted(amounts.items())},
    )


def _sums(pairs: Sequence[tuple[Decimal | None, Decimal | None]]) -> Sums:
    told = [(ours or Decimal(0), theirs or Decimal(0)) for ours, theirs in pairs]
    return Sums(
        ours=reduce(add, (ours for ours, _ in told), Decimal(0)),
        theirs=reduce(add, (theirs for _, theirs in told), Decimal(0)),
        drift=reduce(add, (add(ours, theirs.copy_negate()).copy_abs() for ours, theirs in told), Decimal(0)),
    )
