"""/v1/simulations: scenarios that are kept, runs of them, and batches of runs.

Belongs here: parameters, bodies as statements, the original's words for what is refused. Does not:
the answers' members (`simulation_answers`), carrying a run out (`pipeline.simulations`, which a Dagster run does).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from stripemeter.errors import InvalidInput, NotFound, ScenarioError
from stripemeter.metering.parsing import invalid
from stripemeter.pipeline import request_simulation, scenarios
from stripemeter.pipeline.request_simulation import RunWish
from stripemeter.pricing.reading import within
from stripemeter.store.scenarios import ScenarioSort
from stripemeter.store.simulations import RunStatus, RunType
from stripemeter_api.answers import JsonAnswer, instant
from stripemeter_api.bounded_bodies import BoundedBodyRoute
from stripemeter_api.errors import READ_PROBLEMS, answer_invalid_request, answer_our_error, problem_items
from stripemeter_api.events import MAX_OFFSET
from stripemeter_api.parameters import MAX_TEXT, Limit, SortDirection, Text
from stripemeter_api.simulation_answers import batch_answer, run_answer, run_row, scenario_answer, scenario_row
from stripemeter_api.simulation_documents import (
    BatchAccepted,
    BatchAnswer,
    BatchStatement,
    ScenarioAnswer,
    ScenarioChange,
    ScenarioChanged,
    ScenarioCreated,
    ScenarioPage,
    ScenarioStatement,
    SimulationAccepted,
    SimulationAnswer,
    SimulationPage,
    SimulationProblem,
    SimulationStatement,
)
from stripemeter_api.state import Pool

BODY_BYTES = 1_048_576
INVALID_BODY = "Invalid request body"
INVALID_SCENARIO = "Invalid scenario configuration"
QUEUED = "Simulation run queued successfully"
BATCH_QUEUED = "Simulation batch queued successfully"
_SCENARIO, _RUN, _BATCH = "/scenarios/{id}", "/runs/{id}", "/batch/{id}"

_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": SimulationProblem, "description": "A member is not as it must be; `details` names its path."},
    413: {"model": SimulationProblem, "description": "The body is too large; nothing was stored."},
    503: READ_PROBLEMS[503],
}
_NO_SCENARIO: dict[str, Any] = {"model": SimulationProblem, "description": "Scenario not found."}
_OUT_OF_USE: dict[str, Any] = {"model": SimulationProblem, "description": "The scenario is deactivated."}

OptionalTenantId = Annotated[
    Text | None,
    Query(alias="tenantId", min_length=1, max_length=MAX_TEXT, description="Only this tenant's; another's is 404."),
]
PathId = Annotated[Text, Path(alias="id", min_length=1, max_length=MAX_TEXT, description="A UUID.")]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Rows to skip.")]


class _Route(BoundedBodyRoute):
    """Bounded by BODY_BYTES; what is refused is called what the original called it."""

    limit = "simulation_body_bytes"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with the original's `error` and `details` in what it refuses."""
        answer = super().get_route_handler()

        async def answer_as_the_original(request: Request) -> Response:
            try:
                return await answer(request)
            except NotFound as error:
                return answer_our_error(request, error, error=str(error))
            except InvalidInput as error:
                name = INVALID_SCENARIO if isinstance(error, ScenarioError) else INVALID_BODY
                details = [{"path": error.field, "message": str(error)}]
                return answer_our_error(request, error, error=name, details=details)
            except RequestValidationError as error:
                is_body = all(found["loc"][0] == "body" for found in error.errors())
                words = {"error": INVALID_BODY} if is_body else {}
                return answer_invalid_request(request, error, **words, details=problem_items(error))

        return answer_as_the_original


router = APIRouter(prefix="/v1/simulations", tags=["simulations"], route_class=_Route)


