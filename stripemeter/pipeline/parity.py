"""Parity: comparing a usage or invoice export with what we counted and what that costs.

Belongs here: which items are compared, and putting both sides together. Does not: reading the export (`parity_export`),
our numbers (`parity_usage`, `parity_prices`), verdicts (`metering.parity`), reports (`parity_report`).

Nothing is written, and Stripe is not asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.parity import (
    Cause,
    ItemKey,
    OurItem,
    ParityItem,
    Tally,
    Verdict,
    compare_items,
    tally_rows,
    verdict_of,
)
from stripemeter.metering.parity_rows import ExportRow, UnusableRow, Window
from stripemeter.pipeline.parity_export import Export, ExportRequest, read_export
from stripemeter.pipeline.parity_names import Names, load_names, why_stranger
from stripemeter.pipeline.parity_ours import ours_of_invoices, ours_of_usage, with_waiting
from stripemeter.pipeline.parity_prices import PriceVersions, price_quantities
from stripemeter.pipeline.parity_scope import Scope, scope_of
from stripemeter.pipeline.parity_usage import UsageKey, UsedQuantity, load_quantities
from stripemeter.store.metered_usage import read_one_snapshot
from stripemeter.store.parity import WaitingAdjustment, list_used, list_waiting
from stripemeter.store.postgres import transaction
from stripemeter.store.rulebook import load_rulebook


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """What a comparison came to. Rows of the export: `rows` + unusable + left_out = row_count.

    Args:
        tenant_id: whose.
        asked: what was compared.
        made_at: when.
        row_count: rows of the export.
        rows: those that were compared, by what became of them.
        unusable: rows that cannot be compared: with any the comparison is incomplete.
        left_out: rows of other metrics or months than asked for.
        items: every item of either side, in order.
        not_billed: metrics with usage that neither the export nor a price of ours bills.
    """

    tenant_id: str
    asked: ExportRequest
    made_at: datetime
    row_count: int
    rows: Tally
    unusable: list[UnusableRow]
    left_out: int
    items: list[ParityItem]
    not_billed: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The verdict on all of it."""
        return verdict_of(self.items, unusable_count=len(self.unusable))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """The export's rows under the names they have here."""

    rows: Mapping[ItemKey, list[ExportRow]]
    strangers: Mapping[ItemKey, Cause]
    unusable: list[UnusableRow]
    left_out: int


def compare_export(pool: ConnectionPool, asked: ExportRequest, *, tenant_id: str, now: datetime) -> ParityReport:
    """Compare an export with ours, item by item.

    Raises:
        InvalidInput: the export cannot be read, has no rows and no period, or needs more items compared or events read
            than may be.
        NotFound: there is no such file.
        TookTooLong: too much is asked for at once.
        Unavailable: Postgres or S3 is down.
    """
    if asked.as_of is not None and asked.as_of > now:
        raise InvalidInput("asOf must not be in the future: what will be known then is not known", field="asOf")
    export = read_export(asked, tenant_id=tenant_id)
    span = _span(export.rows, asked)
    if span is None and not export.unusable and not export.left_out:
        raise InvalidInput("the export has no rows: with a period, ours of it is listed", field="rows")
    with transaction(pool) as tx:
        read_one_snapshot(tx)
        rulebook = load_rulebook(tx, [tenant_id])
        rules = rulebook.of(tenant_id)
        used, waiting = set[tuple[str, str]](), list[WaitingAdjustment]()
        if span is not None:
            used = list_used(tx, rulebook, tenant_id=tenant_id, start=span[0], end=span[1], now=now)
            waiting = list_waiting(tx, rules, tenant_id=tenant_id, start=span[0], end=span[1])
        names = load_names(tx, rules, export.rows, tenant_id=tenant_id, used=used)
    named = _named(export, names, asked.metrics)
    scope = Scope(keys=set(), customers=set()) if span is None else scope_of(named.rows, names, used, asked)
    ours, not_billed = _ours(pool, named, names, scope, asked, tenant_id=tenant_id, now=now)
    items = compare_items(named.rows, with_waiting(ours, waiting), named.strangers)
    return ParityReport(
        tenant_id=tenant_id,
        asked=asked,
        made_at=now,
        row_count=len(export.rows) + len(export.unusable) + export.left_out,
        rows=tally_rows(items),
        unusable=sorted([*export.unusable, *named.unusable], key=lambda row: row.line),
        left_out=export.left_out + named.left_out,
        items=items,
        not_billed=tuple(sorted(not_billed)),
    )


def _ours(
    pool: ConnectionPool,
    named: _Named,
    names: Names,
    scope: Scope,
    asked: ExportRequest,
    *,
    tenant_id: str,
    now: datetime,
) -> tuple[dict[ItemKey, OurItem], Collection[str]]:
    """Our items, and the metrics with usage that nobody bills."""
    theirs = {key: rows for key, rows in named.rows.items() if key not in named.strangers}
    wanted = scope.keys | {UsageKey(*key[:4]) for key in theirs}
    item_count = len(wanted) + len(scope.customers)
    if item_count > asked.most_items:
        raise InvalidInput(
            f"{item_count} items of ours would have to be compared, at most {asked.most_items} are at once: "
            "name metrics, or a shorter period",
            field="metrics",
        )
    rules = names.rules
    quantities = load_quantities(pool, wanted, tenant_id=tenant_id, rules=rules, known_at=asked.as_of, now=now)
    later: Mapping[UsageKey, UsedQuantity] = {}
    if asked.as_of is not None:
        later = load_quantities(pool, wanted, tenant_id=tenant_id, rules=rules, known_at=None, now=now)
    if asked.kind == "usage":
        return ours_of_usage(theirs, quantities, later), ()
    priced = price_quantities(
        pool, quantities, scope.customers, tenant_id=tenant_id, rules=rules, rounding=asked.rounding
    )
    if asked.metrics:
        priced = {key: item for key, item in priced.items() if key.metric in asked.metrics}
    return ours_of_invoices(theirs, quantities, later, priced, PriceVersions(pool, tenant_id, asked.rounding))


def _span(rows: Sequence[ExportRow], asked: ExportRequest) -> Window | None:
    """From the first to the last instant that anything may be compared of."""
    windows = [(row.start, row.end) for row in rows]
    windows += [] if asked.period is None else [asked.period]
    return (min(start for start, _ in windows), max(end for _, end in windows)) if windows else None


def _named(export: Export, names: Names, metrics: Sequence[str]) -> _Named:
    rows: defaultdict[ItemKey, list[ExportRow]] = defaultdict(list)
    strangers: dict[ItemKey, Cause] = {}
    unusable: list[UnusableRow] = []
    left_out = 0
    for row in export.rows:
        customers, meters = names.customers_of(row.customer), names.metrics_of(row)
        if len(customers) > 1:
            unusable.append(_ambiguous(row, "customer", row.customer, customers))
        elif len(meters) > 1:
            unusable.append(_ambiguous(row, "metric", row.metric, meters))
        else:
            metric = next(iter(meters), row.metric)
            if metrics and metric not in metrics:
                left_out += 1
                continue
            key = ItemKey(next(iter(customers), row.customer), metric, row.start, row.end, row.currency)
            rows[key].append(row)
            stranger = why_stranger(names, row)
            if stranger is not None:
                strangers[key] = stranger
    return _Named(rows=rows, strangers=strangers, unusable=unusable, left_out=left_out)


def _ambiguous(row: ExportRow, field: str, text: str, found: Iterable[str]) -> UnusableRow:
    return UnusableRow(row.line, field, "ambiguous", f"{field}: {text!r} is {' and '.join(sorted(found))} here")
