"""The report of a backtest: as a JSON-able document, and as a Markdown summary for a pull request.

Belongs here: counting who pays more and less, shares in percent, the words. Does not: computing a backtest
(`backtests`), the page with charts (`backtest_page`).

The same backtest makes the same text: nothing in it says when it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Literal

import polars as pl

from stripemeter.pipeline.backtests import Backtest, Comparison, PlanRevenue
from stripemeter.pricing.invoice_writing import amount_text
from stripemeter.pricing.plan_diffs import render_changes
from stripemeter.pricing.quote_frames import AMOUNT

SHOWN_CUSTOMERS = 5
"""Of those who gain and lose most, in the Markdown summary."""
SHOWN_CHANGES = 20
_CONTEXT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_TENTH = Decimal("0.1")
RANKS = (10, 50, 90, 99, 100)
"""Percentiles of what customers pay; 100 is the greatest."""
BOUNDS = (-50, -20, -5, 0, 5, 20, 50)
BUCKETS = (
    "50 % less and beyond",
    "20 to 50 % less",
    "5 to 20 % less",
    "up to 5 % less",
    "the same",
    "up to 5 % more",
    "5 to 20 % more",
    "20 to 50 % more",
    "50 % more and beyond",
    "paid nothing before",
)
"""By how much what a customer pays changes."""


def report_document(backtest: Backtest) -> dict[str, Any]:
    """All of it as plain values: amounts as decimal strings in major units, customers by reference."""
    return {
        "tenant": backtest.tenant_id,
        "from": f"{backtest.first:%Y-%m}",
        "to": f"{backtest.last:%Y-%m}",
        "rounding": backtest.rounding,
        "customers": backtest.customers,
        "days": [{**asdict(month), "month": f"{month.month:%Y-%m}"} for month in backtest.days],
        "uncounted": dict(sorted(backtest.uncounted.items())),
        "unfinishedPeriods": backtest.unfinished,
        "baseline": _plan_document(backtest.baseline),
        "candidates": [_comparison_document(comparison) for comparison in backtest.comparisons],
    }


def report_markdown(backtest: Backtest) -> str:
    """The summary: revenue by plan, what changes, who pays most more and less, what is not in the numbers."""
    parts = [
        f"## Backtest {backtest.first:%Y-%m} to {backtest.last:%Y-%m}: {backtest.customers:,} customers",
        "\n".join(_overview(backtest)),
        *(part for comparison in backtest.comparisons for part in _sections(backtest, comparison)),
        "\n".join(f"- {note}" for note in notes_of(backtest)),
    ]
    return "\n\n".join(parts) + "\n"


def notes_of(backtest: Backtest) -> list[str]:
    """What a reader must know of the numbers: where days are from, and what is in no sum."""
    lake = sum(month.lake_days for month in backtest.days)
    postgres = sum(month.postgres_days for month in backtest.days)
    notes = [f"{lake} days were read from the lake, {postgres} from Postgres; all other days have no usage."]
    for plan in (backtest.baseline, *(comparison.candidate for comparison in backtest.comparisons)):
        notes += [
            f"{plan.name} does not price {each.metric}, used by {each.customers:,} customers: {each.reason}."
            for each in plan.unpriced
        ]
        notes += [f"{plan.name} prices {metric}, which nobody used." for metric in plan.unused]
    notes += [f"{metric} is in no sum: {reason}." for metric, reason in sorted(backtest.uncounted.items())]
    if backtest.unfinished:
        notes.append(f"{backtest.unfinished:,} billing periods that began in these months are not over: not priced.")
    notes += [
        f"{comparison.candidate.name}: {len(comparison.incomparable):,} customers are charged in another currency than"
        f" {comparison.currency} and not compared."
        for comparison in backtest.comparisons
        if comparison.incomparable
    ]
    notes.append("Discounts, credits, prepaid commitments and taxes are not included.")
    return notes


def totals_of(comparison: Comparison) -> tuple[int, int, int]:
    """Before, after and the difference over all compared customers, in minor units."""
    sums = comparison.deltas.select(pl.col("before", "after", "delta").sum()).row(0)
    return int(sums[0] or 0), int(sums[1] or 0), int(sums[2] or 0)


def count_directions(comparison: Comparison) -> dict[Literal["less", "more", "same"], int]:
    """How many customers pay less, more, and the same."""
    delta = comparison.deltas["delta"]
    less, more = int((delta < 0).sum()), int((delta > 0).sum())
    return {"less": less, "more": more, "same": delta.len() - less - more}


def extremes(comparison: Comparison, direction: Literal["less", "more"], count: int) -> list[tuple[str, int, int, int]]:
    """Customer, before, after and delta of those whose bill falls or rises most, greatest change first."""
    is_meant = pl.col("delta") < 0 if direction == "less" else pl.col("delta") > 0
    ordered = comparison.deltas.filter(is_meant).sort(pl.col("delta").abs(), "customer_ref", descending=[True, False])
    return [(row[0], int(row[1]), int(row[2]), int(row[3])) for row in ordered.head(count).iter_rows()]


def count_buckets(comparison: Comparison) -> list[int]:
    """How many customers there are in each of BUCKETS."""
    counts = [0] * len(BUCKETS)
    for before, delta in comparison.deltas.select("before", "delta").iter_rows():
        counts[_bucket(int(before), int(delta))] += 1
    return counts


def percentiles(amounts: pl.Series) -> list[int]:
    """The amounts at RANKS, by nearest rank; zeros of nothing."""
    ordered = sorted(int(amount) for amount in amounts)
    return [ordered[max(-(-rank * len(ordered) // 100), 1) - 1] if ordered else 0 for rank in RANKS]


def percent_text(delta: int, before: int) -> str:
    """The change in percent to a tenth, with its sign; of nothing "new"."""
    if before == 0:
        return "new" if delta else "0.0 %"
    share = _CONTEXT.divide(Decimal(100 * delta), Decimal(before)).quantize(_TENTH, context=_CONTEXT)
    return f"{share:+} %" if share else "0.0 %"


def signed_text(minor: int, currency: str) -> str:
    """An amount with its sign."""
    return f"{'+' if minor > 0 else ''}{amount_text(minor, currency)}"


def _plan_document(plan: PlanRevenue) -> dict[str, Any]:
    months = plan.invoices.group_by("month", "currency").agg(pl.col(AMOUNT).sum()).sort("month", "currency")
    return {
        "name": plan.name,
        "revenue": {currency: amount_text(amount, currency) for currency, amount in plan.totals().items()},
        "months": [
            {"month": f"{month:%Y-%m}", "currency": currency, "amount": amount_text(int(amount), currency)}
            for month, currency, amount in months.iter_rows()
        ],
        "metrics": [
            {"currency": currency, "kind": kind, "name": name, "amount": amount_text(int(amount), currency)}
            for currency, kind, name, amount in plan.revenue.iter_rows()
        ],
        "unpriced": [asdict(each) for each in plan.unpriced],
        "unused": list(plan.unused),
    }


def _comparison_document(comparison: Comparison) -> dict[str, Any]:
    currency, (before, after, delta) = comparison.currency, totals_of(comparison)
    changes = comparison.changes
    return {
        **_plan_document(comparison.candidate),
        "currency": currency,
        "changes": None if changes is None else [asdict(change) for change in changes],
        "compared": {
            "before": amount_text(before, currency),
            "after": amount_text(after, currency),
            "delta": amount_text(delta, currency),
            "customers": comparison.deltas.height,
            "pay": count_directions(comparison),
            "buckets": dict(zip(BUCKETS, count_buckets(comparison), strict=True)),
        },
        "incomparable": list(comparison.incomparable),
        "customers": [
            {
                "customer": customer,
                "before": amount_text(int(was), currency),
                "after": amount_text(int(is_), currency),
                "delta": amount_text(int(change), currency),
            }
            for customer, was, is_, change in comparison.deltas.iter_rows()
        ],
    }


def _overview(backtest: Backtest) -> Iterator[str]:
    yield "| plan | revenue | change | | pay less | pay more | pay the same |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for currency, amount in backtest.baseline.totals().items():
        yield f"| {_cell(backtest.baseline.name)} | {amount_text(amount, currency)} {currency} | | | | | |"
    for comparison in backtest.comparisons:
        before, after, delta = totals_of(comparison)
        pay = count_directions(comparison)
        yield (
            f"| {_cell(comparison.candidate.name)} | {amount_text(after, comparison.currency)} {comparison.currency}"
            f" | {signed_text(delta, comparison.currency)} | {percent_text(delta, before)}"
            f" | {pay['less']:,} | {pay['more']:,} | {pay['same']:,} |"
        )


def _sections(backtest: Backtest, comparison: Comparison) -> Iterator[str]:
    yield f"### {_cell(comparison.candidate.name)}"
    if comparison.changes is not None:
        lines = render_changes(comparison.changes).splitlines()
        more = [f"... and {len(lines) - SHOWN_CHANGES} more"] if len(lines) > SHOWN_CHANGES else []
        yield "\n".join(["```diff", *lines[:SHOWN_CHANGES], *more, "```"])
    yield "\n".join(_months(backtest.baseline, comparison))
    rows = [*extremes(comparison, "less", SHOWN_CUSTOMERS), *extremes(comparison, "more", SHOWN_CUSTOMERS)[::-1]]
    if rows:
        yield "\n".join(_customers(comparison.currency, rows))


def _months(baseline: PlanRevenue, comparison: Comparison) -> Iterator[str]:
    yield "| month | before | after | change | |"
    yield "|---|---:|---:|---:|---:|"
    for month, before, after in months_of(baseline, comparison):
        change = after - before
        yield (
            f"| {month} | {amount_text(before, comparison.currency)} | {amount_text(after, comparison.currency)}"
            f" | {signed_text(change, comparison.currency)} | {percent_text(change, before)} |"
        )


def months_of(baseline: PlanRevenue, comparison: Comparison) -> list[tuple[str, int, int]]:
    """Each month with what the compared customers pay before and after, in minor units."""
    compared = pl.col("customer_ref").is_in(comparison.deltas["customer_ref"].to_list())
    sums = [
        dict(
            plan.invoices.filter(pl.col("currency") == comparison.currency, compared)
            .group_by("month")
            .agg(pl.col(AMOUNT).sum())
            .iter_rows()
        )
        for plan in (baseline, comparison.candidate)
    ]
    return [
        (f"{month:%Y-%m}", int(sums[0].get(month, 0)), int(sums[1].get(month, 0)))
        for month in sorted({*sums[0], *sums[1]})
    ]


def _customers(currency: str, rows: Sequence[tuple[str, int, int, int]]) -> Iterator[str]:
    yield "| customer | before | after | change | |"
    yield "|---|---:|---:|---:|---:|"
    for customer, before, after, delta in rows:
        yield (
            f"| {_cell(customer)} | {amount_text(before, currency)} | {amount_text(after, currency)}"
            f" | {signed_text(delta, currency)} | {percent_text(delta, before)} |"
        )


def _bucket(before: int, delta: int) -> int:
    if delta == 0:
        return BUCKETS.index("the same")
    if before == 0:
        return len(BUCKETS) - 1
    below = [
        bound for bound in BOUNDS if (100 * delta > bound * before if delta < 0 else 100 * delta >= bound * before)
    ]
    # The buckets on either side of 0 have "the same" between them.
    return len(below) + (1 if delta > 0 else 0)


def _cell(text: str) -> str:
    """A text that cannot end its cell, its line or its page's structure."""
    escaped = "".join(f"\\{sign}" if sign in r"\|`*_<>[]#" else sign for sign in text)
    return " ".join(escaped.split())
