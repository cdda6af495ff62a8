"""What a plan makes of many customers' billing periods at once: the invoices of `plans.plan_invoice`, as columns.

Belongs here: items, fees and minimums of every invoice. Does not: amounts of quantities (`quote_frames`), which periods
are billed.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import polars as pl

from stripemeter.errors import InvalidInput
from stripemeter.pricing.contracts import MinimumCommitment, concerns
from stripemeter.pricing.plans import Plan, fee_price
from stripemeter.pricing.quote_frames import AMOUNT, AMOUNT_TYPE, PRICE, QUANTITY, quote_amounts
from stripemeter.pricing.quotes import quote
from stripemeter.pricing.rounding import DEFAULT_ROUNDING, Rounding

PERIOD = ("customer_ref", "period_start", "period_end")
"""What makes one invoice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedPeriods:
    """What a plan charges.

    Args:
        invoices: one row per invoice, PERIOD and `amount_minor`, any order; a period without an item has none.
        revenue: one row per metric, and of fees and minimums; columns `kind` ("metric", "fees", "minimums"), `name` (of
            a metric, else empty), `amount_minor`. They sum to what the invoices sum to.
    """

    invoices: pl.DataFrame
    revenue: pl.DataFrame


def price_periods(
    plan: Plan,
    periods: pl.DataFrame,
    usage: pl.DataFrame,
    apart: pl.DataFrame,
    rounding: Rounding = DEFAULT_ROUNDING,
) -> PricedPeriods:
    """The invoices a plan makes of billing periods.

    Args:
        plan: what is charged.
        periods: one row per period that is billed, PERIOD: each metric of the plan that is not apart is an item of it.
        usage: one row per period and metric, PERIOD, `meter` and `quantity` (a Decimal); a metric apart has periods of
            its own here, each an invoice without fees and minimums.
        apart: one row per customer and metric, `customer_ref` and `meter`, whose time is cut otherwise than the rest.
        rounding: of each line.

    Raises:
        InvalidInput: amounts have too many digits to be added up.
    """
    items = _items(plan, periods, usage, apart)
    priced = (
        quote_amounts(items, plan.metrics, rounding) if plan.metrics else items.with_columns(_whole(0).alias(AMOUNT))
    )
    _require_room(priced)
    by_metric = priced.group_by(PRICE).agg(pl.col(AMOUNT).sum()).sort(PRICE)
    invoices, fees, minimums = _invoices(plan, periods, priced, rounding)
    revenue = pl.concat(
        [
            by_metric.select(pl.lit("metric").alias("kind"), pl.col(PRICE).alias("name"), AMOUNT),
            _others({"fees": fees, "minimums": minimums}),
        ]
    )
    return PricedPeriods(invoices=invoices, revenue=revenue)


def _items(plan: Plan, periods: pl.DataFrame, usage: pl.DataFrame, apart: pl.DataFrame) -> pl.DataFrame:
    """One row per item that a metric makes: PERIOD, `price` (the metric), `quantity`, `is_apart`."""
    metrics = pl.DataFrame({"meter": sorted(plan.metrics)}, schema={"meter": pl.String})
    used = usage.filter(pl.col("meter").is_in(sorted(plan.metrics))).select(*PERIOD, "meter", QUANTITY)
    own = (
        periods.select(PERIOD)
        .join(metrics, how="cross")
        .join(apart, on=["customer_ref", "meter"], how="anti")
        .join(used, on=[*PERIOD, "meter"], how="left")
        .with_columns(pl.col(QUANTITY).fill_null(Decimal(0)), is_apart=pl.lit(value=False))
    )
    others = used.join(apart, on=["customer_ref", "meter"], how="semi").with_columns(is_apart=pl.lit(value=True))
    return pl.concat([own, others.select(own.columns)]).rename({"meter": PRICE})


def _invoices(
    plan: Plan, periods: pl.DataFrame, priced: pl.DataFrame, rounding: Rounding
) -> tuple[pl.DataFrame, Decimal, Decimal]:
    """The invoices; what of them are fees, and what minimums add."""
    fees = {fee.name: quote(fee_price(fee, plan.currency), Decimal(1), rounding).total_minor for fee in plan.fees}
    sums = [sum_ for number, minimum in enumerate(plan.minimums) for sum_ in _concerned(minimum, number)]
    own = (
        priced.filter(~pl.col("is_apart"))
        .group_by(PERIOD)
        .agg(pl.col(AMOUNT).sum(), *sums)
        .join(periods.select(PERIOD), on=PERIOD, how="right" if fees else "inner")
        .with_columns(pl.col(AMOUNT).fill_null(0))
    )
    missing = [_missing(minimum, number, fees) for number, minimum in enumerate(plan.minimums)]
    own = own.with_columns(added=pl.sum_horizontal([_whole(0), *missing]).cast(AMOUNT_TYPE))
    fixed = sum(fees.values())
    total = (pl.col(AMOUNT) + pl.col("added") + _whole(fixed)).cast(AMOUNT_TYPE)
    others = priced.filter(pl.col("is_apart")).group_by(PERIOD).agg(pl.col(AMOUNT).sum())
    invoices = pl.concat([own.select(*PERIOD, total.alias(AMOUNT)), others.select(*PERIOD, AMOUNT)])
    return invoices, Decimal(fixed * own.height), Decimal(own["added"].sum() or 0)


def _concerned(minimum: MinimumCommitment, number: int) -> list[pl.Expr]:
    """How much and how many items of an invoice a minimum concerns, fees not yet among them."""
    names = list(minimum.metrics or ())
    is_meant = pl.col(PRICE).is_in(names) if names else pl.col(PRICE).is_not_null()
    return [
        pl.col(AMOUNT).filter(is_meant).sum().alias(f"reached_{number}"),
        is_meant.sum().alias(f"items_{number}"),
    ]


def _missing(minimum: MinimumCommitment, number: int, fees: dict[str, int]) -> pl.Expr:
    """What usage and fees lack of a minimum, where the invoice has an item that it concerns."""
    concerned = [amount for name, amount in fees.items() if concerns(minimum.metrics, name)]
    reached = pl.col(f"reached_{number}").fill_null(0) + _whole(sum(concerned))
    lacks = (_whole(minimum.amount_minor) - reached).clip(0)
    is_owed = pl.lit(value=True) if concerned else pl.col(f"items_{number}").fill_null(0) > 0
    return pl.when(is_owed).then(lacks).otherwise(_whole(0)).cast(AMOUNT_TYPE)


def _others(amounts: dict[str, Decimal]) -> pl.DataFrame:
    return pl.DataFrame(
        {"kind": list(amounts), "name": [""] * len(amounts), AMOUNT: list(amounts.values())},
        schema={"kind": pl.String, "name": pl.String, AMOUNT: AMOUNT_TYPE},
    )


def _require_room(priced: pl.DataFrame) -> None:
    """Polars adds decimals as 128-bit integers and wraps around without a word."""
    greatest = priced[AMOUNT].max()
    if isinstance(greatest, Decimal) and int(greatest) * max(priced.height, 1) >= 10**37:
        raise InvalidInput(f"amounts as great as {greatest} have too many digits to be added up", field="quantity")


def _whole(number: int) -> pl.Expr:
    return pl.lit(Decimal(number), AMOUNT_TYPE)
