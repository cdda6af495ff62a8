"""The report of a backtest as one HTML page: charts and tables, and nothing to load from anywhere.

Belongs here: the page. Does not: the numbers and their words (`backtest_report`), how bars are drawn (`bar_charts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

import polars as pl

from stripemeter.pipeline.backtest_report import (
    BUCKETS,
    RANKS,
    count_buckets,
    count_directions,
    extremes,
    months_of,
    notes_of,
    percent_text,
    percentiles,
    signed_text,
    totals_of,
)
from stripemeter.pipeline.backtests import Backtest, Comparison, PlanRevenue
from stripemeter.pipeline.bar_charts import Bars, bar_chart, round_ticks
from stripemeter.pricing.currencies import exponent_of
from stripemeter.pricing.invoice_writing import amount_text
from stripemeter.pricing.plan_diffs import render_changes
from stripemeter.pricing.quote_frames import AMOUNT

SHOWN_CUSTOMERS = 20
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}svg{max-width:100%;height:auto}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:2px 8px;text-align:right}"
    "td:first-child,th:first-child{text-align:left}pre{background:#f6f6f6;padding:.6em;overflow:auto}"
    ".less{color:#00664a}.more{color:#a33f00}"
)


def render_page(backtest: Backtest) -> str:
    """The page; the same backtest makes the same text."""
    title = f"Backtest {backtest.first:%Y-%m} to {backtest.last:%Y-%m}"
    body = "".join(_body(backtest))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{escape(backtest.tenant_id)}, {backtest.customers:,} customers, rounding"
        f" {backtest.rounding}</p>{body}</body></html>\n"
    )


def _body(backtest: Backtest) -> Iterator[str]:
    yield _table(["plan", "revenue", "change", "", "pay less", "pay more", "pay the same"], _overview(backtest))
    for currency in sorted({comparison.currency for comparison in backtest.comparisons}):
        alike = [comparison for comparison in backtest.comparisons if comparison.currency == currency]
        yield f"<h2>Revenue by month, {currency}</h2>{_month_chart(backtest.baseline, alike)}"
        yield "<h2>Customers by how much more or less they pay</h2>" + _bucket_chart(alike)
        yield f"<h2>Customers by what they pay, {currency}</h2>" + _distribution_chart(alike)
        yield _table(["of the customers pay at most", *(_rank(rank) for rank in RANKS)], _distribution(alike))
    for comparison in backtest.comparisons:
        yield from _section(comparison)
    yield "<h2>Revenue by metric</h2>" + _table(["plan", "what", "revenue"], _metrics(backtest))
    days = [
        [f"{each.month:%Y-%m}", str(each.lake_days), str(each.postgres_days), str(each.idle_days)]
        for each in backtest.days
    ]
    yield "<h2>What was read</h2>" + _table(["month", "days of the lake", "days of Postgres", "without usage"], days)
    yield "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes_of(backtest)) + "</ul>"


def _overview(backtest: Backtest) -> Iterator[list[str]]:
    for currency, amount in backtest.baseline.totals().items():
        yield [backtest.baseline.name, f"{amount_text(amount, currency)} {currency}", "", "", "", "", ""]
    for comparison in backtest.comparisons:
        before, after, delta = totals_of(comparison)
        pay = count_directions(comparison)
        yield [
            comparison.candidate.name,
            f"{amount_text(after, comparison.currency)} {comparison.currency}",
            signed_text(delta, comparison.currency),
            percent_text(delta, before),
            *(f"{pay[direction]:,}" for direction in ("less", "more", "same")),
        ]


def _month_chart(baseline: PlanRevenue, comparisons: Sequence[Comparison]) -> str:
    currency = comparisons[0].currency
    by_plan = [(comparison.candidate.name, months_of(baseline, comparison)) for comparison in comparisons]
    months = sorted({month for _, rows in by_plan for month, _, _ in rows})
    columns = [(baseline.name, {month: before for month, before, _ in by_plan[0][1]})]
    columns += [(name, {month: after for month, _, after in rows}) for name, rows in by_plan]
    groups = [
        _money_bars(name, place, [amounts.get(month, 0) for month in months], currency)
        for place, (name, amounts) in enumerate(columns)
    ]
    return bar_chart("Revenue by month", months, groups, _money_ticks(groups, currency))


def _bucket_chart(comparisons: Sequence[Comparison]) -> str:
    groups = [
        _count_bars(comparison.candidate.name, place, count_buckets(comparison))
        for place, comparison in enumerate(comparisons, start=1)
    ]
    return bar_chart("Customers by change", BUCKETS, groups, _count_ticks(groups))


def _distribution_chart(comparisons: Sequence[Comparison]) -> str:
    currency = comparisons[0].currency
    unit = 10 ** exponent_of(currency)
    columns = list(_payments(comparisons))
    greatest = max((int(amounts.max() or 0) for _, amounts in columns), default=0)  # type: ignore[arg-type]
    bounds = [0, unit]
    while bounds[-1] < greatest:
        bounds.append(bounds[-1] * 10)
    names = ["nothing", *(f"up to {bound // unit:,}" for bound in bounds[1:])]
    groups = []
    for place, (name, amounts) in enumerate(columns):
        counts = [int((amounts <= bound).sum()) for bound in bounds]
        groups.append(_count_bars(name, place, [counts[0], *(above - below for below, above in pairwise(counts))]))
    return bar_chart("Customers by what they pay", names, groups, _count_ticks(groups))


def _distribution(comparisons: Sequence[Comparison]) -> Iterator[list[str]]:
    for name, amounts in _payments(comparisons):
        yield [name, *(amount_text(amount, comparisons[0].currency) for amount in percentiles(amounts))]


def _payments(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, pl.Series]]:
    """What customers pay in all months: before (those of the first comparison), and by each candidate."""
    yield "before", comparisons[0].deltas["before"]
    for comparison in comparisons:
        yield comparison.candidate.name, comparison.deltas["after"]


def _section(comparison: Comparison) -> Iterator[str]:
    yield f"<h2>{escape(comparison.candidate.name)}</h2>"
    if comparison.changes is not None:
        yield f"<pre>{escape(render_changes(comparison.changes))}</pre>"
    for direction, title in (("less", "Who pays less"), ("more", "Who pays more")):
        rows = extremes(comparison, "less" if direction == "less" else "more", SHOWN_CUSTOMERS)
        if rows:
            cells = [
                [
                    customer,
                    *(amount_text(amount, comparison.currency) for amount in (before, after)),
                    signed_text(delta, comparison.currency),
                    percent_text(delta, before),
                ]
                for customer, before, after, delta in rows
            ]
            heading = f'<h3 class="{direction}">{title} (at most {SHOWN_CUSTOMERS} are shown)</h3>'
            yield heading + _table(["customer", "before", "after", "change", ""], cells)


def _metrics(backtest: Backtest) -> Iterator[list[str]]:
    for plan in (backtest.baseline, *(comparison.candidate for comparison in backtest.comparisons)):
        for currency, kind, name, amount in plan.revenue.select("currency", "kind", "name", AMOUNT).iter_rows():
            yield [
                plan.name,
                name if kind == "metric" else f"({kind})",
                f"{amount_text(int(amount), currency)} {currency}",
            ]


def _money_bars(name: str, colour: int, amounts: Sequence[int], currency: str) -> Bars:
    labels = [f"{amount_text(amount, currency)} {currency}" for amount in amounts]
    return Bars(name=name, colour=colour, values=amounts, labels=labels)


def _count_bars(name: str, colour: int, counts: Sequence[int]) -> Bars:
    return Bars(name=name, colour=colour, values=counts, labels=[f"{count:,} customers" for count in counts])


def _money_ticks(groups: Sequence[Bars], currency: str) -> list[tuple[int, str]]:
    return [(height, amount_text(height, currency)) for height in round_ticks(_greatest(groups))]


def _count_ticks(groups: Sequence[Bars]) -> list[tuple[int, str]]:
    return [(height, f"{height:,}") for height in round_ticks(_greatest(groups))]


def _greatest(groups: Sequence[Bars]) -> int:
    return max((value for group in groups for value in group.values), default=0)


def _rank(rank: int) -> str:
    return "all" if rank == 100 else f"{rank} %"


def _table(heads: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"
