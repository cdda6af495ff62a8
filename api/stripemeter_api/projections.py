"""/v1/usage/projection and /v1/invoices/preview: what usage costs.

Belongs here: parameters, the answers' members. Does not: what is projected (`pipeline.projections`), which invoices
there are (`pipeline.invoice_previews`), amounts (`stripemeter.pricing`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.segments import Segment
from stripemeter.pipeline.invoice_previews import preview_invoices
from stripemeter.pipeline.priced_usage import NOT_INCLUDED, UnpricedMetric
from stripemeter.pipeline.projections import CurrencyTotal, LineForecast, ProjectedLine, Projection, project_cost
from stripemeter.pricing import Rounding, invoice_record
from stripemeter.pricing.currencies import to_major
from stripemeter.pricing.invoice_writing import line_document
from stripemeter.store.usage import Freshness
from stripemeter_api.answers import JsonAnswer, instant, number, number_or_null
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.exact_bodies import ExactBodyRoute
from stripemeter_api.parameters import CustomerRef, Instant, TenantId
from stripemeter_api.projection_documents import InvoicePreviewAnswer, ProjectionAnswer, ProjectionQuestion
from stripemeter_api.state import Pool
from stripemeter_api.usage import freshness_members, period_members

_PATH = "/usage/projection"
_Rounding = Annotated[Rounding, Query(description="Where the fraction of a line goes.")]

router = APIRouter(prefix="/v1", tags=["cost"], route_class=ExactBodyRoute)


@router.get(_PATH, response_model=ProjectionAnswer, responses=READ_PROBLEMS, summary="Cost of a billing period")
def read_projection(
    *,
    pool: Pool,
    tenant_id: TenantId,
    customer_ref: CustomerRef,
    period_start: Annotated[
        Instant | None,
        Query(
            alias="periodStart",
            description="Of one of the customer's billing periods; with periodEnd. Default: the current one.",
            examples=["2026-11-01T00:00:00Z"],
        ),
    ] = None,
    period_end: Annotated[
        Instant | None,
        Query(alias="periodEnd", description="The end of the same period.", examples=["2026-12-01T00:00:00Z"]),
    ] = None,
    rounding: _Rounding = "half_up",
) -> JsonAnswer:
    """Cost to date by line (`total`), and what it will have been at the period's end (`forecast`).

    What is priced is what `/v1/usage/current` answers. A metric is priced by the Stripe Price of its mapping, else by
    the tenant's own price of it; one without a known price is in `unpriced` and in no sum.
    """
    return _answer(pool, tenant_id, customer_ref, period_start, period_end, rounding)


@router.post(_PATH, response_model=ProjectionAnswer, responses=READ_PROBLEMS, summary="Cost of a billing period")
def ask_projection(pool: Pool, body: ProjectionQuestion) -> JsonAnswer:
    """The same, asked with a body; nothing is changed."""
    return _answer(pool, body.tenant_id, body.customer_ref, body.period_start, body.period_end, body.rounding)


@router.get(
    "/invoices/preview",
    response_model=InvoicePreviewAnswer,
    responses=READ_PROBLEMS,
    summary="The invoices of a billing period",
)
def read_preview(
    pool: Pool,
    tenant_id: TenantId,
    customer_ref: CustomerRef,
    at: Annotated[
        Instant | None,
        Query(
            description="An instant of the billing period asked for; default: now.", examples=["2026-11-23T10:00:00Z"]
        ),
    ] = None,
    rounding: _Rounding = "half_up",
) -> JsonAnswer:
    """What Stripe would bill were the period over now, line by line, for a customer subscribed at the mapped prices.

    Every amount carries what it was computed from: tier, units, unit price, exact and rounded amount, price version.
    """
    now = datetime.now(UTC)
    found = preview_invoices(
        pool, tenant_id=tenant_id, customer_ref=customer_ref, at=at or now, rounding=rounding, now=now
    )
    return JsonAnswer(
        {
            "customerRef": found.usage.customer_ref,
            "period": period_members(found.usage.segment),
            "invoices": [
                {"stripeAccount": each.stripe_account_id, **invoice_record(each.invoice)} for each in found.invoices
            ],
            "unpriced": [_unpriced(metric) for metric in found.usage.unpriced],
            "notIncluded": NOT_INCLUDED,
            "freshness": freshness_members(found.usage.freshness),
        }
    )


def _answer(
    pool: ConnectionPool,
    tenant_id: str,
    customer_ref: str,
    start: datetime | None,
    end: datetime | None,
    rounding: Rounding,
) -> JsonAnswer:
    now = datetime.now(UTC)
    found = project_cost(
        pool,
        tenant_id=tenant_id,
        customer_ref=customer_ref,
        period=_parse_period(start, end),
        rounding=rounding,
        now=now,
    )
    usage = found.usage
    return JsonAnswer(
        {
            "customerRef": usage.customer_ref,
            "periodStart": instant(usage.segment.start),
            "periodEnd": instant(usage.segment.end),
            "rounding": rounding,
            "lineItems": [_item(line) for line in found.lines],
            "unpriced": [_unpriced(metric) for metric in usage.unpriced],
            **_only_sum(found),
            "currencies": [{"currency": total.invoice.currency, **_sum(total)} for total in found.totals],
            "notIncluded": NOT_INCLUDED,
            "freshness": _freshness(usage.freshness, now),
        }
    )


def _parse_period(start: datetime | None, end: datetime | None) -> Segment | None:
    if start is None and end is None:
        return None
    if start is None or end is None:
        missing = "periodStart" if start is None else "periodEnd"
        raise InvalidInput(f"{missing} is missing: give both ends of the period, or neither", field=missing)
    if end <= start:
        raise InvalidInput("periodEnd must be after periodStart", field="periodEnd")
    return Segment(start=start, end=end)


def _item(line: ProjectedLine) -> dict[str, Any]:
    metric, quoted = line.metric, line.quote
    currency = quoted.price.currency
    prices = {each.unit_minor for each in quoted.lines if each.kind == "units"}
    return {
        "metric": metric.meter,
        "quantity": number(metric.quantity),
        "aggregation": metric.aggregation,
        "unitPrice": number(to_major(prices.pop(), currency)) if len(prices) == 1 else None,
        "total": number(quoted.total),
        "currency": currency,
        "period": period_members(metric.segment),
        "stripeAccount": metric.stripe_account_id,
        "priceId": metric.price_id,
        "lines": [line_document(each, currency) for each in quoted.lines],
        "forecast": None if line.forecast is None else _forecast(line.forecast),
    }


def _forecast(ahead: LineForecast) -> dict[str, Any]:
    return {
        "quantity": number(ahead.quote.quantity),
        "total": number(ahead.quote.total),
        "method": ahead.method,
        "quantityErrorPct": number_or_null(ahead.quantity_error_pct),
        "amountErrorPct": number_or_null(ahead.amount_error_pct),
        "backcasts": [{"forecast": number(each.forecast), "actual": number(each.actual)} for each in ahead.backcasts],
    }


def _unpriced(metric: UnpricedMetric) -> dict[str, Any]:
    return {
        "metric": metric.meter,
        "quantity": number(metric.quantity),
        "period": period_members(metric.segment),
        "reason": metric.reason,
    }


def _only_sum(found: Projection) -> dict[str, Any]:
    """The original's members: the sum, where there is one."""
    if len(found.totals) != 1:
        return dict.fromkeys(("subtotal", "credits", "total", "currency", "forecast"))
    (total,) = found.totals
    return {"currency": total.invoice.currency, **_sum(total)}


def _sum(total: CurrencyTotal) -> dict[str, Any]:
    return {
        "subtotal": number(total.invoice.subtotal),
        "credits": number(total.invoice.credits),
        "total": number(total.invoice.total),
        "forecast": None
        if total.forecast is None
        else {"total": number(total.forecast), "errorPct": number_or_null(total.error_pct)},
    }


def _freshness(freshness: Freshness, now: datetime) -> dict[str, Any]:
    folded_at = freshness.folded_at
    return {
        "lastUpdate": None if folded_at is None else instant(folded_at),
        "staleness": None if folded_at is None else _seconds(now, folded_at),
        **freshness_members(freshness),
    }


def _seconds(now: datetime, folded_at: datetime) -> msgspec.Raw:
    age = max(now - folded_at, now - now)
    return number(Decimal(age.days * 86_400 + age.seconds) + Decimal(age.microseconds).scaleb(-6))
