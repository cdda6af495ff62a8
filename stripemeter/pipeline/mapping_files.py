"""Files of price mappings: what is recorded, and making it what a file says.

Belongs here: reading the tables for a plan, carrying a plan out. Does not: planning (`metering.mapping_files`), what
must hold at Stripe (`pipeline.price_mappings`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from psycopg_pool import ConnectionPool

from stripemeter.billing.sink import BillingSink, Mode
from stripemeter.errors import NotAllowed, NotFound
from stripemeter.metering.mapping_files import Binding, MappingChange, RecordedStatement
from stripemeter.metering.price_mappings import statement_document
from stripemeter.pipeline.price_mappings import (
    OpenAccount,
    change_mapping,
    create_mapping,
    require_billed_once,
    statement_of,
)
from stripemeter.store import mappings
from stripemeter.store.mappings import CustomerBinding
from stripemeter.store.postgres import transaction

_MODES: tuple[Mode, ...] = ("shadow", "live")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What is so for a tenant: mappings from oldest to newest, customers by reference."""

    statements: list[RecordedStatement]
    bindings: list[Binding]


def load_recorded(pool: ConnectionPool, tenant_id: str) -> Recorded:
    """The tenant's mappings and bindings.

    Raises:
        Unavailable: Postgres does not answer.
    """
    with transaction(pool) as tx:
        found = sorted(mappings.list_mappings(tx, tenant_id=tenant_id), key=lambda each: (each.created_at, each.id))
        bindings = mappings.list_bindings(tx, tenant_id=tenant_id)
    return Recorded(
        statements=[RecordedStatement(id=each.id, statement=statement_of(each)) for each in found],
        bindings=[
            Binding(
                customer_ref=each.customer_ref,
                stripe_account_id=each.stripe_account_id,
                stripe_customer_id=each.stripe_customer_id,
            )
            for each in bindings
        ],
    )


def apply_mapping(
    pool: ConnectionPool, open_account: OpenAccount, *, tenant_id: str, change: MappingChange, now: datetime
) -> None:
    """Carry out one change of a plan.

    Raises:
        InvalidInput, NotAllowed, Conflict, Unavailable: as `create_mapping` and `change_mapping`.
    """
    if change.id is None:
        create_mapping(pool, open_account, tenant_id=tenant_id, statement=change.statement, now=now)
        return
    said = replace(change.statement, is_active=False) if change.action == "off" else change.statement
    change_mapping(pool, open_account, change.id, tenant_id=tenant_id, members=statement_document(said), now=now)


def apply_binding(
    pool: ConnectionPool, open_account: OpenAccount, *, tenant_id: str, binding: Binding, now: datetime
) -> None:
    """Bind a customer. While nothing is sent to the account and no key opens it, Stripe is not asked.

    Raises:
        NotAllowed: usage is sent there, and no key opens it.
        NotFound: the account has no such customer.
        Conflict: either side is bound to somebody else, or two items of the customer bill one mapped meter.
        Unavailable, OutcomeUnknown: Stripe or Postgres cannot be asked.
    """
    sink = _account(open_account, binding.stripe_account_id)
    if sink is not None:
        if sink.find_customer(binding.stripe_customer_id) is None:
            raise NotFound(f"no customer {binding.stripe_customer_id} in {binding.stripe_account_id}")
        require_billed_once(
            pool,
            sink,
            tenant_id=tenant_id,
            stripe_account_id=binding.stripe_account_id,
            stripe_customer_id=binding.stripe_customer_id,
        )
    with transaction(pool) as tx:
        is_fed = any(
            each.mode != "off" and each.stripe_account_id == binding.stripe_account_id
            for each in mappings.list_mappings(tx, tenant_id=tenant_id)
        )
        if is_fed and sink is None:
            raise NotAllowed(f"usage is sent to {binding.stripe_account_id}, and no Stripe key of ours opens it")
        mappings.bind_customer(
            tx,
            CustomerBinding(
                tenant_id=tenant_id,
                customer_ref=binding.customer_ref,
                stripe_account_id=binding.stripe_account_id,
                stripe_customer_id=binding.stripe_customer_id,
                created_at=now,
            ),
        )


def _account(open_account: OpenAccount, stripe_account_id: str) -> BillingSink | None:
    """The account by its id, among those a key opens."""
    for mode in _MODES:
        try:
            sink = open_account(mode, stripe_account_id)
        except NotAllowed:
            continue  # no key for this mode: the other may open it
        if sink.account_id() == stripe_account_id:
            return sink
    return None
