"""Simulation runs and batches as somebody asks for them: recording, looking at them, cancelling.

Belongs here: the copy of a scenario that a run keeps. Does not: scenarios somebody keeps (`pipeline.scenarios`),
carrying a run out (`pipeline.simulations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

import msgspec
from psycopg_pool import ConnectionPool

from stripemeter.errors import Conflict, InvalidInput, NotFound, ScenarioError
from stripemeter.pipeline.scenarios import DEFAULT_TENANT, prepare_scenario, refuse_nul, require_playable
from stripemeter.pipeline.simulations import end_simulation
from stripemeter.pricing.reading import within
from stripemeter.store import scenarios, simulations
from stripemeter.store.postgres import Tx, transaction
from stripemeter.store.scenarios import StoredScenario
from stripemeter.store.simulations import (
    Driver,
    NewRun,
    RunEnd,
    RunStatus,
    RunType,
    SimulationBatch,
    SimulationRun,
    StoredAssertion,
)

# A decimal stays the number it was, digit by digit.
_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWish:
    """What a run is asked for with; `metadata`: JSON-able."""

    run_type: RunType = "manual"
    name: str | None = None
    description: str | None = None
    metadata: Mapping[str, object] | None = None
    seed: int | None = None
    driver: Driver = "pure"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """A batch and its runs, in the order asked for. How far it is, its runs say: nothing is written down twice."""

    batch: SimulationBatch
    runs: Sequence[SimulationRun]

    @property
    def status(self) -> Literal["pending", "running", "completed"]:
        """Completed: every run has ended, however."""
        if self.ended_count == len(self.runs):
            return "completed"
        return "pending" if all(run.status == "pending" for run in self.runs) else "running"

    @property
    def passed(self) -> bool | None:
        """True: all passed; False: one did not, failed or was cancelled; None: not yet, or one expects nothing."""
        if self.status != "completed":
            return None
        if any(run.status != "completed" or run.passed is False for run in self.runs):
            return False
        return None if any(run.passed is None for run in self.runs) else True

    @property
    def ended_count(self) -> int:
        """How many runs have ended."""
        return sum(run.has_ended for run in self.runs)

    @property
    def started_at(self) -> datetime | None:
        """When the first run was begun."""
        return min((run.started_at for run in self.runs if run.started_at is not None), default=None)

    @property
    def completed_at(self) -> datetime | None:
        """When the last run ended; None while one has not."""
        if self.status != "completed":
            return None
        return max(run.completed_at for run in self.runs if run.completed_at is not None)


def request_stored(
    pool: ConnectionPool, scenario_id: UUID, *, tenant_id: str | None, wish: RunWish, now: datetime
) -> UUID:
    """Ask for a run of a scenario as it is now; the run's id.

    Raises:
        NotFound: there is none of that id.
        Conflict: it is deactivated.
        ScenarioError: a test clock cannot play it, and the run would be on Stripe.
    """
    with transaction(pool) as tx:
        scenario = scenarios.load_scenario(tx, scenario_id, tenant_id=tenant_id)
        return _insert(tx, _run_of(scenario, wish), now=now)


def request_given(
    pool: ConnectionPool, statement: Mapping[str, object], *, tenant_id: str | None, wish: RunWish, now: datetime
) -> UUID:
    """Ask for a run of a scenario that came with the request: a document, or a statement as in `pipeline.scenarios`.

    Raises:
        ScenarioError: it cannot be run; `field` is a path of the statement.
    """
    scenario = prepare_scenario(statement, tenant_id=tenant_id or DEFAULT_TENANT, scenario_id=uuid4(), now=now)
    run = replace(_run_of(scenario, wish), scenario_id=None, scenario_revision=None)
    with transaction(pool) as tx:
        return _insert(tx, run, now=now)


def request_batch(
    pool: ConnectionPool,
    scenario_ids: Sequence[UUID],
    *,
    tenant_id: str | None,
    name: str,
    description: str | None,
    wish: RunWish,
    now: datetime,
) -> UUID:
    """Ask for one run of each of these scenarios as they are now: of all or of none; the batch's id.

    Raises:
        InvalidInput: one of them is not there, deactivated or another tenant's than the first; `field` says which.
    """
    batch_id = uuid4()
    with transaction(pool) as tx:
        runs = []
        for position, scenario_id in enumerate(scenario_ids):
            try:
                scenario = scenarios.load_scenario(tx, scenario_id, tenant_id=tenant_id)
                run = _run_of(scenario, wish)
            except (NotFound, Conflict, ScenarioError) as error:
                path = within("scenarioIds", position)
                raise InvalidInput(f"{path}: {error}", field=path) from error
            tenant_id = scenario.tenant_id
            runs.append(replace(run, batch_id=batch_id, batch_position=position))
        batch = SimulationBatch(
            tenant_id=runs[0].tenant_id, id=batch_id, name=name, description=description, created_at=now
        )
        simulations.insert_batch(tx, batch)
        for run in runs:
            _insert(tx, run, now=now)
    return batch_id


def find_run(
    pool: ConnectionPool, run_id: UUID, *, tenant_id: str | None
) -> tuple[SimulationRun, list[StoredAssertion]]:
    """One run and its assertions, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    with transaction(pool) as tx:
        run = simulations.load_run(tx, run_id, tenant_id=tenant_id)
        return run, simulations.list_assertions(tx, run)


