"""Projections: what a customer's billing period costs so far, and what it will have cost at its end.

Belongs here: which history a forecast goes by, sums by currency. Does not: prices (`stripemeter.pricing`), which price
a metric has (`priced_usage`), the rule of a forecast (`stripemeter.pricing.forecasts`).

Cost to date is the simulator's invoice of the usage to date. Days add up only where the metric sums or counts; any
other number is held: it is what it is until somebody reports another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import day_of, days_between
from stripemeter.metering.segments import Segment
from stripemeter.pipeline.priced_usage import PricedMetric, PricedUsage, load_priced_usage
from stripemeter.pricing import Invoice, InvoiceInputs, InvoiceSimulator, Price, Quote, Rounding, UsageItem, quote
from stripemeter.pricing.currencies import to_major
from stripemeter.pricing.forecasts import Backcast, History, Method, backcasts, error_pct, forecast, history_of
from stripemeter.store.usage import load_usage_history

HISTORY_DAYS = 128
"""Days a forecast looks back: three months to ask the same question of, and four weeks before them."""
_ADDITIVE = frozenset({"sum", "count"})
_TICK = timedelta(microseconds=1)

ForecastMethod = Literal[Method, "held", "unused", "period_over"]
"""`held`: the number of today; `unused`: there never was any; `period_over`: nothing is to come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineForecast:
    """A metric at its period's end; `backcasts` are the same forecast made earlier, in quantities."""

    quote: Quote
    method: ForecastMethod
    backcasts: tuple[Backcast, ...]
    quantity_error_pct: Decimal | None
    amount_error_pct: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedLine:
    """A metric to date and at its period's end; `forecast` is None without a complete day to go by."""

    metric: PricedMetric
    quote: Quote
    forecast: LineForecast | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrencyTotal:
    """The sum of one currency.

    Args:
        invoice: the simulator's, of the usage to date.
        forecast: at the end, in major units; None: a metric of it has no forecast.
        error_pct: of the same sum forecast earlier, in percent of what came; None where there is nothing to compare.
    """

    invoice: Invoice
    forecast: Decimal | None
    error_pct: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What a billing period costs; lines by metric, sums by currency."""

    usage: PricedUsage
    lines: tuple[ProjectedLine, ...]
    totals: tuple[CurrencyTotal, ...]


def project_cost(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    period: Segment | None,
    rounding: Rounding,
    now: datetime,
) -> Projection:
    """What a customer's billing period costs to date, and at its end.

    Args:
        pool: where.
        tenant_id: whose account.
        customer_ref: any reference of the customer.
        period: exactly one of the customer's billing periods; None: the current one.
        rounding: of each line.
        now: the end of what is known.

    Raises:
        InvalidInput: the customer has no such period.
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    at = now if period is None else period.start
    usage = load_priced_usage(pool, tenant_id=tenant_id, customer_ref=customer_ref, at=at, now=now)
    if period is not None and period != usage.segment:
        raise InvalidInput(
            f"usage is priced by billing period: the customer's that holds periodStart is {_text(usage.segment.start)} "
            f"to {_text(usage.segment.end)}",
            field="periodEnd" if period.start == usage.segment.start else "periodStart",
        )
    lines = tuple(_project_line(pool, tenant_id, usage, metric, rounding, now) for metric in usage.priced)
    by_currency: defaultdict[str, list[ProjectedLine]] = defaultdict(list)
    for line in lines:
        by_currency[line.quote.price.currency].append(line)
    totals = tuple(_total(usage, by_currency[currency], rounding) for currency in sorted(by_currency))
    return Projection(usage=usage, lines=lines, totals=totals)