@router.get("/scenarios", response_model=ScenarioPage, responses=READ_PROBLEMS, summary="List scenarios")
def list_scenarios(
    *,
    pool: Pool,
    tenant_id: OptionalTenantId = None,
    active: Annotated[bool | None, Query(description="Only those that are (not) in use.")] = None,
    tag: Annotated[
        Text | None, Query(min_length=1, max_length=MAX_TEXT, description="Only those that have it.")
    ] = None,
    limit: Limit = 20,
    offset: Offset = 0,
    sort_by: Annotated[ScenarioSort, Query(alias="sortBy", description="Equals by id.")] = "createdAt",
    sort_order: Annotated[SortDirection, Query(alias="sortOrder")] = "desc",
) -> JsonAnswer:
    """Without their inputs."""
    page, total = scenarios.list_scenarios(
        pool,
        tenant_id=tenant_id,
        is_active=active,
        tag=tag,
        sort=sort_by,
        direction=sort_order,
        limit=limit,
        offset=offset,
    )
    rows = [scenario_row(scenario) for scenario in page]
    return JsonAnswer({"scenarios": rows, "total": total, "limit": limit, "offset": offset})


@router.post(
    "/scenarios", status_code=201, response_model=ScenarioCreated, responses=_REFUSED, summary="Keep a scenario"
)
def create_scenario(pool: Pool, body: ScenarioStatement) -> JsonAnswer:
    """Run once without effect before it is stored; a long story is only read, and shows at its run what ails it."""
    made = scenarios.create_scenario(pool, tenant_id=body.tenant_id, statement=_said(body), now=datetime.now(UTC))
    return JsonAnswer({"id": str(made.id), "name": made.name, "createdAt": instant(made.created_at)}, status_code=201)


@router.get(
    _SCENARIO,
    response_model=ScenarioAnswer,
    responses={**READ_PROBLEMS, 404: _NO_SCENARIO},
    summary="Read a scenario",
)
def read_scenario(pool: Pool, scenario_id: PathId, tenant_id: OptionalTenantId = None) -> JsonAnswer:
    """As it is now."""
    found = scenarios.find_scenario(pool, _id(scenario_id, "Scenario"), tenant_id=tenant_id)
    return JsonAnswer(scenario_answer(found))


@router.put(
    _SCENARIO,
    response_model=ScenarioChanged,
    responses={
        **_REFUSED,
        404: _NO_SCENARIO,
        409: {"model": SimulationProblem, "description": "Somebody else changed it meanwhile; nothing was stored."},
    },
    summary="Change a scenario",
)
def change_scenario(
    pool: Pool, scenario_id: PathId, body: ScenarioChange, tenant_id: OptionalTenantId = None
) -> JsonAnswer:
    """Only the members that are sent. What comes of it is checked as a new scenario is; ended runs stay as they are."""
    if tenant_id is not None and body.tenant_id not in (None, tenant_id):
        raise invalid("names another tenant than the query", "tenantId")
    changed = scenarios.change_scenario(
        pool,
        _id(scenario_id, "Scenario"),
        tenant_id=tenant_id or body.tenant_id,
        members=_said(body),
        is_active=body.active,
        now=datetime.now(UTC),
    )
    return JsonAnswer({"id": str(changed.id), "name": changed.name, "updatedAt": instant(changed.updated_at)})


@router.delete(
    _SCENARIO,
    status_code=204,
    responses={**READ_PROBLEMS, 404: _NO_SCENARIO},
    summary="Deactivate a scenario",
)
def deactivate_scenario(pool: Pool, scenario_id: PathId, tenant_id: OptionalTenantId = None) -> Response:
    """It and its runs stay, and it is not run any more; `active` brings it back."""
    identifier = _id(scenario_id, "Scenario")
    scenarios.deactivate_scenario(pool, identifier, tenant_id=tenant_id, now=datetime.now(UTC))
    return Response(status_code=204)


@router.post(
    "/runs",
    status_code=202,
    response_model=SimulationAccepted,
    responses={**_REFUSED, 404: _NO_SCENARIO, 409: _OUT_OF_USE},
    summary="Ask for a run",
)
def create_run(pool: Pool, body: SimulationStatement) -> JsonAnswer:
    """Answered when the run and its copy of the scenario are on disk; it is carried out within a minute."""
    if (body.scenario_id is None) == (body.scenario is None):
        raise invalid("needs either scenarioId or scenario", "scenarioId")
    wish = RunWish(
        run_type=body.run_type,
        name=body.name,
        description=body.description,
        metadata=body.metadata,
        seed=body.seed,
        driver=body.driver,
    )
    now = datetime.now(UTC)
    if body.scenario_id is not None:
        run_id = request_simulation.request_stored(pool, body.scenario_id, tenant_id=body.tenant_id, wish=wish, now=now)
    else:
        assert body.scenario is not None
        try:
            run_id = request_simulation.request_given(pool, body.scenario, tenant_id=body.tenant_id, wish=wish, now=now)
        except ScenarioError as error:
            raise ScenarioError(f"scenario: {error}", field=within("scenario", error.field)) from error
    return JsonAnswer({"runId": str(run_id), "status": "pending", "message": QUEUED}, status_code=202)


