"""Priced usage: a customer's billing period with the price of each metric, or why it has none.

Belongs here: which mapping and which version price a metric. Does not: amounts (`stripemeter.pricing`), reading usage
(`store.usage`), forecasts (`projections`).

The quantity is what the usage routes answer, so what is priced is what was counted. A metric is priced by the Stripe
Price of the customer's own subscription item where that is known, else of the mapping that says how it counts: the live
one, else the one in shadow. Where that names no price the tenant's own price of the metric is used. A metric without a
known price is named with the reason and never priced as 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import cast

from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.meters import Aggregation
from stripemeter.metering.segments import Segment, segment_at
from stripemeter.pipeline.mapping_choice import choose_mappings, why_unnamed
from stripemeter.pipeline.price_versions import terms_of, version_in_force
from stripemeter.pipeline.prices import price_id_of
from stripemeter.pricing import Price
from stripemeter.store.customers import Customer, load_customer
from stripemeter.store.item_prices import ItemPrice, list_item_prices
from stripemeter.store.mappings import PriceMapping, list_mappings
from stripemeter.store.postgres import transaction
from stripemeter.store.prices import PriceVersion, list_prices
from stripemeter.store.usage import CurrentUsage, Freshness, Usage, load_current_usage

NOT_INCLUDED = ("discounts", "credit grants", "taxes", "fixed fees")
"""What an invoice has besides metered usage: it is kept at Stripe and not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedMetric:
    """What a customer used of a metric in its billing period, and what a unit costs.

    Args:
        meter: ours.
        segment: the billing period.
        aggregation: how it counts.
        quantity: not negative: what is below 0 after adjustments bills as 0.
        stripe_account_id: whose price it is; None: the tenant's own.
        price_id: Stripe's; of the tenant's own, the metric.
        price: the version that holds at the period's end.
    """

    meter: str
    segment: Segment
    aggregation: Aggregation
    quantity: Decimal
    stripe_account_id: str | None
    price_id: str
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedMetric:
    """A metric whose price is not known, and why; `quantity` was used."""

    meter: str
    segment: Segment
    quantity: Decimal
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedUsage:
    """A customer's billing period; metrics by name."""

    customer_ref: str
    segment: Segment
    priced: tuple[PricedMetric, ...]
    unpriced: tuple[UnpricedMetric, ...]
    freshness: Freshness


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is recorded of the customer and its prices: one snapshot."""

    segments: Mapping[str, Segment]
    mappings: Mapping[str, PriceMapping]
    versions: Mapping[tuple[str | None, str], list[PriceVersion]]
    item_prices: Mapping[tuple[str, str], Sequence[ItemPrice]]
    billed: Collection[str]


def load_priced_usage(
    pool: ConnectionPool, *, tenant_id: str, customer_ref: str, at: datetime, now: datetime
) -> PricedUsage:
    """What a customer used in the billing period that holds an instant, with prices.

    A mapped metric of which nothing was used is there with 0 when the customer is bound at the mapping's account, and
    has an item for it or no items recorded there: a price may charge for that, too.

    Args:
        pool: where.
        tenant_id: whose account.
        customer_ref: any reference of the customer.
        at: which period.
        now: until when a level is known to hold.

    Raises:
        Unavailable: the database is down, or its counters belong to another cluster.
    """
    usage = load_current_usage(pool, tenant_id=tenant_id, customer_ref=customer_ref, at=at, now=now)
    return _price(usage, _load_known(pool, tenant_id, usage, at))


def price_usage(pool: ConnectionPool, usage: CurrentUsage, *, tenant_id: str) -> PricedUsage:
    """Usage of any window, priced as if that were the billing period of each metric.

    Raises:
        Unavailable: the database is down.
    """
    known = _load_known(pool, tenant_id, usage, usage.segment.start)
    return _price(usage, replace(known, segments={}))


def _price(usage: CurrentUsage, known: _Known) -> PricedUsage:
    priced, unpriced = [], []
    for meter in sorted({*usage.metrics, *known.billed}):
        found = _priced(meter, usage.metrics.get(meter), known, usage.segment)
        if isinstance(found, PricedMetric):
            priced.append(found)
        else:
            unpriced.append(found)
    return PricedUsage(
        customer_ref=usage.customer_ref,
        segment=usage.segment,
        priced=tuple(priced),
        unpriced=tuple(unpriced),
        freshness=usage.freshness,
    )


def _load_known(pool: ConnectionPool, tenant_id: str, usage: CurrentUsage, at: datetime) -> _Known:
    with transaction(pool) as tx:
        mapped = list_mappings(tx, tenant_id=tenant_id)
        customer = load_customer(tx, tenant_id, usage.customer_ref)
        named = [(each.stripe_account_id, price_id) for each in mapped if (price_id := price_id_of(each)) is not None]
        own = list_item_prices(tx, tenant_id, usage.customer_ref)
        named += [(each.stripe_account_id, each.stripe_price_id) for each in own]
        versions = list_prices(tx, tenant_id=tenant_id, stripe_prices=named)
    by_item: defaultdict[tuple[str, str], list[ItemPrice]] = defaultdict(list)
    for each in own:
        by_item[each.meter, each.stripe_account_id].append(each)
    by_price: defaultdict[tuple[str | None, str], list[PriceVersion]] = defaultdict(list)
    for version in versions:
        by_price[version.stripe_account_id, version.price_id].append(version)
    bound = frozenset(binding.stripe_account_id for binding in customer.bindings)
    chosen = choose_mappings(mapped, bound)
    return _Known(
        segments={meter: segment_at(customer.phases_of(meter), at) for meter in {*usage.metrics, *chosen}},
        mappings=chosen,
        versions=by_price,
        item_prices=by_item,
        billed={meter for meter, mapping in chosen.items() if _is_billed(mapping, customer)},
    )


def _is_billed(mapping: PriceMapping, customer: Customer) -> bool:
    """Whether the customer is billed for a meter whatever it uses: by its items there, where any are recorded."""
    account = mapping.stripe_account_id
    if mapping.mode == "off" or account not in {binding.stripe_account_id for binding in customer.bindings}:
        return False
    items = {item.meter for item in customer.items if item.stripe_account_id == account}
    return not items or mapping.meter in items


def _priced(meter: str, usage: Usage | None, known: _Known, common: Segment) -> PricedMetric | UnpricedMetric:
    segment = known.segments.get(meter, common)
    used = Decimal(0) if usage is None else usage.quantity
    mapping = known.mappings.get(meter)
    found = _versions(meter, usage, mapping, known, segment.end)
    terms = found if isinstance(found, str) else _terms(found, segment.end)
    if isinstance(terms, str):
        return UnpricedMetric(meter=meter, segment=segment, quantity=used, reason=terms)
    version, price = terms
    return PricedMetric(
        meter=meter,
        segment=segment,
        aggregation=_aggregation(usage, mapping),
        quantity=max(used, Decimal(0)),
        stripe_account_id=version.stripe_account_id,
        price_id=version.price_id,
        price=price,
    )


def _aggregation(usage: Usage | None, mapping: PriceMapping | None) -> Aggregation:
    if usage is not None:
        return usage.aggregation
    assert mapping is not None  # what was not used is there for its mapping's sake
    return cast("Aggregation", mapping.aggregation)


def _versions(
    meter: str, usage: Usage | None, mapping: PriceMapping | None, known: _Known, end: datetime
) -> Sequence[PriceVersion] | str:
    """Every version of the price of a metric in a window that ends then, at least one, or why there is none."""
    price_id = None if mapping is None or mapping.mode == "off" else _price_id(mapping, known, end)
    if mapping is None or price_id is None:
        own = known.versions.get((None, meter))
        return own or f"{why_unnamed(mapping)}, and the metric has no price of its own (stripemeter prices set)"
    if usage is not None and usage.aggregation != mapping.aggregation:
        return f"it counts as {usage.aggregation}, and its mapping bills {mapping.aggregation}"
    found = known.versions.get((mapping.stripe_account_id, price_id))
    return found or f"the terms of {price_id} are not known yet: run stripemeter prices sync"


def _price_id(mapping: PriceMapping, known: _Known, end: datetime) -> str | None:
    """What bills the customer: its own item's price, else the mapping's; None: neither is known."""
    own = known.item_prices.get((mapping.meter, mapping.stripe_account_id), ())
    held = [each.stripe_price_id for each in own if each.effective_from < end]
    return held[-1] if held else price_id_of(mapping)


def _terms(versions: Sequence[PriceVersion], end: datetime) -> tuple[PriceVersion, Price] | str:
    """The version that prices a window which ends then, and its terms, or why there are none."""
    version = version_in_force(versions, end)
    if version is None:
        first = versions[0]
        since = first.effective_from.isoformat().replace("+00:00", "Z")
        return f"the price {first.price_id} holds from {since} on, which is not before the period's end"
    try:
        return version, terms_of(version)
    except InvalidInput as error:
        return f"the terms of {version.price_id} cannot be computed: {error}"
