"""Laws of plans: many periods at once are the sum of their invoices; a document says the whole plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from random import Random

import polars as pl
import pytest

from stripemeter.pricing import InvoiceSimulator, MinimumCommitment
from stripemeter.pricing.plan_diffs import diff_plans
from stripemeter.pricing.plan_frames import PERIOD, price_periods
from stripemeter.pricing.plans import Fee, Plan, parse_plan, plan_document, plan_invoice
from tests.laws.prices import ROUNDINGS, draw_price, draw_quantity

METRICS = ("a", "b", "c")
MONTHS = [datetime(2025, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
WEEK = (datetime(2025, 1, 6, tzinfo=UTC), datetime(2025, 1, 13, tzinfo=UTC))
Quantities = dict[tuple[str, datetime, datetime], dict[str, Decimal]]


def draw_plan(random: Random, currency: str) -> Plan:
    """A plan of some of the metrics, with fees, and minimums of metrics, fees or everything."""
    metrics = random.sample(METRICS, random.randrange(4))
    fees = tuple(
        Fee(name=f"fee{number}", amount_minor=random.randrange(3_000))
        for number in range(random.randrange(0 if metrics else 1, 3))
    )
    names = [*metrics, *(fee.name for fee in fees)]
    minimums = tuple(
        MinimumCommitment(
            amount_minor=random.randrange(9_000),
            currency=currency,
            metrics=None
            if random.random() < 0.4
            else tuple(sorted(random.sample(names, random.randrange(1, len(names) + 1)))),
            name=random.choice(["", "floor"]),
        )
        for _ in range(random.choice([0, 0, 1, 2]))
    )
    return Plan(
        name="drawn",
        currency=currency,
        metrics={metric: draw_price(random, currency=currency) for metric in metrics},
        fees=fees,
        minimums=minimums,
        free=frozenset(set(METRICS) - set(metrics)) if random.random() < 0.3 else frozenset(),
    )


def draw_usage(random: Random, plan: Plan) -> tuple[Quantities, Quantities]:
    """What customers used by period: of every metric in their own periods, and of `a` apart, which one has by weeks."""
    own: Quantities = {}
    apart: Quantities = {}
    for customer in ("x", "y", "weekly"):
        for start, end in pairwise(MONTHS):
            if random.random() < 0.8:
                used = {metric: Decimal(0) for metric in METRICS if (customer, metric) != ("weekly", "a")}
                for metric in random.sample(sorted(used), random.randrange(len(used) + 1)):
                    price = plan.metrics.get(metric)
                    used[metric] = Decimal(5) if price is None else draw_quantity(random, price)
                own[customer, start, end] = used
    if random.random() < 0.7:
        apart["weekly", *WEEK] = {"a": Decimal(random.randrange(3_000))}
    return own, apart


def periods_of(own: Quantities) -> pl.DataFrame:
    """Their keys as a frame."""
    instant = pl.Datetime("us", "UTC")
    schema = pl.Schema({"customer_ref": pl.String(), "period_start": instant, "period_end": instant})
    return pl.DataFrame(list(own), schema=schema, orient="row")


def usage_of(*parts: Quantities) -> pl.DataFrame:
    """What is used of them as a frame; what is 0 is left out, as of a metric nobody reported."""
    rows = [
        (*period, meter, quantity)
        for part in parts
        for period, used in part.items()
        for meter, quantity in used.items()
        if quantity
    ]
    instant = pl.Datetime("us", "UTC")
    kinds = (pl.String, instant, instant, pl.String, pl.Decimal(38, 12))
    names = (*PERIOD, "meter", "quantity")
    return pl.DataFrame(rows, schema=pl.Schema(zip(names, kinds, strict=True)), orient="row")


@pytest.mark.parametrize("seed", range(150))
def test_many_periods_at_once_are_the_sum_of_their_invoices(seed: int) -> None:
    """To the last minor unit, invoice by invoice, under each rounding; and revenue by metric sums to the same."""
    random = Random(seed)
    plan = draw_plan(random, random.choice(["USD", "JPY", "KWD"]))
    rounding = random.choice(ROUNDINGS)
    own, apart = draw_usage(random, plan)
    expected: dict[object, int] = {}
    lines: defaultdict[str, int] = defaultdict(int)
    without = Plan(name="apart", currency=plan.currency, metrics=plan.metrics) if plan.metrics else None
    for charged, periods in ((plan, own), (without, apart)):
        for period, used in periods.items():
            inputs = charged and plan_invoice(
                charged, customer_id=period[0], period_start=period[1], period_end=period[2], quantities=used
            )
            if inputs:
                invoice = InvoiceSimulator(rounding).simulate(inputs)
                expected[period] = invoice.total_minor
                for line in invoice.lines:
                    lines[line.metric if line.metric in METRICS else line.line.kind] += line.line.amount_minor
    cut = pl.DataFrame({"customer_ref": ["weekly"], "meter": ["a"]})
    priced = price_periods(plan, periods_of(own), usage_of(own, apart), cut, rounding)
    assert {tuple(row[:3]): int(row[3]) for row in priced.invoices.iter_rows()} == expected
    assert priced.revenue["amount_minor"].sum() == sum(expected.values())
    by_metric = {name: int(amount) for kind, name, amount in priced.revenue.iter_rows() if kind == "metric"}
    assert {name: amount for name, amount in by_metric.items() if amount} == {
        name: amount for name, amount in lines.items() if name in METRICS and amount
    }


@pytest.mark.parametrize("seed", range(60))
def test_a_document_says_the_whole_plan(seed: int) -> None:
    """Read back it is the same plan, and no difference is found; a changed one differs, and back again."""
    random = Random(seed)
    plan = draw_plan(random, "USD")
    document = plan_document(plan)
    again = parse_plan(document)
    assert plan_document(again) == document
    assert (dict(again.metrics), again.minimums, again.free) == (dict(plan.metrics), plan.minimums, plan.free)
    assert set(again.fees) == set(plan.fees)
    assert diff_plans(plan, again) == ()
    other = draw_plan(random, "USD")
    there, back = diff_plans(plan, other), diff_plans(other, plan)
    assert {change.path for change in there} == {change.path for change in back}
    assert bool(there) == (_charges(plan) != _charges(other))


def _charges(plan: Plan) -> Mapping[str, object]:
    document = plan_document(plan)
    for price in document["metrics"].values():
        price.pop("version", None)
    return {name: value for name, value in document.items() if name != "name"}
