"""What we counted of many customers, metrics and windows, as the usage routes answer it.

Belongs here: asking few questions for many numbers. Does not: answering them (`store.usage_windows`,
`store.metered_windows`), what an export says (`pipeline.parity`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from psycopg_pool import ConnectionPool

from stripemeter.metering.meters import Aggregation
from stripemeter.metering.parity_rows import Window
from stripemeter.metering.rulebook import TenantRules
from stripemeter.store.metered_windows import load_metered_windows
from stripemeter.store.usage import load_current_usage
from stripemeter.store.usage_windows import MAX_CELLS, UsageQuestion, UsageWindows, load_usage_windows

MOST_CUSTOMERS = 500
"""Of one question: their groups are well below what an answer may have."""
MOST_WINDOWS = 1_000


class UsageKey(NamedTuple):
    """Whose usage of what in which window."""

    customer_ref: str
    metric: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedQuantity:
    """What was used: `is_present` when there are events, adjustments or a value in force."""

    aggregation: Aggregation
    quantity: Decimal
    adjusted: Decimal
    is_present: bool


def load_quantities(
    pool: ConnectionPool,
    keys: Collection[UsageKey],
    *,
    tenant_id: str,
    rules: TenantRules,
    known_at: datetime | None,
    now: datetime,
) -> dict[UsageKey, UsedQuantity]:
    """The number of every key, 0 where there is nothing. Each question is one snapshot, all of them are several.

    Args:
        pool: where.
        keys: customers by their own references.
        tenant_id: whose.
        rules: the tenant's.
        known_at: what was known at that instant; None: now.
        now: until when a level is known to hold.

    Raises:
        InvalidInput: more events have to be read for a question than one may.
        TookTooLong: the time allowed ran out.
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    found: dict[UsageKey, UsedQuantity] = {}
    for metric, windows, customers in _questions(keys):
        edges = [windows[0][0], *(end for _, end in windows)]
        question = UsageQuestion(
            tenant_id=tenant_id,
            metric=metric,
            edges=edges,
            customer_refs=customers,
            group_by="customerRef",
            known_at=known_at,
        )
        answer = load_metered_windows(pool, question, now=now) or load_usage_windows(pool, question, now=now)
        found |= _quantities(answer, metric, customers, windows)
    if known_at is None:
        _add_values_in_force(pool, found, tenant_id=tenant_id, rules=rules, now=now)
    return {key: found[key] for key in keys}


def _quantities(
    answer: UsageWindows, metric: str, customers: Sequence[str], windows: Sequence[Window]
) -> dict[UsageKey, UsedQuantity]:
    nothing = UsedQuantity(aggregation=answer.aggregation, quantity=Decimal(0), adjusted=Decimal(0), is_present=False)
    found = {UsageKey(customer, metric, *window): nothing for customer in customers for window in windows}
    for cell in answer.cells:
        quantity = cell.quantity or Decimal(0)
        found[UsageKey(cell.group or "", metric, cell.start, cell.end)] = UsedQuantity(
            aggregation=cell.aggregation,
            quantity=quantity,
            adjusted=cell.adjusted,
            is_present=bool(cell.event_count or cell.adjusted or quantity),
        )
    return found


def _add_values_in_force(
    pool: ConnectionPool, found: dict[UsageKey, UsedQuantity], *, tenant_id: str, rules: TenantRules, now: datetime
) -> None:
    """A billing window of a `last` metric without events has the value reported before it: only that read knows it."""
    for key, used in found.items():
        segment = rules.segment_of(key.customer_ref, key.metric, key.start)
        if used.aggregation != "last" or used.is_present or (segment.start, segment.end) != (key.start, key.end):
            continue
        read = load_current_usage(
            pool, tenant_id=tenant_id, customer_ref=key.customer_ref, at=key.start, now=now, metric=key.metric
        )
        usage = read.metrics.get(key.metric)
        if usage is not None:
            found[key] = UsedQuantity(
                aggregation=usage.aggregation, quantity=usage.quantity, adjusted=usage.adjusted, is_present=True
            )


def _questions(keys: Collection[UsageKey]) -> Iterator[tuple[str, Sequence[Window], list[str]]]:
    """Metric, windows of which each begins where the one before it ends, and customers: all numbers of one question."""
    windows: defaultdict[tuple[str, str], set[Window]] = defaultdict(set)
    for key in keys:
        windows[key.metric, key.customer_ref].add((key.start, key.end))
    customers: defaultdict[tuple[str, tuple[Window, ...]], list[str]] = defaultdict(list)
    for (metric, customer), of_customer in sorted(windows.items()):
        for run in _runs(of_customer):
            customers[metric, run].append(customer)
    for (metric, run), asked in sorted(customers.items()):
        most = max(1, min(MOST_CUSTOMERS, MAX_CELLS // len(run)))
        for first in range(0, len(asked), most):
            yield metric, run, asked[first : first + most]


def _runs(windows: Collection[Window]) -> list[tuple[Window, ...]]:
    """The windows in as few rows without gaps as their order allows."""
    runs: list[list[Window]] = []
    open_at: dict[datetime, list[Window]] = {}
    for window in sorted(windows):
        run = open_at.pop(window[0], None)
        if run is None or len(run) == MOST_WINDOWS:
            run = []
            runs.append(run)
        run.append(window)
        open_at[window[1]] = run
    return [tuple(run) for run in runs]