@router.get("/runs", response_model=SimulationPage, responses=READ_PROBLEMS, summary="List runs")
def list_runs(
    *,
    pool: Pool,
    tenant_id: OptionalTenantId = None,
    scenario_id: Annotated[UUID | None, Query(alias="scenarioId", description="Only of this scenario.")] = None,
    status: Annotated[RunStatus | None, Query(description="Only these.")] = None,
    run_type: Annotated[RunType | None, Query(alias="runType", description="Only these.")] = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> JsonAnswer:
    """Newest first, without scenarios and results."""
    page, total = request_simulation.list_runs(
        pool,
        tenant_id=tenant_id,
        scenario_id=scenario_id,
        status=status,
        run_type=run_type,
        limit=limit,
        offset=offset,
    )
    return JsonAnswer({"runs": [run_row(run) for run in page], "total": total, "limit": limit, "offset": offset})


_NO_RUN: dict[str, Any] = {"model": SimulationProblem, "description": "Run not found."}


@router.get(_RUN, response_model=SimulationAnswer, responses={**READ_PROBLEMS, 404: _NO_RUN}, summary="Read a run")
def read_run(pool: Pool, run_id: PathId, tenant_id: OptionalTenantId = None) -> JsonAnswer:
    """As it stands, with its copy of the scenario, what came, and each expected value."""
    return JsonAnswer(run_answer(*request_simulation.find_run(pool, _id(run_id, "Run"), tenant_id=tenant_id)))


@router.post(
    f"{_RUN}/cancel",
    response_model=SimulationAnswer,
    responses={
        **READ_PROBLEMS,
        404: _NO_RUN,
        409: {"model": SimulationProblem, "description": "It had ended otherwise; nothing changed."},
    },
    summary="Cancel a run",
)
def cancel_run(pool: Pool, run_id: PathId, tenant_id: OptionalTenantId = None) -> JsonAnswer:
    """Stops it for good, waiting or begun: what it finds is not stored. Doing it again changes nothing."""
    identifier = _id(run_id, "Run")
    request_simulation.cancel_run(pool, identifier, tenant_id=tenant_id, now=datetime.now(UTC))
    return JsonAnswer(run_answer(*request_simulation.find_run(pool, identifier, tenant_id=tenant_id)))


@router.post("/batch", status_code=202, response_model=BatchAccepted, responses=_REFUSED, summary="Ask for a batch")
def create_batch(pool: Pool, body: BatchStatement) -> JsonAnswer:
    """One run of each scenario as it is now; one that is not there, or deactivated, is 400 and nothing is stored."""
    batch_id = request_simulation.request_batch(
        pool,
        body.scenario_ids,
        tenant_id=body.tenant_id,
        name=body.name,
        description=body.description,
        wish=RunWish(run_type=body.run_type, driver=body.driver),
        now=datetime.now(UTC),
    )
    answer = {"batchId": str(batch_id), "totalRuns": len(body.scenario_ids), "message": BATCH_QUEUED}
    return JsonAnswer(answer, status_code=202)


@router.get(
    _BATCH,
    response_model=BatchAnswer,
    responses={**READ_PROBLEMS, 404: {"model": SimulationProblem, "description": "Batch not found."}},
    summary="Read a batch",
)
def read_batch(pool: Pool, batch_id: PathId, tenant_id: OptionalTenantId = None) -> JsonAnswer:
    """How far its runs are."""
    return JsonAnswer(batch_answer(request_simulation.find_batch(pool, _id(batch_id, "Batch"), tenant_id=tenant_id)))


def _said(body: ScenarioChange) -> dict[str, Any]:
    """The members that were sent, but for whose it is and whether it is in use."""
    fields = type(body).model_fields
    known = body.model_fields_set & set(fields) - {"tenant_id", "active"}
    return {**(body.model_extra or {}), **{fields[name].alias or name: getattr(body, name) for name in known}}


def _id(text: str, thing: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFound(f"{thing} not found") from error
