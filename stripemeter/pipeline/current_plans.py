"""Today's plan: what the mappings and recorded prices in force charge, as plans that history can be priced by.

Belongs here: which price each metric has now for customers who stand alike. Does not: one customer's usage with its
price (`priced_usage`), candidates, amounts (`stripemeter.pricing`).

Which price bills a metric depends on the accounts a customer is bound at and on the prices of its own subscription
items. Customers alike in both share plans: one for each account and currency, as their invoices are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.countings import counting_of
from stripemeter.metering.days import day_of
from stripemeter.pipeline.mapping_choice import choose_mappings, why_unnamed
from stripemeter.pipeline.price_versions import terms_of, version_in_force
from stripemeter.pipeline.prices import price_id_of
from stripemeter.pricing import Price
from stripemeter.pricing.plans import Plan, plan_document
from stripemeter.store.mappings import PriceMapping, list_mappings
from stripemeter.store.metered_usage import load_mapped
from stripemeter.store.period_states import list_bound, list_own_prices
from stripemeter.store.postgres import Tx
from stripemeter.store.prices import PriceVersion, list_prices
from stripemeter.store.rulebook import load_rulebook

NAME = "today"


class Standing(NamedTuple):
    """What decides which prices a customer has: its accounts, and (meter, account, price) of its own items; sorted."""

    accounts: tuple[str, ...] = ()
    own_prices: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentPlans:
    """What customers are charged now.

    Args:
        standings: of customers that are bound or have own prices; any other has the empty one.
        plans: by standing, the empty one among them: one for each account and currency that has a price.
        unpriced: by standing: mapped metrics without a price, and why.
    """

    standings: Mapping[str, Standing]
    plans: Mapping[Standing, tuple[Plan, ...]]
    unpriced: Mapping[Standing, Mapping[str, str]]

    def only(self) -> Plan | None:
        """The plan, where everybody has the same one."""
        every = [plan for plans in self.plans.values() for plan in plans]
        is_one = len({json.dumps(plan_document(plan)) for plan in every}) == 1
        return every[0] if is_one else None


def load_current_plans(tx: Tx, *, tenant_id: str, now: datetime) -> CurrentPlans:
    """The plans in force, by the accounts customers are bound at.

    Args:
        tx: one snapshot.
        tenant_id: whose.
        now: prices that hold at this instant.
    """
    mapped = list_mappings(tx, tenant_id=tenant_id)
    named = [(each.stripe_account_id, price_id) for each in mapped if (price_id := price_id_of(each)) is not None]
    bound, own = list_bound(tx, tenant_id=tenant_id), list_own_prices(tx, tenant_id=tenant_id, now=now)
    named += sorted({(account, price_id) for prices in own.values() for _, account, price_id in prices})
    versions: defaultdict[tuple[str | None, str], list[PriceVersion]] = defaultdict(list)
    for version in list_prices(tx, tenant_id=tenant_id, stripe_prices=named):
        versions[version.stripe_account_id, version.price_id].append(version)
    rules, how = load_rulebook(tx, [tenant_id]).of(tenant_id), load_mapped(tx, tenant_id)
    standings = {
        customer: Standing(tuple(sorted(bound.get(customer, ()))), tuple(sorted(own.get(customer, ()))))
        for customer in {*bound, *own}
    }
    plans, unpriced = {}, {}
    for standing in {Standing(), *standings.values()}:
        chosen = choose_mappings(mapped, standing.accounts)
        own_prices = {(meter, account): price_id for meter, account, price_id in standing.own_prices}
        prices: defaultdict[tuple[str, str], dict[str, Price]] = defaultdict(dict)
        reasons: dict[str, str] = {}
        for meter in sorted({*chosen, *(name for account, name in versions if account is None)}):
            counted = counting_of(rules, how, meter, day_of(now), now).aggregation
            mapping = chosen.get(meter)
            found = _price(meter, counted, mapping, _price_id(mapping, own_prices), versions, now)
            if isinstance(found, str):
                reasons[meter] = found
            else:
                prices[found[0], found[1].currency][meter] = found[1]
        plans[standing] = tuple(_plan(key, metrics) for key, metrics in sorted(prices.items()))
        unpriced[standing] = reasons
    return CurrentPlans(standings=standings, plans=plans, unpriced=unpriced)


def only_plan(plans: Sequence[Plan], currency: str | None) -> Plan:
    """The one plan of these, or the one of a currency.

    Raises:
        NotFound: there is none.
        InvalidInput: there are several.
    """
    wanted = [plan for plan in plans if currency in (None, plan.currency)]
    if not wanted:
        raise NotFound("no metric has a price: map one (`stripemeter mappings`) or say one (`stripemeter prices set`)")
    if len(wanted) > 1:
        several = ", ".join(f"{plan.name} in {plan.currency}" for plan in wanted)
        raise InvalidInput(
            f"several plans are in force, name a currency that only one has: {several}", field="currency"
        )
    return wanted[0]


def _price_id(mapping: PriceMapping | None, own_prices: Mapping[tuple[str, str], str]) -> str | None:
    """What bills a metric: the customer's own item's price, else the mapping's; None: neither is known."""
    if mapping is None or mapping.mode == "off":
        return None
    return own_prices.get((mapping.meter, mapping.stripe_account_id)) or price_id_of(mapping)


def _price(
    meter: str,
    counted: str,
    mapping: PriceMapping | None,
    price_id: str | None,
    versions: Mapping[tuple[str | None, str], Sequence[PriceVersion]],
    now: datetime,
) -> tuple[str, Price] | str:
    """The account ("" for the tenant's own price) and the price of a metric now, or why there is none."""
    if mapping is None or price_id is None:
        found = versions.get((None, meter), ())
        missing = f"{why_unnamed(mapping)}, and the metric has no price of its own (stripemeter prices set)"
    elif counted != mapping.aggregation:
        return f"it counts as {counted}, and its mapping bills {mapping.aggregation}"
    else:
        found = versions.get((mapping.stripe_account_id, price_id), ())
        missing = f"the terms of {price_id} are not known yet: run stripemeter prices sync"
    if not found:
        return missing
    version = version_in_force(found, now)
    if version is None:
        return (
            f"the price {found[0].price_id} holds from {found[0].effective_from:%Y-%m-%d %H:%M} UTC on, which is later"
        )
    try:
        return version.stripe_account_id or "", terms_of(version)
    except InvalidInput as error:
        return f"the terms of {version.price_id} cannot be computed: {error}"


def _plan(key: tuple[str, str], metrics: Mapping[str, Price]) -> Plan:
    account, currency = key
    return Plan(name=f"{NAME} ({account})" if account else NAME, currency=currency, metrics=metrics)
