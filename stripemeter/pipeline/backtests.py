"""Backtests: months that were, priced by plans that might be, beside the plan that is.

Belongs here: pricing the same usage by every plan, the difference each customer would see. Does not: what was used
(`billed_usage`), today's prices (`current_plans`), the report (`backtest_report`).

Nothing is written and nothing is asked of Stripe. Amounts of two currencies are never added nor compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.days import next_month
from stripemeter.pipeline.billed_usage import BilledUsage, ReadMonth, load_billed_usage
from stripemeter.pipeline.current_plans import CurrentPlans, Standing, load_current_plans
from stripemeter.pricing.plan_diffs import PlanChange, diff_plans
from stripemeter.pricing.plan_frames import price_periods
from stripemeter.pricing.plans import Plan
from stripemeter.pricing.quote_frames import AMOUNT, AMOUNT_TYPE
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, Rounding
from stripemeter.store.lake import LocalLake
from stripemeter.store.metered_usage import read_one_snapshot
from stripemeter.store.postgres import transaction

Watch = Callable[[int, int, str], None]
"""Told how many steps are done, of how many, and which was the last."""
INVOICES = {"customer_ref": pl.String(), "month": pl.Date(), "currency": pl.String(), AMOUNT: AMOUNT_TYPE}
REVENUE = {"currency": pl.String(), "kind": pl.String(), "name": pl.String(), AMOUNT: AMOUNT_TYPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpriced:
    """A metric that customers used and a plan does not price, and why; it is in no sum."""

    metric: str
    customers: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRevenue:
    """What a plan charges for the months.

    Args:
        name: of the plan; "today" for the prices in force.
        invoices: one row per customer, month its period begins in, and currency (INVOICES), sorted.
        revenue: one row per currency and metric, fees or minimums (REVENUE), sorted; sums to what the invoices sum to.
        unpriced: metrics that were used and have no price, by name.
        unused: metrics that have a price and were not used, by name.
    """

    name: str
    invoices: pl.DataFrame
    revenue: pl.DataFrame
    unpriced: tuple[Unpriced, ...]
    unused: tuple[str, ...]

    def totals(self) -> dict[str, int]:
        """Minor units by currency, sorted."""
        summed = self.invoices.group_by("currency").agg(pl.col(AMOUNT).sum()).sort("currency")
        return {currency: int(amount) for currency, amount in summed.iter_rows()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate beside the baseline.

    Args:
        candidate: what it charges.
        currency: its own, of every amount below.
        changes: what it changes of the baseline, where that is one plan.
        deltas: one row per customer that both charge in this currency only (or not at all): `customer_ref`, `before`,
            `after`, `delta` in minor units; sorted by customer.
        incomparable: customers that the baseline charges in another currency: they are in no delta; sorted.
    """

    candidate: PlanRevenue
    currency: str
    changes: tuple[PlanChange, ...] | None
    deltas: pl.DataFrame
    incomparable: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """The months from `first` to `last`, priced by each plan; equal inputs make an equal backtest."""

    tenant_id: str
    first: date
    last: date
    rounding: Rounding
    baseline: PlanRevenue
    comparisons: tuple[Comparison, ...]
    customers: int
    days: tuple[ReadMonth, ...]
    uncounted: Mapping[str, str]
    unfinished: int


