"""Price mappings: saying which price bills a meter, checked against the account before it is stored.

Belongs here: what must hold at Stripe for usage to be billed once and rightly. Does not: what a statement may say
(`metering.price_mappings`), Stripe's HTTP (`billing`), pushing (`pipeline.push`).

An off mapping is stored as it was said and Stripe is not asked. Any other is stored only after Stripe was: when it
cannot be, nothing changes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Mode, StripeMeter, StripePrice
from stripemeter.errors import Conflict, InvalidInput, NotFound, OutcomeUnknown, StripeRejected, Unavailable
from stripemeter.metering.days import day_of
from stripemeter.metering.parsing import invalid
from stripemeter.metering.price_mappings import MappingStatement, parse_statement, statement_document
from stripemeter.pipeline.price_versions import stripe_price_version
from stripemeter.store import mappings
from stripemeter.store.mappings import PriceMapping
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.prices import record_price
from stripemeter.store.rulebook import load_rulebook


class OpenAccount(Protocol):
    """Opens the account of a mode; that one, where it is connected to the key's own. The caller compares."""

    def __call__(self, mode: Mode, account: str | None = None) -> BillingSink:
        """The sink; raises NotAllowed where there is none."""


def list_mappings(
    pool: ConnectionPool,
    *,
    tenant_id: str,
    meter: str | None,
    is_active: bool | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> tuple[list[PriceMapping], bool]:
    """A page of a tenant's mappings, oldest first, and whether there are more.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        found = mappings.list_page(
            tx, tenant_id=tenant_id, meter=meter, is_active=is_active, after=after, limit=limit + 1
        )
    return found[:limit], len(found) > limit


def find_mapping(pool: ConnectionPool, mapping_id: UUID, *, tenant_id: str | None) -> PriceMapping:
    """The mapping with this id.

    Raises:
        NotFound: there is none, or it is another tenant's.
    """
    with transaction(pool) as tx:
        found = mappings.lock_mapping(tx, mapping_id, tenant_id=tenant_id)
    if found is None:
        raise NotFound("Not found")
    return found


def create_mapping(
    pool: ConnectionPool, open_account: OpenAccount, *, tenant_id: str, statement: MappingStatement, now: datetime
) -> PriceMapping:
    """Record what is said, once the account agrees.

    Raises:
        InvalidInput: the account has no such price, meter or item, or they do not fit; `field` names the member.
        NotAllowed: no key for this mode, or live without the switch.
        Conflict: the meter is mapped there already, or a customer would be billed twice.
        Unavailable: Stripe or Postgres cannot be asked; nothing was stored.
    """
    mapping, price = _checked(pool, open_account, _blank(uuid.uuid4(), tenant_id, now), statement, now=now)
    with transaction(pool) as tx:
        mappings.create_mapping(tx, mapping)
        _record(tx, mapping, price, now)
    return mapping


def change_mapping(
    pool: ConnectionPool,
    open_account: OpenAccount,
    mapping_id: UUID,
    *,
    tenant_id: str | None,
    members: Mapping[str, Any],
    now: datetime,
) -> PriceMapping:
    """Change these members of a mapping, by the names of its document; null clears one. Whose it is never changes.

    Raises:
        NotFound: there is none, or it is another tenant's.
        Conflict: somebody changed it meanwhile, or a delta of it is in flight.
        InvalidInput, NotAllowed, Unavailable: as `create_mapping`.
    """
    before = find_mapping(pool, mapping_id, tenant_id=tenant_id)
    said = statement_document(statement_of(before))
    if members.get("priceId") is not None and "eventName" not in members:
        said["eventName"] = None
    after, price = _checked(pool, open_account, before, parse_statement({**said, **members}), now=now)
    if after == before:
        return before
    after = replace(after, updated_at=now)
    with transaction(pool) as tx:
        if mappings.lock_mapping(tx, mapping_id, tenant_id=before.tenant_id) != before:
            raise Conflict("somebody else changed the mapping meanwhile: read it again")
        mappings.replace_mapping(tx, after)
        _record(tx, after, price, now)
    return after


def delete_mapping(pool: ConnectionPool, mapping_id: UUID, *, tenant_id: str | None) -> None:
    """Remove a mapping for which nothing was ever sent.

    Raises:
        NotFound: there is none, or it is another tenant's.
        Conflict: something was sent for it.
    """
    with transaction(pool) as tx:
        found = mappings.lock_mapping(tx, mapping_id, tenant_id=tenant_id)
        if found is None:
            raise NotFound("Not found")
        mappings.delete_mapping(tx, found)


def statement_of(mapping: PriceMapping) -> MappingStatement:
    """What was said for a mapping to be as it is."""
    return parse_statement(
        {
            "metric": mapping.meter,
            "aggregation": mapping.aggregation,
            "stripeAccount": mapping.billing_account_id or mapping.stripe_account_id,
            "priceId": mapping.price_id,
            "eventName": mapping.stripe_event_name if mapping.price_id is None else None,
            "subscriptionItemId": mapping.subscription_item_id,
            "currency": mapping.currency,
            "active": mapping.mode != "off",
            "shadow": mapping.is_shadow,
            "shadowStripeAccount": mapping.shadow_account_id,
            "shadowPriceId": mapping.shadow_price_id,
            "shadowSubscriptionItemId": mapping.shadow_subscription_item_id,
            "latePolicy": mapping.late_policy,
        }
    )


def require_countable(pool: ConnectionPool, *, tenant_id: str, meter: str, aggregation: str, now: datetime) -> None:
    """Refuse to bill distinct values that the counters do not keep.

    Raises:
        InvalidInput: `unique`, and the meter counts something else today.
    """
    if aggregation != "unique":
        return
    with transaction(pool) as tx:
        definition = load_rulebook(tx, [tenant_id]).of(tenant_id).meter_on(meter, day_of(now))
    if definition is None or definition.aggregation != "unique":
        raise invalid(
            f"unique needs a meter that counts distinct values, and {meter!r} does not: give it that aggregation first",
            "aggregation",
        )


def require_billed_once(
    pool: ConnectionPool, sink: BillingSink, *, tenant_id: str, stripe_account_id: str, stripe_customer_id: str
) -> None:
    """Refuse a customer two of whose items bill a meter that is mapped.

    Raises:
        Conflict: there is such a meter.
        Unavailable: Stripe cannot be asked.
    """
    with transaction(pool) as tx:
        fed = [
            mapping.stripe_meter_id
            for mapping in mappings.list_mappings(tx, tenant_id=tenant_id)
            if mapping.mode != "off" and mapping.stripe_account_id == stripe_account_id
        ]
    for stripe_meter_id in fed:
        assert stripe_meter_id is not None  # price_mappings_resolved
        require_one_item(sink, stripe_meter_id=stripe_meter_id, stripe_customer_id=stripe_customer_id)


def require_one_item(sink: BillingSink, *, stripe_meter_id: str, stripe_customer_id: str) -> None:
    """Refuse a customer whose usage of a meter would be billed twice.

    Source: Stripe bills a meter's usage per customer, so each active item on the meter bills all of it.

    Raises:
        Conflict: two items of the customer bill the meter.
        Unavailable: Stripe cannot be asked.
    """
    with asking():
        items = sink.list_metered_items(stripe_meter_id=stripe_meter_id, stripe_customer_id=stripe_customer_id)
    if len(items) > 1:
        raise Conflict(
            f"{stripe_customer_id} has {len(items)} subscription items on one meter ({', '.join(items[:5])}): each of "
            "them would bill all of its usage; leave one"
        )


def _blank(mapping_id: UUID, tenant_id: str, now: datetime) -> PriceMapping:
    return PriceMapping(
        id=mapping_id,
        tenant_id=tenant_id,
        meter="",
        aggregation="",
        stripe_account_id="",
        stripe_event_name=None,
        stripe_meter_id=None,
        mode="off",
        created_at=now,
    )


def _checked(
    pool: ConnectionPool, open_account: OpenAccount, before: PriceMapping, said: MappingStatement, *, now: datetime
) -> tuple[PriceMapping, StripePrice | None]:
    """The mapping that says this, with what the account told of it, and of its price where it was asked."""
    require_countable(pool, tenant_id=before.tenant_id, meter=said.metric, aggregation=said.aggregation, now=now)
    mapping = replace(
        before,
        meter=said.metric,
        aggregation=said.aggregation,
        stripe_account_id=said.target_account_id,
        stripe_event_name=said.event_name,
        stripe_meter_id=None,
        mode=said.mode,
        billing_account_id=said.stripe_account_id,
        price_id=said.price_id,
        subscription_item_id=said.subscription_item_id,
        currency=said.currency,
        is_shadow=said.is_shadow,
        shadow_account_id=said.shadow_account_id,
        shadow_price_id=said.shadow_price_id,
        shadow_subscription_item_id=said.shadow_subscription_item_id,
        late_policy=said.late_policy,
    )
    if mapping.mode == "off":
        if before.stripe_meter_id is not None and _feeds(said) == _feeds(statement_of(before)):
            return _feeding(mapping, before.stripe_event_name, before.stripe_meter_id), None
        return mapping, None
    sink = open_account(mapping.mode, mapping.stripe_account_id)
    stripe_meter, price = _ask(sink, said)
    with transaction(pool) as tx:
        bound = [
            binding.stripe_customer_id
            for binding in mappings.list_bindings(tx, tenant_id=before.tenant_id)
            if binding.stripe_account_id == mapping.stripe_account_id
        ]
    for customer in bound:
        require_one_item(sink, stripe_meter_id=stripe_meter.stripe_meter_id, stripe_customer_id=customer)
    return _feeding(mapping, stripe_meter.event_name, stripe_meter.stripe_meter_id), price


def _feeding(mapping: PriceMapping, event_name: str | None, stripe_meter_id: str | None) -> PriceMapping:
    return replace(mapping, stripe_event_name=event_name, stripe_meter_id=stripe_meter_id)


def _record(tx: Tx, mapping: PriceMapping, price: StripePrice | None, now: datetime) -> None:
    """Write down what the price costs, so that usage can be priced without asking Stripe."""
    if price is not None:
        record_price(tx, stripe_price_version(price, stripe_account_id=mapping.stripe_account_id, now=now))


def _feeds(said: MappingStatement) -> tuple[str, str | None, str | None]:
    """What decides which Stripe meter is fed."""
    return said.target_account_id, said.target_price[0], said.event_name


def _ask(sink: BillingSink, said: MappingStatement) -> tuple[StripeMeter, StripePrice | None]:
    """The meter that is fed, found in the account the key opens, and the price where one is named."""
    with asking():
        account = sink.account_id()
    if account != said.target_account_id:
        is_shadow_account = said.is_shadow and said.shadow_account_id is not None
        key = "STRIPE_TEST_SECRET_KEY" if said.is_shadow else "STRIPE_SECRET_KEY"
        raise InvalidInput(
            f"the key for {said.mode} pushes ({key}) belongs to {account}, not to {said.target_account_id}",
            field="shadowStripeAccount" if is_shadow_account else "stripeAccount",
        )
    with asking():
        found, price, field = _find_meter(sink, said)
    if not found.is_active:
        raise InvalidInput(f"Stripe meter {found.stripe_meter_id} is not active", field=field)
    if not found.is_additive:
        raise InvalidInput(
            f"Stripe meter {found.stripe_meter_id} ({found.event_name!r}) does not sum the deltas we send, so it "
            f"cannot hold a {said.aggregation}: it needs formula sum, no event_time_window, and the payload keys "
            "stripe_customer_id and value",
            field="aggregation",
        )
    return found, price


def _find_meter(sink: BillingSink, said: MappingStatement) -> tuple[StripeMeter, StripePrice | None, str]:
    price_id, field = said.target_price
    if price_id is None:
        assert said.event_name is not None  # a statement has one of the two
        named = sink.find_meter(said.event_name)
        if named is None:
            raise InvalidInput(f"the account has no active meter {said.event_name!r}", field="eventName")
        return named, None, "eventName"
    price = sink.find_price(price_id)
    if price is None or not price.is_active:
        raise InvalidInput(f"the account has no active price {price_id}", field=field)
    if price.stripe_meter_id is None:
        raise InvalidInput(f"price {price_id} bills no meter: it needs recurring.meter", field=field)
    if said.currency not in (None, price.currency):
        raise InvalidInput(f"price {price_id} is in {price.currency}, not {said.currency}", field="currency")
    item_id, item_field = said.target_item
    if item_id is not None and sink.find_item_price(item_id) != price_id:
        raise InvalidInput(f"the account has no subscription item {item_id} with price {price_id}", field=item_field)
    found = sink.find_meter_by_id(price.stripe_meter_id)
    if found is None:
        raise InvalidInput(f"the meter {price.stripe_meter_id} of price {price_id} does not exist", field=field)
    return found, price, field


@contextmanager
def asking() -> Iterator[None]:
    """Whatever keeps Stripe from answering a question is the same to who asks: nothing happened, try again."""
    try:
        yield
    except (StripeRejected, OutcomeUnknown) as error:
        raise Unavailable(f"Stripe could not be asked: {error}") from error
