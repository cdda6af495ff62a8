"""What the demo ends with: per carrier, the source's totals, what customers see, and what Stripe holds.

Belongs here: reading all three sides and comparing them, exactly. Does not: sending, waiting, printing.

Every side is read where its reader would look: the source from its file, usage over HTTP, Stripe through its API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

import httpx2
import polars as pl

from stripemeter.billing.sink import BillingSink
from stripemeter.demo.flights import METRICS
from stripemeter.metering.days import day_bounds

Quantities = Mapping[str, Decimal]
"""Quantity per metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeIds:
    """Where the demo's usage goes at Stripe."""

    meters: Mapping[str, str]
    customers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierProof:
    """One carrier, compared. `differences` names every unequal figure; empty means all are equal.

    Args:
        truth: the source's totals of the year.
        counted: what `/v1/usage/history` answers for the year.
        held: the part of `counted` on days outside Stripe's window.
        at_stripe: what Stripe holds on the days inside it.
    """

    carrier: str
    truth: Quantities
    counted: Quantities
    held: Quantities
    at_stripe: Quantities
    differences: tuple[str, ...]


def prove_carrier(
    client: httpx2.Client,
    sink: BillingSink,
    stripe: StripeIds,
    *,
    tenant_id: str,
    carrier: str,
    truth: pl.DataFrame,
    year: tuple[date, date],
    first_at_stripe: date,
) -> CarrierProof:
    """Compare one carrier's three sides, day by day and metric by metric.

    Args:
        client: of the receiver.
        sink: the Stripe account.
        stripe: meters by metric, customers by carrier.
        tenant_id: whose usage.
        carrier: the customer.
        truth: its events: `metric`, `day`, `quantity`, one row per metric and day.
        year: first and last day compared, whether or not the carrier flew then.
        first_at_stripe: first day inside Stripe's window.
    """
    first, last = year
    totals: dict[str, dict[str, Decimal]] = {name: {} for name in ("truth", "counted", "held", "at_stripe")}
    differences: list[str] = []
    for metric in METRICS:
        source = _by_day(truth.filter(pl.col("metric") == metric))
        counted = _history(client, tenant_id, carrier, metric, first, last)
        at_stripe = sink.read_daily_quantities(
            stripe_meter_id=stripe.meters[metric],
            stripe_customer_id=stripe.customers[carrier],
            first=first_at_stripe,
            last=last,
        )
        differences += _compare(source, counted, f"{metric}: source and counters", lambda _: True)
        differences += _compare(
            counted, at_stripe, f"{metric}: counters and Stripe", lambda day: day >= first_at_stripe
        )
        totals["truth"][metric] = sum(source.values(), Decimal(0))
        totals["counted"][metric] = sum(counted.values(), Decimal(0))
        totals["held"][metric] = sum((counted[day] for day in counted if day < first_at_stripe), Decimal(0))
        totals["at_stripe"][metric] = sum(at_stripe.values(), Decimal(0))
    return CarrierProof(carrier=carrier, differences=tuple(differences), **totals)


def _history(
    client: httpx2.Client, tenant_id: str, carrier: str, metric: str, first: date, last: date
) -> dict[date, Decimal]:
    answer = client.get(
        "/v1/usage/history",
        params={
            "tenantId": tenant_id,
            "customerRef": carrier,
            "metric": metric,
            "periodStart": day_bounds(first)[0].isoformat(),
            "periodEnd": day_bounds(last)[1].isoformat(),
            "step": "day",
        },
    )
    answer.raise_for_status()
    rows = answer.json(parse_float=Decimal, parse_int=Decimal)["usage"]
    return {datetime.fromisoformat(row["ts"]).date(): Decimal(row["value"]) for row in rows}


def _by_day(rows: pl.DataFrame) -> dict[date, Decimal]:
    return {day: Decimal(quantity) for day, quantity in rows.select("day", "quantity").iter_rows()}


def _compare(
    left: Mapping[date, Decimal], right: Mapping[date, Decimal], what: str, counts: Callable[[date], bool]
) -> list[str]:
    """The days on which two sides differ; a day absent from a side is 0 there."""
    zero = Decimal(0)
    return [
        f"{what} on {day}: {left.get(day, zero)} and {right.get(day, zero)}"
        for day in sorted({*left, *right})
        if counts(day) and left.get(day, zero) != right.get(day, zero)
    ]