def run_backtest(  # noqa: PLR0913 - what is compared over what
    pool: ConnectionPool,
    lake: LocalLake,
    *,
    tenant_id: str,
    candidates: Sequence[Plan],
    baseline: Plan | None,
    first: date,
    last: date,
    now: datetime,
    rounding: Rounding = DEFAULT_ROUNDING,
    watch: Watch | None = None,
) -> Backtest:
    """Price the months by every candidate and by the baseline.

    Args:
        pool: where rules, prices and the days outside the lake are.
        lake: where archived days are.
        tenant_id: whose customers.
        candidates: at least one, no name twice.
        baseline: what they are compared with; None: the prices in force.
        first: first day of the first month.
        last: first day of the last month, which has ended.
        now: which prices are in force.
        rounding: of each line.
        watch: told of every month read and every plan priced.

    Raises:
        InvalidInput: no candidate, a name twice, a plan prices what cannot be counted, no customer is comparable, or
            the months have not ended.
        NotFound: nobody is billed in these months.
        InvariantBroken: files of the lake are not those archived.
        Unavailable: Postgres or the lake does not answer, or days wait to be counted again.
    """
    _require_names(candidates)
    steps = _month_count(first, last) + 1 + len(candidates)
    done = 0

    def step(name: str) -> None:
        nonlocal done
        done = min(done + 1, steps)
        if watch:
            watch(done, steps, name)

    with transaction(pool) as tx:
        read_one_snapshot(tx)
        current = load_current_plans(tx, tenant_id=tenant_id, now=now) if baseline is None else None
        usage = load_billed_usage(
            tx,
            lake,
            tenant_id=tenant_id,
            first=first,
            last=last,
            now=now,
            watch=lambda month: step(f"{month:%Y-%m}") if month <= last else None,
        )
    if usage.periods.is_empty():
        raise NotFound(f"no customer of {tenant_id} used or subscribed to anything in these months")
    done = _month_count(first, last)
    for plan in [*candidates, *([baseline] if baseline else [])]:
        _require_counted(plan, usage)
    before = _price_plan(baseline, usage, rounding) if baseline else _price_today(current, usage, rounding)
    step(before.name)
    only = baseline or (current.only() if current else None)
    comparisons = []
    for plan in candidates:
        after = _price_plan(plan, usage, rounding)
        comparisons.append(_compare(before, after, plan, only))
        step(plan.name)
    return Backtest(
        tenant_id=tenant_id,
        first=first,
        last=last,
        rounding=rounding,
        baseline=before,
        comparisons=tuple(comparisons),
        customers=usage.periods["customer_ref"].n_unique(),
        days=usage.days,
        uncounted=usage.uncounted,
        unfinished=usage.unfinished,
    )


def _require_names(candidates: Sequence[Plan]) -> None:
    if not candidates:
        raise InvalidInput("name at least one plan to try", field="plan")
    names = [plan.name for plan in candidates]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"two plans are named {name!r}: each needs a name of its own", field="name")


def _require_counted(plan: Plan, usage: BilledUsage) -> None:
    for metric in sorted(plan.metrics):
        if metric in usage.uncounted:
            reason = usage.uncounted[metric]
            raise InvalidInput(f"plan {plan.name!r} prices {metric}, but {reason}", field=f"metrics.{metric}")


def _price_plan(plan: Plan, usage: BilledUsage, rounding: Rounding) -> PlanRevenue:
    invoices, revenue = _charge(plan, usage, usage.periods, usage.usage, rounding)
    reasons = dict.fromkeys(_used(usage), "the plan has no price for it")
    known = {*plan.metrics, *plan.free}
    return PlanRevenue(
        name=plan.name,
        invoices=_by_month([invoices]),
        revenue=_by_metric([revenue]),
        unpriced=_unpriced(usage.usage, {name: why for name, why in reasons.items() if name not in known}),
        unused=tuple(sorted(set(plan.metrics) - _used(usage))),
    )


def _price_today(current: CurrentPlans | None, usage: BilledUsage, rounding: Rounding) -> PlanRevenue:
    assert current is not None  # read because no baseline was given
    if not any(current.plans.values()):
        raise InvalidInput("no metric has a price today: name a plan to compare with", field="baseline")
    numbers = {standing: number for number, standing in enumerate(sorted(current.plans))}
    known = pl.DataFrame(
        [(customer, numbers[standing]) for customer, standing in sorted(current.standings.items())],
        schema={"customer_ref": pl.String, "standing": pl.Int64},
        orient="row",
    )
    standing_of = pl.col("standing").fill_null(numbers[Standing()])
    periods = usage.periods.join(known, on="customer_ref", how="left").with_columns(standing_of)
    used = usage.usage.join(known, on="customer_ref", how="left").with_columns(standing_of)
    invoices, revenue = [], []
    unpriced: list[Unpriced] = []
    priced: set[str] = set()
    for standing, number in numbers.items():
        is_theirs = pl.col("standing") == number
        theirs = used.filter(is_theirs).drop("standing")
        reasons = dict.fromkeys(theirs["meter"].unique(), "no mapping names a price for it")
        reasons |= current.unpriced[standing]
        for whole in current.plans[standing]:
            plan = _without(whole, usage.uncounted)
            if plan is None:
                continue
            made = _charge(plan, usage, periods.filter(is_theirs).drop("standing"), theirs, rounding)
            invoices.append(made[0])
            revenue.append(made[1])
            priced |= set(plan.metrics)
            reasons = {name: why for name, why in reasons.items() if name not in plan.metrics}
        unpriced += _unpriced(theirs, reasons)
    return PlanRevenue(
        name="today",
        invoices=_by_month(invoices),
        revenue=_by_metric(revenue),
        unpriced=_merged(unpriced),
        unused=tuple(sorted(priced - _used(usage))),
    )


