"""/v1/mappings: which price bills a metric.

Belongs here: parameters, bodies as documents, the rows. Does not: what a mapping may say
(`metering.price_mappings`), what must hold at Stripe (`pipeline.price_mappings`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.parsing import invalid
from stripemeter.metering.price_mappings import parse_statement
from stripemeter.pipeline import price_mappings
from stripemeter.store.mappings import PriceMapping
from stripemeter_api.answers import JsonAnswer, instant
from stripemeter_api.cursors import from_microseconds, pack_cursor, to_microseconds, unpack_cursor
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.exact_bodies import ExactBodyRoute
from stripemeter_api.mapping_documents import ChangedMapping, MappingRow, NewMapping
from stripemeter_api.parameters import MAX_TEXT, OptionalCursor, OptionalMetric, TenantId, Text
from stripemeter_api.state import Accounts, Pool

MOST_ROWS = 1000
_MAPPING = "/{id}"
_NEXT = "x-next-cursor"
PathId = Annotated[Text, Path(alias="id", min_length=1, max_length=MAX_TEXT, description="The mapping's id, a UUID.")]
OptionalTenantId = Annotated[
    Text | None,
    Query(alias="tenantId", min_length=1, max_length=MAX_TEXT, description="With it, another tenant's is 404."),
]
_NOT_FOUND: dict[str, Any] = {"model": Problem, "description": "There is no such mapping of this tenant."}
_CHECKED: dict[int | str, dict[str, Any]] = {
    400: {
        "model": Problem,
        "description": "A member is not as it must be, or not so in the account; `errors` names it.",
    },
    403: {"model": Problem, "description": "No key for this mode, or live without STRIPEMETER_ALLOW_LIVE: only off."},
    409: {"model": Problem, "description": "The metric is mapped there already, or a customer would be billed twice."},
    503: {"model": Problem, "description": "Stripe or the database cannot be asked; nothing was stored. Try again."},
}

router = APIRouter(prefix="/v1/mappings", tags=["mappings"], route_class=ExactBodyRoute)


@router.get(
    "",
    response_model=list[MappingRow],
    responses={
        **READ_PROBLEMS,
        200: {
            "headers": {
                _NEXT: {"schema": {"type": "string"}, "description": "The `cursor` of the next page; absent: the last."}
            }
        },
    },
    summary="List price mappings",
)
def list_mappings(
    pool: Pool,
    tenant_id: TenantId,
    active: Annotated[bool | None, Query(description="Only those that are (not) off.")] = None,
    metric: OptionalMetric = None,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS, description="Rows of one page.")] = MOST_ROWS,
    cursor: OptionalCursor = None,
) -> JsonAnswer:
    """Oldest first, the off ones too."""
    listing = ("mappings", tenant_id, active, metric)
    page, has_more = price_mappings.list_mappings(
        pool,
        tenant_id=tenant_id,
        meter=metric,
        is_active=active,
        after=None if cursor is None else _after(cursor, listing),
        limit=limit,
    )
    answer = JsonAnswer([_row(mapping) for mapping in page])
    if has_more:
        last = page[-1]
        answer.headers[_NEXT] = pack_cursor(listing, (to_microseconds(last.created_at), str(last.id)))
    return answer


@router.post("", status_code=201, response_model=MappingRow, responses=_CHECKED, summary="Map a metric to a price")
def create_mapping(pool: Pool, accounts: Accounts, body: NewMapping) -> JsonAnswer:
    """Stored once the account agrees: the price, its meter, the item, the currency, and nobody billed twice."""
    mapping = price_mappings.create_mapping(
        pool,
        accounts,
        tenant_id=body.tenant_id,
        statement=parse_statement(_said(body)),
        now=datetime.now(UTC),
    )
    return JsonAnswer(_row(mapping), status_code=201)


@router.get(
    _MAPPING, response_model=MappingRow, responses={**READ_PROBLEMS, 404: _NOT_FOUND}, summary="A price mapping"
)
def read_mapping(pool: Pool, mapping_id: PathId, tenant_id: OptionalTenantId = None) -> JsonAnswer:
    """Of any tenant unless `tenantId` is given."""
    return JsonAnswer(_row(price_mappings.find_mapping(pool, _id(mapping_id), tenant_id=tenant_id)))


@router.put(
    _MAPPING, response_model=MappingRow, responses={**_CHECKED, 404: _NOT_FOUND}, summary="Change a price mapping"
)
def change_mapping(
    pool: Pool, accounts: Accounts, mapping_id: PathId, body: ChangedMapping, tenant_id: OptionalTenantId = None
) -> JsonAnswer:
    """Only the members that are sent. Switching it on, or changing what is on, asks the account again."""
    if tenant_id is not None and body.tenant_id not in (None, tenant_id):
        raise invalid("names another tenant than the query", "tenantId")
    mapping = price_mappings.change_mapping(
        pool,
        accounts,
        _id(mapping_id),
        tenant_id=tenant_id or body.tenant_id,
        members=_said(body),
        now=datetime.now(UTC),
    )
    return JsonAnswer(_row(mapping))


@router.delete(
    _MAPPING,
    status_code=204,
    responses={
        **READ_PROBLEMS,
        404: _NOT_FOUND,
        409: {"model": Problem, "description": "Usage was sent for it: set `active` to false instead."},
    },
    summary="Delete a price mapping",
)
def delete_mapping(pool: Pool, mapping_id: PathId, tenant_id: OptionalTenantId = None) -> Response:
    """Only one for which nothing was ever sent: what was stays explained."""
    price_mappings.delete_mapping(pool, _id(mapping_id), tenant_id=tenant_id)
    return Response(status_code=204)


def _said(body: ChangedMapping) -> dict[str, Any]:
    """The members that were sent, but for whose it is."""
    fields = type(body).model_fields
    return {fields[name].alias or name: getattr(body, name) for name in body.model_fields_set - {"tenant_id"}}


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound("Not found") from error


def _after(cursor: str, listing: tuple[object, ...]) -> tuple[datetime, UUID]:
    created_at, mapping_id = unpack_cursor(cursor, listing, (int, str))
    try:
        return from_microseconds(int(created_at)), UUID(str(mapping_id))
    except ValueError as error:
        raise InvalidInput("cursor is not a cursor of ours: send x-next-cursor as it came", field="cursor") from error


def _row(mapping: PriceMapping) -> dict[str, Any]:
    return {
        "id": str(mapping.id),
        "tenantId": mapping.tenant_id,
        "metric": mapping.meter,
        "aggregation": mapping.aggregation,
        "stripeAccount": mapping.billing_account_id or mapping.stripe_account_id,
        "priceId": mapping.price_id,
        "subscriptionItemId": mapping.subscription_item_id,
        "currency": mapping.currency,
        "active": mapping.mode != "off",
        "shadow": mapping.is_shadow,
        "shadowStripeAccount": mapping.shadow_account_id,
        "shadowPriceId": mapping.shadow_price_id,
        "shadowSubscriptionItemId": mapping.shadow_subscription_item_id,
        "latePolicy": mapping.late_policy,
        "mode": mapping.mode,
        "stripeEventName": mapping.stripe_event_name,
        "stripeMeterId": mapping.stripe_meter_id,
        "createdAt": instant(mapping.created_at),
        "updatedAt": instant(mapping.updated_at or mapping.created_at),
    }