def list_runs(
    pool: ConnectionPool,
    *,
    tenant_id: str | None,
    scenario_id: UUID | None,
    status: RunStatus | None,
    run_type: RunType | None,
    limit: int,
    offset: int,
) -> tuple[list[SimulationRun], int]:
    """A page, newest first, without scenarios and results; and how many match."""
    with transaction(pool) as tx:
        return simulations.list_runs(
            tx,
            tenant_id=tenant_id,
            scenario_id=scenario_id,
            status=status,
            run_type=run_type,
            limit=limit,
            offset=offset,
        )


def find_batch(pool: ConnectionPool, batch_id: UUID, *, tenant_id: str | None) -> BatchState:
    """A batch and its runs, of a tenant when one is given.

    Raises:
        NotFound: there is none of that id.
    """
    with transaction(pool) as tx:
        batch = simulations.load_batch(tx, batch_id, tenant_id=tenant_id)
        return BatchState(batch=batch, runs=simulations.list_batch_runs(tx, batch))


def cancel_run(pool: ConnectionPool, run_id: UUID, *, tenant_id: str | None, now: datetime) -> SimulationRun:
    """Stop a run for good, waiting or begun: what it finds is not stored. Doing it again changes nothing.

    Raises:
        NotFound: there is none of that id.
        Conflict: it had ended otherwise.
    """
    with transaction(pool) as tx:
        simulations.load_run(tx, run_id, tenant_id=tenant_id)
        end_simulation(tx, run_id, RunEnd(status="cancelled"), now=now)
        run = simulations.load_run(tx, run_id)
    if run.status != "cancelled":
        raise Conflict(f"the run had ended before: it is {run.status}")
    return run


def _run_of(scenario: StoredScenario, wish: RunWish) -> NewRun:
    if not scenario.is_active:
        raise Conflict(f"the scenario {scenario.name!r:.60} is deactivated: set `active` to true to run it")
    if wish.driver == "stripe":
        require_playable(scenario.document, wish.seed)
    metadata = dict(wish.metadata or {})
    refuse_nul(metadata, "metadata")
    return NewRun(
        tenant_id=scenario.tenant_id,
        id=uuid4(),
        scenario_id=scenario.id,
        scenario_revision=scenario.revision,
        run_type=wish.run_type,
        driver=wish.driver,
        name=wish.name,
        description=wish.description,
        metadata=_encode(metadata).decode(),
        scenario_name=scenario.name,
        scenario_version=scenario.version,
        scenario=scenario.document,
        seed=wish.seed,
    )


def _insert(tx: Tx, run: NewRun, *, now: datetime) -> UUID:
    simulations.insert_run(tx, run, now=now)
    return run.id
