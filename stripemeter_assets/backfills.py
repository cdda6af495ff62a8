"""Backfills that came over HTTP: the job that runs one, and the sensor that asks for it.

Belongs here: when, and as whom. Does not: storing rows (`pipeline.backfill`), voiding them (`pipeline.revert`).

An operation is no asset: it has no partition and is done once. What it stored shows in `events` and `counters`.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import dagster as dg

from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline.backfill import by_tenths, run_backfill
from stripemeter.pipeline.error_report import report_path
from stripemeter.pipeline.revert import revert_backfill
from stripemeter.runtime.settings import load_settings
from stripemeter.store.backfills import Backfill, RowCounts, list_waiting, load_backfill
from stripemeter_assets.resources import PostgresResource
from stripemeter_assets.triggers import IN_FLIGHT

OPERATION_TAG = "stripemeter/backfill"
REQUESTS_PER_TICK = 20
"""Runs asked for at once: one runs at a time, and the next tick asks for more."""
LOOKED_AT = 500
"""Waiting operations a tick looks at, so that twenty that keep failing do not hide those behind them."""
PAUSE = timedelta(minutes=5)
"""How long nothing is requested for an operation whose run failed: S3 is away, most likely."""


class OperationConfig(dg.Config):
    """Which operation."""

    backfill_id: str


@dg.op(pool="backfills")
def run_operation(context: dg.OpExecutionContext, config: OperationConfig, postgres: PostgresResource) -> None:
    """Store what an operation has left, or void it all when its revert was asked for."""
    backfill_id = UUID(config.backfill_id)
    with postgres.transaction() as tx:
        found = load_backfill(tx, backfill_id)
    if found.has_ended:
        if found.revert_reason is None:  # cancelled since the run was asked for
            context.log.info("nothing to do: it is %s", found.status)
            return
        done = _revert(context, postgres, backfill_id)
        context.log.info("voided %d of %d events", done.voided_count, done.counts.accepted)
        return
    done = _store(context, postgres, backfill_id)
    context.log.info("%s: %s", done.status, _told(done.counts))
    if done.status == "failed":
        raise dg.Failure(done.error_message, allow_retries=False)


@dg.job
def backfill() -> None:
    """Run one backfill to its end, from where it stands; or go on with its revert."""
    run_operation()


# By name: given the job itself, Dagster 1.13 rebuilds the sensor and warns of a parameter nobody passed.
@dg.sensor(job_name="backfill", minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def pending_backfills(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for a run of every operation that has work left and nobody at it.

    It looks at what waits now and remembers nothing, so an operation whose run died is asked for again and goes on.
    """
    with postgres.transaction() as tx:
        waiting = [str(backfill_id) for backfill_id in list_waiting(tx, limit=LOOKED_AT)]
    if not waiting:
        return dg.SkipReason("no backfill waits")
    busy = _operations(context.instance, dg.RunsFilter(job_name=backfill.name, statuses=IN_FLIGHT))
    since = datetime.now(UTC) - PAUSE
    failed = dg.RunsFilter(job_name=backfill.name, statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    wanted = [each for each in waiting if each not in busy | _operations(context.instance, failed)]
    return [_request(each) for each in wanted[:REQUESTS_PER_TICK]] or dg.SkipReason(
        f"{len(waiting)} wait, each with a run under way or one that failed less than {PAUSE} ago"
    )


def _request(backfill_id: str) -> dg.RunRequest:
    config = dg.RunConfig(ops={run_operation.name: OperationConfig(backfill_id=backfill_id)})
    return dg.RunRequest(run_config=config, tags={OPERATION_TAG: backfill_id})


def _operations(instance: dg.DagsterInstance, which: dg.RunsFilter) -> set[str]:
    return {run.tags[OPERATION_TAG] for run in instance.get_runs(which) if OPERATION_TAG in run.tags}


def _store(context: dg.OpExecutionContext, postgres: PostgresResource, backfill_id: UUID) -> Backfill:
    settings = load_settings()

    def tell(percent: int, counts: RowCounts) -> None:
        context.log.info("%d %%: %s", percent, _told(counts))

    return run_backfill(
        postgres.database_url,
        backfill_id,
        limits=IngestLimits(
            max_meta_bytes=settings.max_event_meta_bytes, is_tenant_uuid=settings.strict_tenant_id_uuid
        ),
        clock=lambda: datetime.now(UTC),
        report_path=report_path(settings.state, backfill_id),
        watch=by_tenths(tell),
    )


def _revert(context: dg.OpExecutionContext, postgres: PostgresResource, backfill_id: UUID) -> Backfill:
    return revert_backfill(
        postgres.database_url,
        backfill_id,
        clock=lambda: datetime.now(UTC),
        watch=lambda voided, stored: context.log.info("voided %d of %d events", voided, stored),
    )


def _told(counts: RowCounts) -> str:
    return (
        f"{counts.rows} rows = {counts.accepted} accepted + {counts.duplicates} duplicates"
        f" + {counts.conflicts} conflicts + {counts.failed} failed + {counts.skipped} skipped"
    )
