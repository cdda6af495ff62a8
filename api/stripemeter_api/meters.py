"""/v1/meters: what a tenant counts.

Belongs here: parameters, bodies as documents, the answers' members. Does not: what a change brings about
(`pipeline.meters`), what a definition means (`metering.meters`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.metering.meters import meter_document
from stripemeter.pipeline import meters
from stripemeter.pipeline.meters import MeterChange
from stripemeter.store.meters import RecordedVersion
from stripemeter_api.actors import ActorHeader, actor_of
from stripemeter_api.answers import JsonAnswer, instant
from stripemeter_api.documents import Problem
from stripemeter_api.errors import READ_PROBLEMS
from stripemeter_api.exact_bodies import ExactBodyRoute
from stripemeter_api.meter_documents import (
    MAX_VERSION,
    ChangedMeterAnswer,
    Day,
    MeterAnswer,
    MeterList,
    MeterStatement,
    NewMeterStatement,
)
from stripemeter_api.parameters import TenantId, Text
from stripemeter_api.state import Pool

_METER = "/{name}"
PathName = Annotated[Text, Path(min_length=1, max_length=100, description="The meter.", examples=["pro_calls"])]
_not_found: dict[str, Any] = {"model": Problem, "description": "There is no such meter."}
_conflict: dict[str, Any] = {"model": Problem, "description": "Another version is the newest; nothing changed."}
_created: dict[str, Any] = {"model": ChangedMeterAnswer, "description": "Its first version."}
_OF_THE_DEFINITION = (
    "name",
    "metrics",
    "filter",
    "value",
    "aggregation",
    "percentile",
    "dimensions",
    "max_groups",
)

router = APIRouter(prefix="/v1/meters", tags=["meters"], route_class=ExactBodyRoute)


@router.get("", response_model=MeterList, responses=READ_PROBLEMS, summary="List meters")
def list_meters(
    pool: Pool,
    tenant_id: TenantId,
    day: Annotated[Day | None, Query(description="The UTC day they count; absent: today.")] = None,
) -> JsonAnswer:
    """The meters that count a day, each in the version that does, by name."""
    found = meters.list_meters(pool, tenant_id, day or datetime.now(UTC).date())
    return JsonAnswer({"meters": [_version(recorded) for recorded in found]})


@router.post(
    "",
    status_code=201,
    response_model=ChangedMeterAnswer,
    responses={
        **READ_PROBLEMS,
        200: {"model": ChangedMeterAnswer, "description": "The same request made it before."},
        409: {"model": Problem, "description": "There is another meter of this name."},
    },
    summary="Create a meter",
)
def create_meter(pool: Pool, body: NewMeterStatement, x_actor: ActorHeader = None) -> JsonAnswer:
    """Counts all of history unless `effectiveFrom` says otherwise; a deleted meter may be created again."""
    change = meters.create_meter(
        pool,
        body.tenant_id,
        _definition(body),
        effective_on=body.effective_from,
        actor=actor_of(None, x_actor),
        expected_version=body.expected_version,
        now=datetime.now(UTC),
    )
    return _changed(change, 201 if change.is_changed else 200)


@router.get(
    _METER, response_model=MeterAnswer, responses={**READ_PROBLEMS, 404: _not_found}, summary="A meter and its versions"
)
def read_meter(pool: Pool, name: PathName, tenant_id: TenantId) -> JsonAnswer:
    """The newest version, and every one there was; a deleted meter too."""
    versions = meters.find_meter(pool, tenant_id, name)
    if not versions:
        raise NotFound(f"there is no meter {name!r}")
    return JsonAnswer({**_version(versions[-1]), "versions": [_version(recorded) for recorded in versions]})


@router.put(
    _METER,
    response_model=ChangedMeterAnswer,
    responses={**READ_PROBLEMS, 201: _created, 409: _conflict},
    summary="Say what a meter counts",
)
def put_meter(pool: Pool, name: PathName, body: MeterStatement, x_actor: ActorHeader = None) -> JsonAnswer:
    """The whole definition; what is absent has its default. Saying the same again changes nothing."""
    change = meters.put_meter(
        pool,
        body.tenant_id,
        {**_definition(body), "name": _same_name(body, name)},
        effective_on=body.effective_from,
        actor=actor_of(None, x_actor),
        expected_version=body.expected_version,
        now=datetime.now(UTC),
    )
    return _changed(change, 201 if change.is_created else 200)


@router.delete(
    _METER,
    response_model=ChangedMeterAnswer,
    responses={**READ_PROBLEMS, 404: _not_found, 409: _conflict},
    summary="End a meter",
)
def delete_meter(
    pool: Pool,
    name: PathName,
    tenant_id: TenantId,
    effective_from: Annotated[
        Day | None, Query(alias="effectiveFrom", description="First UTC day it no longer counts; absent: today.")
    ] = None,
    expected_version: Annotated[
        int | None,
        Query(alias="expectedVersion", ge=1, le=MAX_VERSION, description="409 when another version is the newest."),
    ] = None,
    x_actor: ActorHeader = None,
) -> JsonAnswer:
    """Makes a version that counts nothing; the days before keep what it counted."""
    change = meters.delete_meter(
        pool,
        tenant_id,
        name,
        effective_on=effective_from,
        actor=actor_of(None, x_actor),
        expected_version=expected_version,
        now=datetime.now(UTC),
    )
    return _changed(change, 200)


def _definition(body: MeterStatement) -> dict[str, Any]:
    """The members of the definition as they were sent."""
    fields = type(body).model_fields
    return {fields[name].alias or name: getattr(body, name) for name in _OF_THE_DEFINITION}


def _same_name(body: MeterStatement, name: str) -> str:
    if body.name is not None and body.name != name:
        raise InvalidInput(f"name: the path says {name!r}; to rename a meter, create another", field="name")
    return name


def _changed(change: MeterChange, status: int) -> JsonAnswer:
    answer = {**_version(change.versions[-1]), "recount": {"pendingDays": change.pending_days}}
    return JsonAnswer(answer, status_code=status)


def _version(recorded: RecordedVersion) -> dict[str, Any]:
    version = recorded.version
    return {
        **meter_document(version.definition),
        "version": version.version,
        "effectiveFrom": version.effective_on.isoformat(),
        "isActive": version.is_active,
        "actor": recorded.actor,
        "createdAt": instant(recorded.created_at),
    }
