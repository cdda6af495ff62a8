"""What an export should have: customers and metrics with usage, by the windows to look for it in.

Belongs here: which windows an export of usage and one of invoices is held against. Does not: choosing among windows
(`metering.parity_scope`), the numbers in them (`parity_usage`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from stripemeter.metering.parity import ItemKey
from stripemeter.metering.parity_rows import Window
from stripemeter.metering.parity_scope import are_disjoint, expected_windows, gaps_between, segments_within
from stripemeter.pipeline.parity_export import ExportRequest
from stripemeter.pipeline.parity_names import Names
from stripemeter.pipeline.parity_usage import UsageKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is looked for besides the export's own rows.

    Args:
        keys: where usage is looked for.
        customers: billing periods of customers at Stripe, who may be billed without usage.
    """

    keys: set[UsageKey]
    customers: set[tuple[str, Window]]


def scope_of(rows: Collection[ItemKey], names: Names, used: Iterable[tuple[str, str]], asked: ExportRequest) -> Scope:
    """What an export of everything would have.

    Of usage: every window that the export uses for anybody and, of a period, what is in none of them. Of invoices: the
    billing periods that begin in the period asked for or, without one, end between the export's first and last end.
    Windows that a customer's own rows use come first, and no other that overlaps one of those.

    Args:
        rows: what the export has rows of.
        names: what is known here.
        used: customers and metrics with usage.
        asked: the period, metrics and kind.
    """
    own: defaultdict[tuple[str, str], set[Window]] = defaultdict(set)
    by_customer: defaultdict[str, set[Window]] = defaultdict(set)
    for key in rows:
        own[key.customer_ref, key.metric].add((key.start, key.end))
        by_customer[key.customer_ref].add((key.start, key.end))
    pairs = {(customer, metric) for customer, metric in used if not asked.metrics or metric in asked.metrics}
    if asked.kind == "usage":
        return Scope(keys=_usage_keys(pairs, own, by_customer, asked.period), customers=set())
    bound = {ref for refs in names.bound.values() for ref in refs}
    keys = set()
    for customer, metric in pairs:
        mine = own.get((customer, metric)) or by_customer.get(customer) or set()
        keys |= {
            UsageKey(customer, metric, *window) for window in _invoiced(mine, customer, metric, names, asked, rows)
        }
    customers = {
        (customer, window)
        for customer in bound
        for window in _invoiced(by_customer.get(customer, ()), customer, "", names, asked, rows)
    }
    return Scope(keys=keys, customers=customers)


def _usage_keys(
    pairs: Iterable[tuple[str, str]],
    own: Mapping[tuple[str, str], set[Window]],
    by_customer: Mapping[str, set[Window]],
    period: Window | None,
) -> set[UsageKey]:
    everybodys = {window for windows in own.values() for window in windows}
    # As exports usually are; then nothing has to be chosen, for any number of customers.
    common = sorted(everybodys) if are_disjoint(everybodys) else None
    keys = set()
    for customer, metric in pairs:
        windows = common or expected_windows(own.get((customer, metric), ()), by_customer.get(customer, ()), everybodys)
        gaps = [] if period is None else gaps_between(windows, period)
        keys |= {UsageKey(customer, metric, *window) for window in (*windows, *gaps)}
    return keys


def _invoiced(
    mine: Iterable[Window], customer: str, metric: str, names: Names, asked: ExportRequest, rows: Collection[ItemKey]
) -> list[Window]:
    phases = names.rules.phases_of(customer, metric)
    if asked.period is not None:
        return expected_windows(mine, segments_within(phases, starts=asked.period))
    ends = [key.end for key in rows]
    return expected_windows(mine, segments_within(phases, ends=(min(ends), max(ends)))) if ends else []
