"""Setting up what is pushed: mapping a meter, binding a customer, letting a refused customer go on.

Belongs here: what an operator states, checked against Stripe before it is recorded. Does not: pushing.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from uuid import UUID

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink
from stripemeter.errors import Conflict, NotFound
from stripemeter.metering.price_mappings import parse_aggregation
from stripemeter.pipeline.price_mappings import require_billed_once, require_countable
from stripemeter.store import mappings, push_entries
from stripemeter.store.mappings import CustomerBinding, PriceMapping
from stripemeter.store.postgres import transaction


def map_meter(
    pool: ConnectionPool,
    sink: BillingSink,
    *,
    tenant_id: str,
    meter: str,
    event_name: str,
    aggregation: str,
    now: datetime,
) -> PriceMapping:
    """Feed a Stripe meter, made when there is none, from a meter of ours. Saying the same again changes nothing.

    Raises:
        InvalidInput: an aggregation that is not billed, or not counted; nothing was created.
        Conflict: the Stripe meter does not add deltas up, or something else is mapped.
    """
    parse_aggregation(aggregation, "aggregation")
    require_countable(pool, tenant_id=tenant_id, meter=meter, aggregation=aggregation, now=now)
    account = sink.account_id()
    with transaction(pool) as tx:
        existing = mappings.find_mapping(tx, tenant_id=tenant_id, meter=meter, stripe_account_id=account)
    if existing is not None:
        if (existing.stripe_event_name, existing.aggregation, existing.mode) == (event_name, aggregation, sink.mode):
            return existing
        raise Conflict(
            f"meter {meter!r} already feeds {existing.stripe_event_name!r} by {existing.aggregation} "
            f"({existing.mode}): turn that mapping off first"
        )
    stripe_meter = sink.ensure_meter(event_name=event_name, display_name=meter)
    if not stripe_meter.is_additive:
        raise Conflict(
            f"Stripe meter {stripe_meter.stripe_meter_id} ({event_name!r}) does not sum the deltas we send: it needs "
            "formula sum, no event_time_window, and the payload keys stripe_customer_id and value"
        )
    mapping = PriceMapping(
        id=uuid.uuid4(),
        tenant_id=tenant_id,
        meter=meter,
        aggregation=aggregation,
        stripe_account_id=account,
        stripe_event_name=event_name,
        stripe_meter_id=stripe_meter.stripe_meter_id,
        mode=sink.mode,
        is_shadow=sink.mode == "shadow",
        created_at=now,
    )
    with transaction(pool) as tx:
        mappings.create_mapping(tx, mapping)
    return mapping


def unmap_meter(pool: ConnectionPool, sink: BillingSink, *, tenant_id: str, meter: str) -> None:
    """Stop sending for a meter; what was sent stays known.

    Raises:
        NotFound: it is not mapped at this account.
        Conflict: a delta of it is in flight: its outcome must be known first.
    """
    with transaction(pool) as tx:
        mappings.turn_off_mapping(tx, tenant_id=tenant_id, meter=meter, stripe_account_id=sink.account_id())


def bind(
    pool: ConnectionPool,
    sink: BillingSink,
    *,
    tenant_id: str,
    customer_ref: str,
    stripe_customer_id: str | None,
    now: datetime,
) -> CustomerBinding:
    """Bind a customer to a Stripe customer; without one, to a new one. Saying the same again changes nothing.

    Raises:
        NotFound: no such Stripe customer in this account.
        Conflict: either side is bound to somebody else, or two items of the customer bill one mapped meter.
        Unavailable: Stripe cannot be asked.
    """
    account = sink.account_id()
    with transaction(pool) as tx:
        bound = mappings.find_binding(tx, tenant_id=tenant_id, customer_ref=customer_ref, stripe_account_id=account)
    stripe_customer_id = stripe_customer_id or bound
    if stripe_customer_id is None:
        # A retry after a lost answer gets the customer it made.
        key = hashlib.sha256(f"{account}\x1f{tenant_id}\x1f{customer_ref}".encode()).hexdigest()
        stripe_customer_id = sink.create_customer(name=customer_ref, idempotency_key=f"bind_{key[:40]}")
    elif sink.find_customer(stripe_customer_id) is None:
        raise NotFound(f"no customer {stripe_customer_id} in {account}")
    elif stripe_customer_id != bound:
        require_billed_once(
            pool, sink, tenant_id=tenant_id, stripe_account_id=account, stripe_customer_id=stripe_customer_id
        )
    binding = CustomerBinding(
        tenant_id=tenant_id,
        customer_ref=customer_ref,
        stripe_account_id=account,
        stripe_customer_id=stripe_customer_id,
        created_at=now,
    )
    with transaction(pool) as tx:
        mappings.bind_customer(tx, binding)
    return binding


def release_entry(pool: ConnectionPool, *, tenant_id: str, entry_id: UUID, now: datetime) -> None:
    """Let the customer of a rejected row go on, once the cause is repaired: its delta is planned again.

    Raises:
        NotFound: no rejected row with this id waits.
    """
    with transaction(pool) as tx:
        if not push_entries.release(tx, tenant_id=tenant_id, entry_id=entry_id, now=now):
            raise NotFound(f"no rejected push entry {entry_id} waits for tenant {tenant_id!r}")
