"""The documents of /v1/usage/projection and /v1/invoices/preview, as OpenAPI shows them.

Belongs here: members, bounds and examples. Does not: what is projected (`pipeline.projections`), what an invoice has
(`stripemeter.pricing`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from stripemeter.metering.meters import Aggregation
from stripemeter.pipeline.projections import ForecastMethod
from stripemeter.pricing import Rounding
from stripemeter_api.documents import Document, FreshnessDocument, Period, Quantity
from stripemeter_api.parameters import MAX_TEXT, Instant, Text

_METHOD = (
    "`weekday_rates`: what is to come is the mean of the last four of each weekday; `daily_rate`: with less than four "
    "weeks of history, the mean of the last whole weeks, or of what days there are; `held`: the number of today, for a "
    "metric whose days do not add up; `unused`: there never was any; `period_over`: nothing is to come."
)
_ERROR = (
    "Mean absolute error, in percent of what came, of the same forecast made one to three periods ago from what was "
    "known then; null without enough history."
)
_MONEY = "In major units of `currency`."


class ProjectionQuestion(Document):
    """Whose cost."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tenant_id: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["demo"])]
    customer_ref: Annotated[Text, Field(min_length=1, max_length=MAX_TEXT, examples=["cust_123"])]
    period_start: Instant | None = Field(None, description="Of one of the customer's billing periods; with periodEnd.")
    period_end: Instant | None = Field(None, description="Of the same period, its first instant no longer in it.")
    rounding: Rounding = Field("half_up", description="Where the fraction of a line goes.")


class LineDocument(Document):
    """A line of the price function with all it was computed from; amounts are texts in major units."""

    kind: str = Field(examples=["units"])
    tier: int = Field(description="From 1; 0 where the price has no tiers.")
    units: str
    unit_price: str
    unrounded: str
    amount: str
    price_version: str = Field(examples=["price_1@0123456789ab"])
    description: str


class BackcastDocument(Document):
    """A forecast made in the past, and what came."""

    forecast: Quantity
    actual: Quantity


class LineForecastDocument(Document):
    """A metric at the end of its period."""

    quantity: Quantity
    total: Quantity = Field(description=_MONEY)
    method: ForecastMethod = Field(description=_METHOD)
    quantity_error_pct: Quantity | None = Field(description=_ERROR)
    amount_error_pct: Quantity | None = Field(description="The same of `total`.")
    backcasts: list[BackcastDocument] = Field(description="The newest first, in quantities.")


class ProjectedItem(Document):
    """A metric to date, and at the end of its period."""

    metric: str = Field(examples=["api_calls"])
    quantity: Quantity = Field(description="To date, as usage answers it; 0 where that is below.")
    aggregation: Aggregation
    unit_price: Quantity | None = Field(description="Null where the quantity has several prices: see `lines`.")
    total: Quantity = Field(description=f"To date. {_MONEY}")
    currency: str = Field(examples=["USD"])
    period: Period
    stripe_account: str | None = Field(description="Whose price it is; null: the tenant's own.")
    price_id: str
    lines: list[LineDocument]
    forecast: LineForecastDocument | None = Field(description="Null without a complete day to go by.")


class UnpricedItem(Document):
    """A metric whose price is not known: it is in no sum."""

    metric: str
    quantity: Quantity
    period: Period
    reason: str


class ForecastTotal(Document):
    """The sum at the end of the period."""

    total: Quantity = Field(description=_MONEY)
    error_pct: Quantity | None = Field(description=_ERROR)


class CurrencySum(Document):
    """Sums of one currency; currencies are never added."""

    currency: str
    subtotal: Quantity
    credits: Quantity
    total: Quantity
    forecast: ForecastTotal | None = Field(description="Null: a metric of this currency has no forecast.")


class ProjectionFreshness(FreshnessDocument):
    """How far the counters have come; every accepted event is in the answer."""

    last_update: datetime | None = Field(description="`foldedThrough`, by the original's name.")
    staleness: Quantity | None = Field(description="Seconds since then; null before the counters' first time.")


class ProjectionAnswer(Document):
    """What a billing period costs. The four sums are null unless all that is priced is of one currency."""

    customer_ref: str
    period_start: datetime
    period_end: datetime
    rounding: Rounding
    line_items: list[ProjectedItem]
    unpriced: list[UnpricedItem]
    subtotal: Quantity | None = Field(description="To date.")
    credits: Quantity | None = Field(description="0: see `notIncluded`.")
    total: Quantity | None = Field(description="Cost to date.")
    currency: str | None
    forecast: ForecastTotal | None
    currencies: list[CurrencySum]
    not_included: list[str] = Field(description="What an invoice may have besides.")
    freshness: ProjectionFreshness


class InvoicePreviewDocument(Document):
    """An invoice with all it depends on: the same inputs and rounding make the same invoice."""

    stripe_account: str | None = Field(description="Whose prices they are; null: the tenant's own.")
    inputs: dict[str, Any] = Field(description="As `InvoiceSimulator().simulate` takes them.")
    rounding: Rounding
    invoice: dict[str, Any] = Field(description="The simulator's: `lines`, `lineItems`, `subtotal`, `total` ...")


class InvoicePreviewAnswer(Document):
    """The invoices of a billing period: one for each account, currency and period that metrics share."""

    customer_ref: str
    period: Period
    invoices: list[InvoicePreviewDocument]
    unpriced: list[UnpricedItem]
    not_included: list[str] = Field(description="What an invoice may have besides.")
    freshness: FreshnessDocument
