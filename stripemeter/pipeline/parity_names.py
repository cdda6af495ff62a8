"""Whose and what a row of an export is: customers and metrics of ours by the texts it names them with.

Belongs here: references, Stripe customers, prices and event names. Does not: reading rows (`metering.parity_rows`).

Our own name wins: a customer's reference before a Stripe customer's id, a metric's name before a price's id or an event
name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from stripemeter.metering.parity import Cause
from stripemeter.metering.parity_rows import ExportRow
from stripemeter.metering.rulebook import TenantRules
from stripemeter.pipeline.prices import price_id_of
from stripemeter.store.mappings import list_bindings, list_mappings
from stripemeter.store.parity import find_customers, find_meters, list_item_metrics
from stripemeter.store.postgres import Tx

_STRIPE_CUSTOMER = "cus_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What texts mean.

    Args:
        rules: aliases.
        customers: own references that are known.
        bound: own references by Stripe customer.
        metrics: names that are known.
        priced: metrics by the price that bills them or the event name that feeds them.
    """

    rules: TenantRules
    customers: Collection[str]
    bound: Mapping[str, frozenset[str]]
    metrics: Collection[str]
    priced: Mapping[str, frozenset[str]]

    def customers_of(self, text: str) -> frozenset[str]:
        """The customers a text may mean: one, none, or several when two accounts bind it to different ones."""
        own = self.rules.customer_of(text)
        return frozenset({own}) if own in self.customers else self.bound.get(text, frozenset())

    def metrics_of(self, row: ExportRow) -> frozenset[str]:
        """The metrics a row may mean."""
        if row.metric in self.metrics:
            return frozenset({row.metric})
        return self.priced.get(row.metric) or self.priced.get(row.price, frozenset())


def load_names(
    tx: Tx, rules: TenantRules, rows: Iterable[ExportRow], *, tenant_id: str, used: Collection[tuple[str, str]]
) -> Names:
    """What the texts of some rows mean.

    Args:
        tx: where.
        rules: the tenant's.
        rows: whose texts are looked up.
        tenant_id: whose.
        used: customers and metrics that are known to have usage.
    """
    bound: defaultdict[str, set[str]] = defaultdict(set)
    for binding in list_bindings(tx, tenant_id=tenant_id):
        bound[binding.stripe_customer_id].add(binding.customer_ref)
    priced: defaultdict[str, set[str]] = defaultdict(set)
    metrics = {meter for _, meter in used} | set(rules.meters)
    for mapping in list_mappings(tx, tenant_id=tenant_id):
        metrics.add(mapping.meter)
        for name in (price_id_of(mapping), mapping.price_id, mapping.shadow_price_id, mapping.stripe_event_name):
            if name is not None:
                priced[name].add(mapping.meter)
    for price_id, meter in list_item_metrics(tx, tenant_id):
        metrics.add(meter)
        priced[price_id].add(meter)
    customers = {customer for customer, _ in used} | {ref for refs in bound.values() for ref in refs}
    customers |= set(rules.aliases.values())
    texts = list(rows)
    strange = {rules.customer_of(row.customer) for row in texts} - customers
    unnamed = {row.metric for row in texts} - metrics
    return Names(
        rules=rules,
        customers=customers | find_customers(tx, tenant_id, strange),
        bound={stripe: frozenset(refs) for stripe, refs in bound.items()},
        metrics=metrics | find_meters(tx, tenant_id, unnamed),
        priced={name: frozenset(meters) for name, meters in priced.items()},
    )


def why_stranger(names: Names, row: ExportRow) -> Cause | None:
    """Why a row is of no customer or metric of ours; None: it is."""
    if not names.customers_of(row.customer):
        return "not_bound" if row.customer.startswith(_STRIPE_CUSTOMER) else "unknown_customer"
    return None if names.metrics_of(row) else "unmapped_metric"
