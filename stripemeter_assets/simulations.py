"""Simulations asked for over HTTP: the job that carries them out, and the sensor that asks for it.

Belongs here: when, and as whom. Does not: carrying a run out (`pipeline.simulations`).

A simulation is no asset: it has no partition, is done once, and says nothing of real usage.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import dagster as dg

from stripemeter.billing.clock_accounts import open_clock_account
from stripemeter.errors import Conflict
from stripemeter.pipeline.simulations import run_simulation
from stripemeter.runtime.settings import load_settings
from stripemeter.store.simulations import SimulationRun, list_unfinished, list_waiting
from stripemeter_assets.resources import PostgresResource
from stripemeter_assets.triggers import IN_FLIGHT

OPERATION_TAG = "stripemeter/simulation"
"""The batch's id, or that of a run which is in none: one Dagster run carries out all of a batch."""
REQUESTS_PER_TICK = 20
"""Runs asked for at once: one runs at a time, and the next tick asks for more."""
LOOKED_AT = 500
"""Waiting runs a tick looks at, so that those that keep breaking do not hide the ones behind them."""
PAUSE = timedelta(minutes=5)
"""How long nothing is requested for what a Dagster run broke on."""
ENOUGH = timedelta(minutes=2)
"""How long a Dagster run begins more of a batch: few runs go on at once, and pushes and recounts wait behind it."""


class SimulationConfig(dg.Config):
    """Which batch, or which run."""

    operation_id: str


@dg.op(pool="simulations")
def run_simulations(context: dg.OpExecutionContext, config: SimulationConfig, postgres: PostgresResource) -> None:
    """Carry out what has not ended. Red when one could not be run; an expectation that is not met is a finding."""
    until = datetime.now(UTC) + ENOUGH
    with postgres.transaction() as tx:
        waiting = list_unfinished(tx, UUID(config.operation_id))
    done = []
    for run_id in waiting:
        ended = _carry_out(context, postgres, run_id)
        done += [] if ended is None else [ended]
        if datetime.now(UTC) >= until:
            break
    context.log.info(_told(done))
    failed = [run for run in done if run.status == "failed"]
    if failed:
        raise dg.Failure(
            f"{len(failed)} of {len(done)} could not be run: {failed[0].error_message}", allow_retries=False
        )


@dg.job
def simulations() -> None:
    """Carry out one simulation run, or every run of a batch."""
    run_simulations()


# By name: given the job itself, Dagster 1.13 rebuilds the sensor and warns of a parameter nobody passed.
@dg.sensor(job_name="simulations", minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def pending_simulations(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for a run of every batch, and every run without one, that has not ended and that nobody is at.

    It looks at what waits now and remembers nothing, so what a killed process left behind is asked for again.
    """
    with postgres.transaction() as tx:
        waiting = list(dict.fromkeys(str(batch_id or run_id) for run_id, batch_id in list_waiting(tx, limit=LOOKED_AT)))
    if not waiting:
        return dg.SkipReason("no simulation waits")
    since = datetime.now(UTC) - PAUSE
    failed = dg.RunsFilter(job_name=simulations.name, statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    busy = _operations(context.instance, dg.RunsFilter(job_name=simulations.name, statuses=IN_FLIGHT))
    wanted = [each for each in waiting if each not in busy | _operations(context.instance, failed)]
    return [_request(each) for each in wanted[:REQUESTS_PER_TICK]] or dg.SkipReason(
        f"{len(waiting)} wait, each with a run under way or one that broke less than {PAUSE} ago"
    )


def _carry_out(context: dg.OpExecutionContext, postgres: PostgresResource, run_id: UUID) -> SimulationRun | None:
    """The run as it ended; None: it was cancelled since, or somebody else is at it."""
    try:
        done = run_simulation(
            postgres.database_url,
            run_id,
            clock=lambda: datetime.now(UTC),
            open_account=lambda: open_clock_account(load_settings()),
        )
    except Conflict as error:
        context.log.info("%s", error)
        return None
    context.log.info("%s %s: %s, passed %s", run_id, done.scenario_name, done.status, done.passed)
    return done


def _told(done: Sequence[SimulationRun]) -> str:
    passed = sum(run.passed is True for run in done)
    unmet = sum(run.passed is False for run in done)
    return f"{len(done)} ended: {passed} passed, {unmet} came otherwise than expected"


def _request(operation_id: str) -> dg.RunRequest:
    config = dg.RunConfig(ops={run_simulations.name: SimulationConfig(operation_id=operation_id)})
    return dg.RunRequest(run_config=config, tags={OPERATION_TAG: operation_id})


def _operations(instance: dg.DagsterInstance, which: dg.RunsFilter) -> set[str]:
    return {run.tags[OPERATION_TAG] for run in instance.get_runs(which) if OPERATION_TAG in run.tags}