def _project_line(
    pool: ConnectionPool, tenant_id: str, usage: PricedUsage, metric: PricedMetric, rounding: Rounding, now: datetime
) -> ProjectedLine:
    to_date = quote(metric.price, metric.quantity, rounding)
    if metric.segment.end <= now:
        return ProjectedLine(metric=metric, quote=to_date, forecast=_same(to_date, "period_over"))
    if metric.aggregation not in _ADDITIVE:
        return ProjectedLine(metric=metric, quote=to_date, forecast=_same(to_date, "held"))
    history = _load_history(pool, tenant_id, usage.customer_ref, metric.meter, now)
    ahead = forecast(history, metric.quantity, max(now, metric.segment.start), metric.segment.end)
    if ahead is None:
        return ProjectedLine(
            metric=metric, quote=to_date, forecast=None if metric.quantity else _same(to_date, "unused")
        )
    made = _backcasts(history, metric.segment, now)
    priced = [
        (_amount(metric.price, each.forecast, rounding), _amount(metric.price, each.actual, rounding)) for each in made
    ]
    at_end = LineForecast(
        quote=quote(metric.price, ahead.quantity, rounding),
        method=ahead.method,
        backcasts=made,
        quantity_error_pct=error_pct([(each.forecast, each.actual) for each in made]),
        amount_error_pct=error_pct(priced),
    )
    return ProjectedLine(metric=metric, quote=to_date, forecast=at_end)


def _same(to_date: Quote, method: ForecastMethod) -> LineForecast:
    return LineForecast(quote=to_date, method=method, backcasts=(), quantity_error_pct=None, amount_error_pct=None)


def _load_history(pool: ConnectionPool, tenant_id: str, customer_ref: str, meter: str, now: datetime) -> History:
    """What each complete day brought by events: an adjustment corrects the past and says nothing of days to come."""
    last_on = day_of(now) - timedelta(days=1)
    days = days_between(last_on - timedelta(days=HISTORY_DAYS - 1), last_on)
    found = load_usage_history(
        pool,
        tenant_id=tenant_id,
        customer_ref=customer_ref,
        metric=meter,
        buckets=days,
        last_on=last_on,
        step="day",
        now=now,
    )
    return history_of({day: each.quantity - each.adjusted for day, each in found.buckets.items()}, last_on)


def _backcasts(history: History, segment: Segment, now: datetime) -> tuple[Backcast, ...]:
    today = day_of(now)
    elapsed = max((today - day_of(segment.start)).days, 0)
    remaining = (day_of(segment.end - _TICK) - max(today, day_of(segment.start))).days + 1
    return backcasts(history, elapsed, remaining)


def _total(usage: PricedUsage, lines: Sequence[ProjectedLine], rounding: Rounding) -> CurrencyTotal:
    inputs = InvoiceInputs(
        customer_id=usage.customer_ref,
        period_start=usage.segment.start,
        period_end=usage.segment.end,
        items=tuple(
            UsageItem(metric=line.metric.meter, quantity=line.metric.quantity, price=line.metric.price)
            for line in lines
        ),
    )
    currency = inputs.currency
    ahead = [line.forecast for line in lines]
    known = [each for each in ahead if each is not None]
    is_known = len(known) == len(ahead)
    return CurrencyTotal(
        invoice=InvoiceSimulator(rounding).simulate(inputs),
        forecast=to_major(sum(each.quote.total_minor for each in known), currency) if is_known else None,
        error_pct=_total_error(known, rounding) if is_known else None,
    )


def _total_error(forecasts: Sequence[LineForecast], rounding: Rounding) -> Decimal | None:
    """Of the sum, as often as every metric that was forecast by its days can be asked."""
    moving = [each for each in forecasts if each.method in ("weekday_rates", "daily_rate")]
    count = min((len(each.backcasts) for each in moving), default=0)
    pairs = [
        (
            Decimal(sum(_amount(each.quote.price, each.backcasts[back].forecast, rounding) for each in moving)),
            Decimal(sum(_amount(each.quote.price, each.backcasts[back].actual, rounding) for each in moving)),
        )
        for back in range(count)
    ]
    return error_pct(pairs)


def _amount(price: Price, quantity: Decimal, rounding: Rounding) -> Decimal:
    return Decimal(quote(price, quantity, rounding).total_minor)


def _text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
