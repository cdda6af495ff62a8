"""Customers, changed: settings, other references, billing phases; and what such a change moves is counted again.

Belongs here: what may be said of a customer, which days a change moves, the order of things in its transaction. Does
not: the tables (`store.customers`), cutting time (`metering.segments`), recounting (`pipeline.slice_recounts`).

A change of aliases or phases holds the fold's cursor while it writes, so every event is folded by one version of the
rules or the other, and asks in the same transaction for the days counted by the old one to be counted again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby

from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotFound
from stripemeter.metering.days import day_of
from stripemeter.metering.segments import BEGINNING, DEFAULT_PHASES, BillingPhase
from stripemeter.pipeline import slice_recounts as recounts
from stripemeter.store import customers, ledger, mappings, slice_recounts
from stripemeter.store.customers import Customer, CustomerItem, CustomerPhase
from stripemeter.store.mappings import CustomerBinding
from stripemeter.store.postgres import Tx, transaction

DRAIN_SECONDS = 5
"""How long a change waits for the days it moves; what is left is counted again by the fold's next ticks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeLink:
    """Which Stripe customer a customer is, and which items bill it.

    Args:
        account_id: None: the tenant's only one.
        customer_id: Stripe's.
        items: meter and subscription item, with the subscription; None: as they are.
    """

    account_id: str | None
    customer_id: str
    items: tuple[tuple[str, str, str], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomerChange:
    """What somebody says of a customer; None: as it is.

    Args:
        time_zone: IANA name.
        aliases: every other reference of the customer.
        billing: the one phase of every meter without phases of its own.
        phases: every phase of every meter.
        stripe: the Stripe customer.
    """

    time_zone: str | None = None
    aliases: tuple[str, ...] | None = None
    billing: BillingPhase | None = None
    phases: tuple[CustomerPhase, ...] | None = None
    stripe: StripeLink | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedCustomer:
    """The customer after a change, and how many of its tenant's days still wait to be counted again."""

    customer: Customer
    pending_days: int


def find_customer(pool: ConnectionPool, *, tenant_id: str, ref: str) -> Customer:
    """The customer a reference means, with the defaults while nobody said anything about it.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        return customers.load_customer(tx, tenant_id, customers.resolve_customer(tx, tenant_id, ref))


def list_customers(
    pool: ConnectionPool, *, tenant_id: str, after: str | None = None, limit: int
) -> tuple[list[Customer], bool]:
    """A page of the customers somebody said something about, by reference, and whether there are more.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        refs = customers.list_customer_refs(tx, tenant_id, after=after, most=limit + 1)
        return customers.load_customers(tx, tenant_id, refs[:limit]), len(refs) > limit


def put_customer(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    change: CustomerChange,
    now: datetime,
    drain_seconds: int = DRAIN_SECONDS,
) -> ChangedCustomer:
    """Record what is said of a customer, all of it or nothing. Saying the same again changes nothing.

    Raises:
        InvalidInput: an alias is the customer itself or named twice, two phases start at once, or the Stripe account
            is not known.
        Conflict: the reference is an alias, an alias is taken or has aliases, or either side of the Stripe customer is
            bound to somebody else. Nothing changed.
        Unavailable: Postgres does not answer.
    """
    _check_aliases(customer_ref, change.aliases or ())
    _check_phases(change.phases or ())
    with transaction(pool) as tx:
        if change.aliases is not None or change.billing is not None or change.phases is not None:
            ledger.lock_cursor(tx)
        _refuse_alias(tx, tenant_id, customer_ref)
        before = customers.load_customer(tx, tenant_id, customer_ref)
        customers.put_customer(tx, tenant_id, customer_ref, time_zone=change.time_zone, now=now)
        if change.aliases is not None:
            _replace_aliases(tx, before, change.aliases, now)
        phases = _phases_after(before, change)
        if phases is not None:
            _replace_phases(tx, before, phases, now)
        if change.stripe is not None:
            _link(tx, before, change.stripe, now)
    return _settle(pool, tenant_id, customer_ref, drain_seconds)


def split_segment(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    at: datetime,
    meter: str = "",
    reason: str,
    now: datetime,
    drain_seconds: int = DRAIN_SECONDS,
) -> ChangedCustomer:
    """Cut the segment that holds an instant there, as a price change does; the rhythm goes on as before.

    Without a meter every meter that has no phases of its own is cut. A meter without phases of its own takes those of
    the others along. Splitting twice at the same instant is once.

    Raises:
        Conflict: the reference is an alias: split the customer.
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        ledger.lock_cursor(tx)
        _refuse_alias(tx, tenant_id, customer_ref)
        before = customers.load_customer(tx, tenant_id, customer_ref)
        phases = _split(before.phases, at, meter, reason)
        if phases != before.phases:
            customers.put_customer(tx, tenant_id, customer_ref, time_zone=None, now=now)
            _replace_phases(tx, before, phases, now)
    return _settle(pool, tenant_id, customer_ref, drain_seconds)


def add_alias(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    alias_ref: str,
    now: datetime,
    drain_seconds: int = DRAIN_SECONDS,
) -> ChangedCustomer:
    """Make one more reference the customer's: its events, past ones too, count for the customer.

    Raises:
        InvalidInput: it is the customer's own reference.
        Conflict: the customer is an alias itself, or the alias is taken or has aliases. Nothing changed.
        Unavailable: Postgres does not answer.
    """
    _check_aliases(customer_ref, [alias_ref])
    with transaction(pool) as tx:
        ledger.lock_cursor(tx)
        _refuse_alias(tx, tenant_id, customer_ref)
        before = customers.load_customer(tx, tenant_id, customer_ref)
        customers.put_customer(tx, tenant_id, customer_ref, time_zone=None, now=now)
        _replace_aliases(tx, before, [*before.aliases, alias_ref], now)
    return _settle(pool, tenant_id, customer_ref, drain_seconds)


def remove_alias(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    customer_ref: str,
    alias_ref: str,
    now: datetime,
    drain_seconds: int = DRAIN_SECONDS,
) -> ChangedCustomer:
    """Make an alias a customer of its own again: its events, past ones too, count for itself.

    Raises:
        NotFound: it is no alias of this customer.
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        ledger.lock_cursor(tx)
        before = customers.load_customer(tx, tenant_id, customer_ref)
        if alias_ref not in before.aliases:
            raise NotFound(f"{alias_ref!r} is no alias of {customer_ref!r}")
        customers.put_customer(tx, tenant_id, customer_ref, time_zone=None, now=now)
        _replace_aliases(tx, before, [alias for alias in before.aliases if alias != alias_ref], now)
    return _settle(pool, tenant_id, customer_ref, drain_seconds)


def delete_customer(
    pool: ConnectionPool, *, tenant_id: str, customer_ref: str, now: datetime, drain_seconds: int = DRAIN_SECONDS
) -> ChangedCustomer:
    """Forget what was said of a customer: time zone, aliases, phases and items. Its events and usage stay.

    Which Stripe customer it is stays as well: what was sent stays there.

    Raises:
        NotFound: nothing was said of it.
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        ledger.lock_cursor(tx)
        before = customers.load_customer(tx, tenant_id, customer_ref)
        if before.created_at is None:
            raise NotFound(f"nothing is recorded of customer {customer_ref!r}")
        _replace_aliases(tx, before, (), now)
        _replace_phases(tx, before, (), now)
        customers.delete_customer(tx, tenant_id, customer_ref)
    return _settle(pool, tenant_id, customer_ref, drain_seconds)


def first_change(before: Sequence[CustomerPhase], after: Sequence[CustomerPhase]) -> datetime | None:
    """The first instant whose segment is another by these phases than by those; None: there is none."""
    meters = {each.meter for each in (*before, *after)}
    changed: set[BillingPhase] = set()
    for meter in meters:
        changed |= set(_effective(before, meter)) ^ set(_effective(after, meter))
    return min((phase.starts_at for phase in changed), default=None)


def _effective(phases: Sequence[CustomerPhase], meter: str) -> list[BillingPhase]:
    """The phases that cut a meter, over all of time."""
    own = [each.phase for each in phases if each.meter == meter]
    found = own or [each.phase for each in phases if each.meter == ""]
    return found if found and found[0].starts_at == BEGINNING else [*DEFAULT_PHASES, *found]


def _split(phases: tuple[CustomerPhase, ...], at: datetime, meter: str, reason: str) -> tuple[CustomerPhase, ...]:
    own = [each for each in phases if each.meter == meter]
    if not own:
        own = [CustomerPhase(meter=meter, phase=each.phase, reason=each.reason) for each in phases if each.meter == ""]
    if any(each.phase.starts_at == at for each in own):
        return phases
    current = [phase for phase in _effective(phases, meter) if phase.starts_at <= at][-1]
    cut = BillingPhase(
        starts_at=at,
        cadence=current.cadence,
        cadence_count=current.cadence_count,
        anchor_at=current.anchor_at,
    )
    others = [each for each in phases if each.meter != meter]
    return _sorted([*others, *own, CustomerPhase(meter=meter, phase=cut, reason=reason)])


def _phases_after(before: Customer, change: CustomerChange) -> tuple[CustomerPhase, ...] | None:
    if change.phases is not None:
        return _sorted(change.phases)
    if change.billing is None:
        return None
    whole = CustomerPhase(meter="", phase=change.billing, reason="billing")
    return _sorted([whole, *(each for each in before.phases if each.meter != "")])


def _sorted(phases: Sequence[CustomerPhase]) -> tuple[CustomerPhase, ...]:
    return tuple(sorted(phases, key=lambda each: (each.meter, each.phase.starts_at)))


def _replace_aliases(tx: Tx, before: Customer, aliases: Sequence[str], now: datetime) -> None:
    moved = sorted(set(before.aliases) ^ set(aliases))
    for alias in moved:
        if alias in before.aliases:
            customers.remove_alias(tx, before.tenant_id, before.customer_ref, alias)
        else:
            customers.add_alias(tx, before.tenant_id, before.customer_ref, alias, now=now)
    for ref in [before.customer_ref, *moved] if moved else []:
        _recount(tx, before, ref, [before.customer_ref, *moved], BEGINNING, "aliases changed", now)


def _replace_phases(tx: Tx, before: Customer, phases: Sequence[CustomerPhase], now: datetime) -> None:
    customers.replace_phases(tx, before.tenant_id, before.customer_ref, phases, now=now)
    changed_at = first_change(before.phases, phases)
    if changed_at is not None:
        ref = before.customer_ref
        _recount(tx, before, ref, [ref], changed_at, "billing phases changed", now)


def _recount(
    tx: Tx, customer: Customer, ref: str, counted_as: Sequence[str], since: datetime, reason: str, now: datetime
) -> None:
    """Ask for the days since an instant to be counted again, exactly those with counters of these references."""
    days = customers.load_counted_days(tx, customer.tenant_id, counted_as, first=day_of(since))
    for first, last in _ranges(days):
        slice_recounts.add_slice_recount(tx, customer.tenant_id, ref, first, last, reason, now)


def _ranges(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Ascending days as ranges without gaps, both ends included."""
    for _, adjoining in groupby(enumerate(days), key=lambda each: each[1] - timedelta(days=each[0])):
        run = [day for _, day in adjoining]
        yield run[0], run[-1]


def _link(tx: Tx, before: Customer, link: StripeLink, now: datetime) -> None:
    tenant_id, customer_ref = before.tenant_id, before.customer_ref
    account = link.account_id or _only_account(customers.list_accounts(tx, tenant_id))
    binding = CustomerBinding(
        tenant_id=tenant_id,
        customer_ref=customer_ref,
        stripe_account_id=account,
        stripe_customer_id=link.customer_id,
        created_at=now,
    )
    mappings.bind_customer(tx, binding)
    if link.items is not None:
        items = [
            CustomerItem(
                meter=meter, stripe_account_id=account, stripe_subscription_id=subscription, stripe_item_id=item
            )
            for meter, subscription, item in link.items
        ]
        customers.replace_items(tx, tenant_id, customer_ref, items, stripe_account_id=account, now=now)


def _only_account(accounts: Sequence[str]) -> str:
    if len(accounts) != 1:
        known = ", ".join(accounts) or "none"
        raise InvalidInput(
            f"stripe.accountId is required: the tenant's Stripe accounts are {known}", field="stripe.accountId"
        )
    return accounts[0]


def _refuse_alias(tx: Tx, tenant_id: str, ref: str) -> None:
    own = customers.resolve_customer(tx, tenant_id, ref)
    if own != ref:
        raise Conflict(f"{ref!r} is an alias of {own!r}: say it of that customer")


def _check_aliases(customer_ref: str, aliases: Sequence[str]) -> None:
    for index, alias in enumerate(aliases):
        field = f"aliases[{index}]"
        if alias == customer_ref:
            raise InvalidInput(f"{field} is the customer's own reference", field=field)
        if alias in aliases[:index]:
            raise InvalidInput(f"{field} is named twice", field=field)


def _check_phases(phases: Sequence[CustomerPhase]) -> None:
    seen: set[tuple[str, datetime]] = set()
    for index, each in enumerate(phases):
        key = (each.meter, each.phase.starts_at)
        if key in seen:
            field = f"phases[{index}].startsAt"
            raise InvalidInput(f"{field}: another phase of the meter starts at the same instant", field=field)
        seen.add(key)


def _settle(pool: ConnectionPool, tenant_id: str, customer_ref: str, drain_seconds: int) -> ChangedCustomer:
    """Once the change is committed: count again what it moved, and look at the customer."""
    pending = recounts.drain(pool, tenant_id=tenant_id, budget_seconds=drain_seconds)
    with transaction(pool) as tx:
        return ChangedCustomer(customer=customers.load_customer(tx, tenant_id, customer_ref), pending_days=pending)