def _charge(
    plan: Plan, usage: BilledUsage, periods: pl.DataFrame, used: pl.DataFrame, rounding: Rounding
) -> tuple[pl.DataFrame, pl.DataFrame]:
    priced = price_periods(plan, periods, used, usage.apart, rounding)
    currency = pl.lit(plan.currency).alias("currency")
    return priced.invoices.with_columns(currency), priced.revenue.with_columns(currency)


def _compare(before: PlanRevenue, after: PlanRevenue, plan: Plan, only: Plan | None) -> Comparison:
    foreign = before.invoices.filter((pl.col("currency") != plan.currency) & (pl.col(AMOUNT) != 0))
    incomparable = sorted(foreign["customer_ref"].unique())
    sides = [
        side.invoices.filter(pl.col("currency") == plan.currency, ~pl.col("customer_ref").is_in(incomparable))
        .group_by("customer_ref")
        .agg(pl.col(AMOUNT).sum().alias(name))
        for side, name in ((before, "before"), (after, "after"))
    ]
    if incomparable and sides[0].is_empty():
        charged = ", ".join(sorted(foreign["currency"].unique()))
        raise InvalidInput(
            f"plan {plan.name!r} is in {plan.currency}, and every customer is charged in {charged}:"
            " amounts of two currencies are not compared",
            field="currency",
        )
    deltas = (
        sides[0]
        .join(sides[1], on="customer_ref", how="full", coalesce=True)
        .with_columns(pl.col("before", "after").fill_null(0))
        .with_columns(delta=pl.col("after") - pl.col("before"))
        .sort("customer_ref")
    )
    return Comparison(
        candidate=after,
        currency=plan.currency,
        changes=None if only is None else diff_plans(only, plan),
        deltas=deltas,
        incomparable=tuple(incomparable),
    )


def _without(plan: Plan, metrics: Collection[str]) -> Plan | None:
    """The plan less some metrics; None: nothing is left."""
    kept = {name: price for name, price in plan.metrics.items() if name not in metrics}
    return Plan(name=plan.name, currency=plan.currency, metrics=kept) if kept else None


def _used(usage: BilledUsage) -> set[str]:
    return set(usage.usage["meter"].unique())


def _unpriced(used: pl.DataFrame, reasons: Mapping[str, str]) -> tuple[Unpriced, ...]:
    """Those of the metrics that were used."""
    counts = dict(used.group_by("meter").agg(pl.col("customer_ref").n_unique()).iter_rows())
    return tuple(
        Unpriced(metric=metric, customers=counts[metric], reason=reasons[metric])
        for metric in sorted(reasons)
        if metric in counts
    )


def _merged(unpriced: Sequence[Unpriced]) -> tuple[Unpriced, ...]:
    """One of each metric and reason."""
    found: dict[tuple[str, str], int] = {}
    for each in unpriced:
        found[each.metric, each.reason] = found.get((each.metric, each.reason), 0) + each.customers
    return tuple(
        Unpriced(metric=metric, customers=customers, reason=reason)
        for (metric, reason), customers in sorted(found.items())
    )


def _by_month(invoices: Sequence[pl.DataFrame]) -> pl.DataFrame:
    if not invoices:
        return pl.DataFrame(schema=INVOICES)
    dated = pl.concat(invoices).with_columns(month=pl.col("period_start").dt.date().dt.month_start())
    key = ("customer_ref", "month", "currency")
    return dated.group_by(key).agg(pl.col(AMOUNT).sum()).select(list(INVOICES)).sort(key)


def _by_metric(revenue: Sequence[pl.DataFrame]) -> pl.DataFrame:
    if not revenue:
        return pl.DataFrame(schema=REVENUE)
    key = ("currency", "kind", "name")
    summed = pl.concat(revenue).group_by(key).agg(pl.col(AMOUNT).sum())
    return summed.filter((pl.col("kind") == "metric") | (pl.col(AMOUNT) != 0)).select(list(REVENUE)).sort(key)


def _month_count(first: date, last: date) -> int:
    count = 1
    while first < last:
        first, count = next_month(first), count + 1
    return count
