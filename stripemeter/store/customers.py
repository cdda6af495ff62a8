"""Customers: other references, time zone, billing phases, Stripe customers and items.

Belongs here: the tables customers, customer_aliases, billing_phases and customer_items, and a customer as one value.
Does not: recounting what a change moves (`pipeline.customers`), binding a Stripe customer (`store.mappings`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from stripemeter.errors import Conflict
from stripemeter.metering.segments import BillingPhase
from stripemeter.store.mappings import CustomerBinding
from stripemeter.store.postgres import Row, Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("customers")


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerPhase:
    """A billing phase of a customer; meter '' is every meter without phases of its own."""

    meter: str
    phase: BillingPhase
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerItem:
    """Which subscription item bills a meter of a customer."""

    meter: str
    stripe_account_id: str
    stripe_subscription_id: str
    stripe_item_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """What is known of a customer besides its usage; `created_at` is None while nobody said anything about it."""

    tenant_id: str
    customer_ref: str
    time_zone: str
    aliases: tuple[str, ...]
    phases: tuple[CustomerPhase, ...]
    bindings: tuple[CustomerBinding, ...]
    items: tuple[CustomerItem, ...]
    created_at: datetime | None
    updated_at: datetime | None

    def phases_of(self, meter: str) -> list[BillingPhase]:
        """The phases that cut a meter's time: its own, else those of every meter; none: the UTC month."""
        own = [each.phase for each in self.phases if each.meter == meter]
        return own or [each.phase for each in self.phases if each.meter == ""]


