"""Invoice previews: the invoices Stripe would make of a customer's billing period now, line by line.

Belongs here: which metrics share an invoice. Does not: amounts (`stripemeter.pricing`), which price a metric has
(`priced_usage`).

Metrics of one account, currency and billing period share an invoice, as the items of a subscription do.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from psycopg_pool import ConnectionPool

from stripemeter.pipeline.priced_usage import PricedMetric, PricedUsage, load_priced_usage
from stripemeter.pricing import Invoice, InvoiceInputs, InvoiceSimulator, Rounding, UsageItem


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePreview:
    """An invoice; `stripe_account_id` is None where the prices are the tenant's own."""

    stripe_account_id: str | None
    invoice: Invoice


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePreviews:
    """The invoices of a billing period, and in `usage` what they were made of."""

    usage: PricedUsage
    invoices: tuple[InvoicePreview, ...]


def preview_invoices(
    pool: ConnectionPool, *, tenant_id: str, customer_ref: str, at: datetime, rounding: Rounding, now: datetime
) -> InvoicePreviews:
    """What Stripe would bill for the billing period that holds an instant, were it over now.

    Args:
        pool: where.
        tenant_id: whose account.
        customer_ref: any reference of the customer.
        at: which period.
        rounding: of each line.
        now: until when a level is known to hold.

    Raises:
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    usage = load_priced_usage(pool, tenant_id=tenant_id, customer_ref=customer_ref, at=at, now=now)
    return InvoicePreviews(usage=usage, invoices=invoices_of(usage, rounding))


def invoices_of(usage: PricedUsage, rounding: Rounding) -> tuple[InvoicePreview, ...]:
    """The invoices of priced usage: one for each account, currency and period."""
    groups: defaultdict[tuple[str, str, datetime, datetime], list[PricedMetric]] = defaultdict(list)
    for metric in usage.priced:
        key = metric.stripe_account_id or "", metric.price.currency, metric.segment.start, metric.segment.end
        groups[key].append(metric)
    simulator = InvoiceSimulator(rounding)
    return tuple(
        InvoicePreview(
            stripe_account_id=metrics[0].stripe_account_id,
            invoice=simulator.simulate(_inputs(usage.customer_ref, metrics)),
        )
        for _, metrics in sorted(groups.items())
    )


def _inputs(customer_ref: str, metrics: list[PricedMetric]) -> InvoiceInputs:
    return InvoiceInputs(
        customer_id=customer_ref,
        period_start=metrics[0].segment.start,
        period_end=metrics[0].segment.end,
        items=tuple(UsageItem(metric=metric.meter, quantity=metric.quantity, price=metric.price) for metric in metrics),
    )
