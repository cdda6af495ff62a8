"""/v1/customers/...: what is said of customers: time zone, other references, billing windows, Stripe.

Belongs here: parameters, bodies as values, the answers' members. Does not: what a change moves (`pipeline.customers`).

A reference is any text: in a path a slash of it is written %2F (`raw_paths`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from stripemeter.errors import InvalidInput
from stripemeter.metering.segments import BEGINNING, BillingPhase, parse_boundary, parse_phase, segment_at
from stripemeter.metering.windows import parse_time_zone
from stripemeter.pipeline import customers
from stripemeter.pipeline.customers import ChangedCustomer, CustomerChange, StripeLink
from stripemeter.store.customers import Customer, CustomerPhase
from stripemeter_api.answers import JsonAnswer, instant
from stripemeter_api.cursors import pack_cursor, unpack_cursor
from stripemeter_api.customer_documents import (
    BillingStatement,
    ChangedCustomerAnswer,
    CustomerAnswer,
    CustomerPage,
    CustomerStatement,
    PhaseStatement,
    SplitStatement,
    StripeStatement,
)
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.parameters import MAX_TEXT, Instant, Limit, OptionalCursor, TenantId, Text
from stripemeter_api.raw_paths import RawPathRoute
from stripemeter_api.state import Pool

_CUSTOMER = "/{customerRef}"
_ref = Path(alias="customerRef", min_length=1, max_length=MAX_TEXT, description="The customer.", examples=["cust_123"])
PathRef = Annotated[Text, _ref]
PathAlias = Annotated[
    Text, Path(alias="aliasRef", min_length=1, max_length=MAX_TEXT, description="One of its other references.")
]
_WRITE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    409: {"model": Problem, "description": "It clashes with what is recorded; nothing changed."},
}
_DELETE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **READ_PROBLEMS,
    404: {"model": Problem, "description": "There is no such thing."},
}

router = APIRouter(prefix="/v1/customers", tags=["customers"], route_class=RawPathRoute)


@router.get("", response_model=CustomerPage, responses=READ_PROBLEMS, summary="List customers")
def list_customers(pool: Pool, tenant_id: TenantId, limit: Limit = 25, cursor: OptionalCursor = None) -> JsonAnswer:
    """Customers somebody said something about, by reference; others exist from their first event."""
    listing = ("customers", tenant_id)
    after = None if cursor is None else _cursor_ref(cursor, listing)
    page, has_more = customers.list_customers(pool, tenant_id=tenant_id, after=after, limit=limit)
    return JsonAnswer(
        {
            "customers": [_customer(customer) for customer in page],
            "hasMore": has_more,
            "nextCursor": pack_cursor(listing, (page[-1].customer_ref,)) if has_more else None,
        }
    )


@router.post(
    f"{_CUSTOMER}/splits",
    response_model=ChangedCustomerAnswer,
    responses=_WRITE_PROBLEMS,
    summary="Split a segment",
)
def split_segment(pool: Pool, customer_ref: PathRef, body: SplitStatement) -> JsonAnswer:
    """Cuts the segment that holds an instant, as a price change does; the rhythm goes on. Twice is once."""
    at = parse_boundary(body.at, field="at")
    changed = customers.split_segment(
        pool,
        tenant_id=body.tenant_id,
        customer_ref=customer_ref,
        at=at,
        meter=body.meter or "",
        reason=body.reason,
        now=datetime.now(UTC),
    )
    return _changed(changed, at, body.meter or "")


@router.delete(
    f"{_CUSTOMER}/aliases/{{aliasRef}}",
    response_model=ChangedCustomerAnswer,
    responses=_DELETE_PROBLEMS,
    summary="Remove an alias",
)
def remove_alias(pool: Pool, customer_ref: PathRef, alias_ref: PathAlias, tenant_id: TenantId) -> JsonAnswer:
    """Makes the reference a customer of its own again: its events, past ones too, count for itself."""
    now = datetime.now(UTC)
    changed = customers.remove_alias(pool, tenant_id=tenant_id, customer_ref=customer_ref, alias_ref=alias_ref, now=now)
    return _changed(changed, now, "")


@router.get(_CUSTOMER, response_model=CustomerAnswer, responses=READ_PROBLEMS, summary="A customer and its segment")
def read_customer(
    pool: Pool,
    customer_ref: PathRef,
    tenant_id: TenantId,
    at: Annotated[Instant | None, Query(description="Instant of the segment; now when absent.")] = None,
    meter: Annotated[Text | None, Query(min_length=1, max_length=100, description="Meter of the segment.")] = None,
) -> JsonAnswer:
    """What is said of the customer; the defaults while nothing is. An alias answers with its customer."""
    customer = customers.find_customer(pool, tenant_id=tenant_id, ref=customer_ref)
    return JsonAnswer({**_customer(customer), "segment": _segment(customer, at or datetime.now(UTC), meter or "")})


@router.put(
    _CUSTOMER,
    response_model=ChangedCustomerAnswer,
    responses=_WRITE_PROBLEMS,
    summary="Say something of a customer",
)
def put_customer(pool: Pool, customer_ref: PathRef, tenant_id: TenantId, body: CustomerStatement) -> JsonAnswer:
    """All of it or nothing; absent members stay. What other references or windows move is counted again."""
    now = datetime.now(UTC)
    changed = customers.put_customer(
        pool, tenant_id=tenant_id, customer_ref=customer_ref, change=_change(body), now=now
    )
    return _changed(changed, now, "")


@router.delete(
    _CUSTOMER,
    response_model=ChangedCustomerAnswer,
    responses=_DELETE_PROBLEMS,
    summary="Forget what was said of a customer",
)
def delete_customer(pool: Pool, customer_ref: PathRef, tenant_id: TenantId) -> JsonAnswer:
    """Time zone, aliases, phases and items; its events and its Stripe customer stay."""
    now = datetime.now(UTC)
    changed = customers.delete_customer(pool, tenant_id=tenant_id, customer_ref=customer_ref, now=now)
    return _changed(changed, now, "")


def _change(body: CustomerStatement) -> CustomerChange:
    if body.billing is not None and body.phases is not None:
        raise InvalidInput("billing and phases say the same: send one of them", field="billing")
    if body.time_zone is not None:
        parse_time_zone(body.time_zone)
    return CustomerChange(
        time_zone=body.time_zone,
        aliases=None if body.aliases is None else tuple(body.aliases),
        billing=None if body.billing is None else _billing(body.billing),
        phases=None
        if body.phases is None
        else tuple(_phase(phase, f"phases[{index}]") for index, phase in enumerate(body.phases)),
        stripe=None if body.stripe is None else _link(body.stripe),
    )


def _billing(said: BillingStatement) -> BillingPhase:
    return parse_phase(cadence=said.cadence, count=said.count, anchor_at=said.anchor_at, field="billing")


def _phase(said: PhaseStatement, field: str) -> CustomerPhase:
    phase = parse_phase(
        cadence=said.cadence, count=said.count, anchor_at=said.anchor_at, starts_at=said.starts_at, field=field
    )
    return CustomerPhase(meter=said.meter or "", phase=phase, reason=said.reason)


def _link(said: StripeStatement) -> StripeLink:
    subscription = said.subscription_id
    if said.items and subscription is None:
        raise InvalidInput("stripe.subscriptionId is required with items", field="stripe.subscriptionId")
    meters = [item.meter for item in said.items or ()]
    for index, meter in enumerate(meters):
        if meter in meters[:index]:
            field = f"stripe.items[{index}].meter"
            raise InvalidInput(f"{field}: {meter!r} has an item already", field=field)
    return StripeLink(
        account_id=said.account_id,
        customer_id=said.customer_id,
        items=None
        if said.items is None
        else tuple((item.meter, subscription or "", item.item_id) for item in said.items),
    )


def _changed(changed: ChangedCustomer, at: datetime, meter: str) -> JsonAnswer:
    return JsonAnswer(
        {
            **_customer(changed.customer),
            "segment": _segment(changed.customer, at, meter),
            "recountPendingDays": changed.pending_days,
        }
    )


def _customer(customer: Customer) -> dict[str, Any]:
    return {
        "customerRef": customer.customer_ref,
        "timeZone": customer.time_zone,
        "aliases": list(customer.aliases),
        "phases": [
            {
                "meter": each.meter or None,
                "startsAt": None if each.phase.starts_at == BEGINNING else instant(each.phase.starts_at),
                "cadence": each.phase.cadence,
                "count": each.phase.cadence_count,
                "anchorAt": instant(each.phase.anchor_at),
                "reason": each.reason,
            }
            for each in customer.phases
        ],
        "stripe": [
            {
                "accountId": binding.stripe_account_id,
                "customerId": binding.stripe_customer_id,
                "items": [
                    {"meter": item.meter, "subscriptionId": item.stripe_subscription_id, "itemId": item.stripe_item_id}
                    for item in customer.items
                    if item.stripe_account_id == binding.stripe_account_id
                ],
            }
            for binding in customer.bindings
        ],
        "createdAt": None if customer.created_at is None else instant(customer.created_at),
        "updatedAt": None if customer.updated_at is None else instant(customer.updated_at),
    }


def _segment(customer: Customer, at: datetime, meter: str) -> dict[str, str]:
    segment = segment_at(customer.phases_of(meter), at)
    return {"start": instant(segment.start), "end": instant(segment.end)}


def _cursor_ref(cursor: str, listing: tuple[object, ...]) -> str:
    (ref,) = unpack_cursor(cursor, listing, (str,))
    if "\x00" in str(ref):
        raise InvalidInput("cursor is not a cursor of ours: send nextCursor as it came", field="cursor")
    return str(ref)