def load_aliases(tx: Tx, tenants: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """By tenant: the customer of each alias. Of these tenants, or of all; tenants without any are absent."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for tenant, alias, own in tx.execute(_Q["load_aliases"], {"tenants": _listed(tenants)}):
        found[tenant][alias] = own
    return dict(found)


def load_phases(tx: Tx, tenants: Sequence[str] | None) -> dict[str, dict[tuple[str, str], list[BillingPhase]]]:
    """By tenant: ascending phases of each (customer, meter). Of these tenants, or of all; others are absent."""
    found: defaultdict[str, defaultdict[tuple[str, str], list[BillingPhase]]] = defaultdict(lambda: defaultdict(list))
    for tenant, customer, meter, *phase in tx.execute(_Q["load_phases"], {"tenants": _listed(tenants)}):
        found[tenant][customer, meter].append(_phase(phase))
    return {tenant: dict(phases) for tenant, phases in found.items()}


def load_phases_of(tx: Tx, tenant_id: str, customer_ref: str, meter: str) -> list[BillingPhase]:
    """The phases that cut a meter's time for a customer: its own, else those of every meter; none: the UTC month."""
    return load_phases_of_each(tx, [(tenant_id, customer_ref, meter)])[0]


def load_phases_of_each(tx: Tx, keys: Sequence[tuple[str, str, str]]) -> list[list[BillingPhase]]:
    """As `load_phases_of`, for each (tenant, customer, meter)."""
    tenants, customers, meters = (list(part) for part in zip(*keys, strict=True))
    parameters = {"tenant_ids": tenants, "customer_refs": customers, "meters": meters}
    own: list[list[BillingPhase]] = [[] for _ in keys]
    common: list[list[BillingPhase]] = [[] for _ in keys]
    for place, meter, *phase in tx.execute(_Q["load_phases_of"], parameters):
        (common if meter == "" else own)[place - 1].append(_phase(phase))
    return [mine or shared for mine, shared in zip(own, common, strict=True)]


def resolve_customer(tx: Tx, tenant_id: str, ref: str) -> str:
    """The customer a reference means: itself unless it is an alias."""
    row = tx.execute(_Q["find_alias"], {"tenant_id": tenant_id, "alias_ref": ref}).fetchone()
    return ref if row is None else str(row[0])


def refs_of(tx: Tx, tenant_id: str, customer_ref: str) -> list[str]:
    """Every reference that means the customer: its own first, then its aliases."""
    rows = tx.execute(_Q["list_aliases"], {"tenant_id": tenant_id, "customer_refs": [customer_ref]})
    return [customer_ref, *(row[1] for row in rows)]


def load_customer(tx: Tx, tenant_id: str, customer_ref: str) -> Customer:
    """The customer; with the defaults while nobody said anything about it."""
    return load_customers(tx, tenant_id, [customer_ref])[0]


def load_customers(tx: Tx, tenant_id: str, customer_refs: Sequence[str]) -> list[Customer]:
    """The customers, in the order named."""
    scope = {"tenant_id": tenant_id, "customer_refs": list(customer_refs)}
    own = {ref: rest for ref, *rest in tx.execute(_Q["list_customers"], scope)}
    aliases = _by_customer(tx.execute(_Q["list_aliases"], scope))
    phases = _by_customer(tx.execute(_Q["list_phases"], scope))
    items = _by_customer(tx.execute(_Q["list_items"], scope))
    bindings: defaultdict[str, list[CustomerBinding]] = defaultdict(list)
    for row in tx.execute(_Q["list_bindings"], scope):
        binding = CustomerBinding(**dict(zip(CustomerBinding.__dataclass_fields__, row, strict=True)))
        bindings[binding.customer_ref].append(binding)
    customers = []
    for ref in customer_refs:
        time_zone, created_at, updated_at = own.get(ref, ("UTC", None, None))
        customers.append(
            Customer(
                tenant_id=tenant_id,
                customer_ref=ref,
                time_zone=time_zone,
                aliases=tuple(alias for (alias,) in aliases[ref]),
                phases=tuple(
                    CustomerPhase(meter=meter, phase=_phase(phase), reason=reason)
                    for meter, *phase, reason in phases[ref]
                ),
                bindings=tuple(bindings[ref]),
                items=tuple(
                    CustomerItem(**dict(zip(CustomerItem.__dataclass_fields__, item, strict=True)))
                    for item in items[ref]
                ),
                created_at=created_at,
                updated_at=updated_at,
            )
        )
    return customers


def list_customer_refs(tx: Tx, tenant_id: str, *, after: str | None, most: int) -> list[str]:
    """Customers somebody said something about, ascending by reference (bytewise), those beyond `after`."""
    rows = tx.execute(_Q["list_refs"], {"tenant_id": tenant_id, "after": after, "most": most})
    return [row[0] for row in rows]


def list_accounts(tx: Tx, tenant_id: str) -> list[str]:
    """The Stripe accounts a tenant's meters and customers are at."""
    return [row[0] for row in tx.execute(_Q["list_accounts"], {"tenant_id": tenant_id})]


def put_customer(tx: Tx, tenant_id: str, customer_ref: str, *, time_zone: str | None, now: datetime) -> None:
    """Record that the customer was spoken of; with a time zone, that as well."""
    tx.execute(
        _Q["put_customer"],
        {"tenant_id": tenant_id, "customer_ref": customer_ref, "time_zone": time_zone, "now": now},
    )


def delete_customer(tx: Tx, tenant_id: str, customer_ref: str) -> None:
    """Forget the customer's time zone and items. Aliases and phases are their own verbs: they move counters."""
    scope = {"tenant_id": tenant_id, "customer_ref": customer_ref, "stripe_account_id": None}
    tx.execute(_Q["delete_items"], scope)
    tx.execute(_Q["delete_customer"], scope)


def add_alias(tx: Tx, tenant_id: str, customer_ref: str, alias_ref: str, *, now: datetime) -> None:
    """Count events of the alias for the customer. The fold's cursor must be locked.

    Raises:
        Conflict: one of the two is an alias already, or the alias has aliases of its own.
    """
    target = resolve_customer(tx, tenant_id, customer_ref)
    if target != customer_ref:
        raise Conflict(f"{customer_ref!r} is itself an alias of {target!r}: give that customer the alias")
    taken = resolve_customer(tx, tenant_id, alias_ref)
    if taken not in (alias_ref, customer_ref):
        raise Conflict(f"{alias_ref!r} is an alias of {taken!r} already: take it from there first")
    if len(refs_of(tx, tenant_id, alias_ref)) > 1:
        raise Conflict(f"{alias_ref!r} has aliases of its own: take them from it first")
    tx.execute(
        _Q["insert_alias"],
        {"tenant_id": tenant_id, "alias_ref": alias_ref, "customer_ref": customer_ref, "now": now},
    )


def remove_alias(tx: Tx, tenant_id: str, customer_ref: str, alias_ref: str) -> None:
    """Count events of the alias for itself again. The fold's cursor must be locked."""
    tx.execute(_Q["delete_alias"], {"tenant_id": tenant_id, "customer_ref": customer_ref, "alias_ref": alias_ref})


def replace_phases(
    tx: Tx, tenant_id: str, customer_ref: str, phases: Collection[CustomerPhase], *, now: datetime
) -> None:
    """Make the customer's phases exactly these. The fold's cursor must be locked."""
    parameters = {
        "tenant_id": tenant_id,
        "customer_ref": customer_ref,
        "meters": [each.meter for each in phases],
        "starts": [each.phase.starts_at for each in phases],
        "cadences": [each.phase.cadence for each in phases],
        "counts": [each.phase.cadence_count for each in phases],
        "anchors": [each.phase.anchor_at for each in phases],
        "reasons": [each.reason for each in phases],
        "now": now,
    }
    tx.execute(_Q["delete_other_phases"], parameters)
    tx.execute(_Q["insert_phases"], parameters)


def replace_items(
    tx: Tx,
    tenant_id: str,
    customer_ref: str,
    items: Collection[CustomerItem],
    *,
    stripe_account_id: str,
    now: datetime,
) -> None:
    """Make the customer's subscription items at an account exactly these."""
    scope = {"tenant_id": tenant_id, "customer_ref": customer_ref, "stripe_account_id": stripe_account_id}
    tx.execute(_Q["delete_items"], scope)
    for item in items:
        values = {
            "meter": item.meter,
            "stripe_subscription_id": item.stripe_subscription_id,
            "stripe_item_id": item.stripe_item_id,
            "now": now,
        }
        tx.execute(_Q["insert_item"], {**scope, **values})


def load_counted_days(tx: Tx, tenant_id: str, refs: Collection[str], *, first: date) -> list[date]:
    """The days from `first` on that any of these references has counters of, ascending."""
    rows = tx.execute(_Q["load_counted_days"], {"tenant_id": tenant_id, "customer_refs": sorted(refs), "first": first})
    return [row[0] for row in rows]


def _listed(tenants: Sequence[str] | None) -> list[str] | None:
    return None if tenants is None else list(tenants)


def _by_customer(rows: Iterable[Row]) -> defaultdict[str, list[list[Any]]]:
    found: defaultdict[str, list[list[Any]]] = defaultdict(list)
    for ref, *rest in rows:
        found[ref].append(rest)
    return found


def _phase(row: Sequence[Any]) -> BillingPhase:
    starts_at, cadence, cadence_count, anchor_at = row
    return BillingPhase(starts_at=starts_at, cadence=cadence, cadence_count=cadence_count, anchor_at=anchor_at)
