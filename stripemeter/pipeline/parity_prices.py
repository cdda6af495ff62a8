"""What usage that an invoice export bills costs by our prices.

Belongs here: pricing many windows, as the invoice preview does, and what other versions of a price would make.
Does not: which price a metric has (`priced_usage`), amounts (`stripemeter.pricing`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, reduce

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.averages import add
from stripemeter.metering.parity_rows import Window
from stripemeter.metering.rulebook import TenantRules
from stripemeter.metering.segments import Segment
from stripemeter.pipeline.invoice_previews import invoices_of
from stripemeter.pipeline.parity_usage import UsageKey, UsedQuantity
from stripemeter.pipeline.price_versions import terms_of
from stripemeter.pipeline.priced_usage import PricedMetric, price_usage
from stripemeter.pipeline.prices import list_known_prices
from stripemeter.pricing import Price, Quote, Rounding, quote
from stripemeter.store.usage import CurrentUsage, Freshness, Usage

_UNREAD = Freshness(folded_at=None, pending_count=0, recount_days=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedItem:
    """What a customer's metric costs in a window, or why that is not known: then `metric` and `quoted` are None."""

    quantity: Decimal
    metric: PricedMetric | None
    quoted: Quote | None
    reason: str

    @property
    def exact_minor(self) -> Decimal | None:
        """The amount before its lines were rounded."""
        if self.quoted is None:
            return None
        return reduce(add, (line.unrounded_minor for line in self.quoted.lines), Decimal(0))


class PriceVersions:
    """Every known version of a tenant's prices; read when the first is asked for."""

    def __init__(self, pool: ConnectionPool, tenant_id: str, rounding: Rounding) -> None:
        self._pool = pool
        self._tenant_id = tenant_id
        self._rounding = rounding

    def other_amounts(self, priced: PricedItem, quantity: Decimal, named: Iterable[str]) -> dict[str, int]:
        """What a quantity costs by each version but the one in force, by its name.

        Args:
            priced: what holds.
            quantity: how much.
            named: further prices, by their ids.
        """
        if priced.metric is None:
            return {}
        price_ids = {priced.metric.price_id, priced.metric.meter, *named}
        prices = [price for price_id in sorted(price_ids) for price in self._by_id.get(price_id, ())]
        return {
            price.version: self.amount_of(price, quantity)
            for price in prices
            if price.version != priced.metric.price.version and price.currency == priced.metric.price.currency
        }

    def amount_of(self, price: Price, quantity: Decimal) -> int:
        """What a quantity costs by a price, in minor units."""
        return quote(price, max(quantity, Decimal(0)), self._rounding).total_minor

    @cached_property
    def _by_id(self) -> Mapping[str, list[Price]]:
        found: defaultdict[str, list[Price]] = defaultdict(list)
        for version in list_known_prices(self._pool, tenant_id=self._tenant_id):
            try:
                found[version.price_id].append(terms_of(version))
            except InvalidInput:
                # What cannot be computed explains no amount; where it is the price in force, the item says so.
                continue
        return found


def price_quantities(
    pool: ConnectionPool,
    quantities: Mapping[UsageKey, UsedQuantity],
    customers: Collection[tuple[str, Window]],
    *,
    tenant_id: str,
    rules: TenantRules,
    rounding: Rounding,
) -> dict[UsageKey, PricedItem]:
    """Every key with its amount, and what else is billed to a customer in a billing period though nothing was used.

    Args:
        pool: where.
        quantities: what was used.
        customers: billing periods that are billed whatever was used.
        tenant_id: whose.
        rules: the tenant's.
        rounding: of each line.

    Raises:
        Unavailable: the database is down.
    """
    windows: dict[tuple[str, Window], dict[str, UsedQuantity]] = {each: {} for each in customers}
    for key, used in quantities.items():
        windows.setdefault((key.customer_ref, (key.start, key.end)), {})[key.metric] = used
    found: dict[UsageKey, PricedItem] = {}
    for (customer, window), metrics in windows.items():
        usage = CurrentUsage(
            customer_ref=customer,
            segment=Segment(start=window[0], end=window[1]),
            metrics={metric: _usage(used) for metric, used in metrics.items()},
            freshness=_UNREAD,
        )
        priced = _priced(pool, usage, tenant_id=tenant_id, rounding=rounding)
        found |= {
            key: item
            for key, item in priced.items()
            if key.metric in metrics or rules.segment_of(customer, key.metric, window[0]) == usage.segment
        }
    return found


def _priced(
    pool: ConnectionPool, usage: CurrentUsage, *, tenant_id: str, rounding: Rounding
) -> dict[UsageKey, PricedItem]:
    priced = price_usage(pool, usage, tenant_id=tenant_id)
    bounds = usage.segment.start, usage.segment.end
    found = {
        UsageKey(usage.customer_ref, each.meter, *bounds): PricedItem(
            quantity=max(each.quantity, Decimal(0)), metric=None, quoted=None, reason=each.reason
        )
        for each in priced.unpriced
    }
    metrics = {each.meter: each for each in priced.priced}
    for preview in invoices_of(priced, rounding):
        for item, quoted in zip(preview.invoice.inputs.items, preview.invoice.quotes, strict=True):
            found[UsageKey(usage.customer_ref, item.metric, *bounds)] = PricedItem(
                quantity=item.quantity, metric=metrics[item.metric], quoted=quoted, reason=""
            )
    return found


def _usage(used: UsedQuantity) -> Usage:
    """A quantity as pricing reads it."""
    return Usage(
        aggregation=used.aggregation,
        event_count=0,
        quantity_sum=used.quantity,
        quantity_min=None,
        quantity_max=None,
        quantity_last=None,
        adjusted=used.adjusted,
        quantity=used.quantity,
    )
