"""What starts by itself: jobs, sensors and schedules.

Belongs here: when. Does not: what (the assets), how (`stripemeter.pipeline`).

Idle costs: the sensors here and in `backfills`, `simulations` and `stripe_events`, and no run while there is nothing to
do.
"""

import time
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import next_month
from stripemeter.pipeline.archive import unarchived_days
from stripemeter.pipeline.error_report import delete_old_reports
from stripemeter.pipeline.fold import FoldReport, fold
from stripemeter.pipeline.push import has_unpushed_usage
from stripemeter.pipeline.reconciliation_report import delete_old_reports as delete_old_reconciliations
from stripemeter.pipeline.slice_recounts import drain
from stripemeter.runtime.settings import load_settings
from stripemeter.store import payments, stripe_events
from stripemeter.store.counter_days import dirty_days, stuck_days
from stripemeter.store.dagster_events import delete_superseded_reports
from stripemeter.store.ledger import ensure_month
from stripemeter.store.mappings import list_mappings
from stripemeter.store.reconciliation_runs import delete_old, has_waiting_request
from stripemeter_assets import presentation
from stripemeter_assets.assets.counters import MAX_FAILED_RECOUNTS
from stripemeter_assets.housekeeping import LATE, REPORT_RETENTION, SCHEDULED, UNPUSHED, delete_old_runs
from stripemeter_assets.orphans import fail_orphaned_runs
from stripemeter_assets.partitions import covering_ranges, days_of, has_partition, tags_for
from stripemeter_assets.resources import PostgresResource, StripeResource

FOLD_MAX_EVENTS = 400_000
"""One tick's slice: seconds of work, far from the 60 s a tick may take; the next tick takes the next."""
FOLD_HOLD_SECONDS = 8
"""How long an idle tick waits for events. A tick costs Dagster some thirty connections, looking costs us one query, so
waiting inside halves an idle stack's work and counts sooner. Stopping the daemon waits for the tick: hence not more."""
FOLD_LOOK_SECONDS = 2
DRAIN_SECONDS = 15
"""How long a tick counts again what changed rules left behind; the next tick goes on."""
QUIET_SECONDS = 60
"""How long late events must have stopped arriving for a day, so that a burst becomes one recount."""
DIRTY_LIMIT = 4000
"""Eleven years of days: an import may dirty them all, and they still share a few runs."""
ARCHIVE_LIMIT = 800
"""Two years of days: a long import is archived in a few nights, and no night's run holds the machine for hours."""
RECONCILIATION_RETENTION = timedelta(days=90)
"""How long it is known what each comparison found; verdicts on days are kept."""
INBOX_RETENTION = timedelta(days=90)
"""How long a processed event of Stripe's is kept; Stripe delivers one again for three days at most."""
PAYMENT_RETENTION = timedelta(days=400)
"""How long payments of settled invoices are kept: longer than any policy calls a customer recovered."""
PUSH_PAUSE = timedelta(minutes=5)
"""How long nothing is requested after a push run failed as a whole."""

IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

recount = dg.define_asset_job(
    "recount",
    selection=dg.AssetSelection.assets("counters"),
    description="Recount days from the ledger and prove the open days.",
)
push = dg.define_asset_job(
    "push",
    selection=dg.AssetSelection.assets("pushes", "reconciliations"),
    description="Send Stripe what it lacks, then compare.",
    tags=UNPUSHED,
)
reconcile = dg.define_asset_job(
    "reconcile",
    selection=dg.AssetSelection.assets("reconciliations"),
    description="Compare with Stripe.",
    tags=SCHEDULED,
)
watch = dg.define_asset_job(
    "watch",
    selection=dg.AssetSelection.checks_for_assets("events")
    | dg.AssetSelection.checks(
        dg.AssetCheckKey(dg.AssetKey("counters"), "conservation"),
        dg.AssetCheckKey(dg.AssetKey("counters"), "late_days_settled"),
        dg.AssetCheckKey(dg.AssetKey("counters"), "rules_applied"),
        dg.AssetCheckKey(dg.AssetKey("counters"), "fold_is_current"),
        dg.AssetCheckKey(dg.AssetKey("counters"), "meters_report"),
    ),
    description="Look at the standing checks: arrivals, conservation, late days, rules, the fold, silence.",
    tags=SCHEDULED,
)
prove = dg.define_asset_job(
    "prove",
    selection=dg.AssetSelection.checks_for_assets("counters"),
    description="Prove every open day's counters against the ledger.",
    tags=SCHEDULED,
)
archive = dg.define_asset_job(
    "archive",
    selection=dg.AssetSelection.assets("event_archive"),
    description="Write closed days to the lake and prove the archived open days.",
    tags=SCHEDULED,
)


@dg.op
def tidy(context: dg.OpExecutionContext, postgres: PostgresResource) -> None:
    """Delete old runs and reports; create the ledger partitions of this month and the next."""
    now, settings = datetime.now(UTC), load_settings()
    with postgres.transaction() as tx:
        ensure_month(tx, now.date().replace(day=1))
        ensure_month(tx, next_month(now.date()))
        context.log.info("deleted %d superseded reports", delete_superseded_reports(tx, now - REPORT_RETENTION))
        context.log.info(
            "deleted %d processed events", stripe_events.delete_processed(tx, before=now - INBOX_RETENTION)
        )
        context.log.info("deleted %d old payments", payments.delete_old(tx, before=now - PAYMENT_RETENTION))
        context.log.info("deleted %d old reconciliation runs", delete_old(tx, before=now - RECONCILIATION_RETENTION))
    context.log.info("deleted %d reports of reconciliations", delete_old_reconciliations(settings.state, now=now))
    kept_from = now - timedelta(days=settings.backfill_report_days)
    context.log.info(
        "deleted %d error reports of backfills", delete_old_reports(postgres.pool, settings.state, before=kept_from)
    )
    context.log.info("deleted %d runs past their retention", delete_old_runs(context.instance, now))


@dg.job(tags=SCHEDULED)
def housekeeping() -> None:
    """Keep Dagster's tables small and the ledger's next month ready."""
    tidy()


# 1 s: every round of Dagster's 5 s loop. With 5 s a round that comes a moment early is skipped, and the gap is 10 s.
@dg.sensor(minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def fold_events(postgres: PostgresResource) -> dg.SensorResult | dg.SkipReason:
    """Fold what is committed beyond the cursor; report the days it touched. Committed first, reported after.

    Before, count again what waits because a rule changed and nobody was there to finish it.
    """
    drain(postgres.pool, budget_seconds=DRAIN_SECONDS)
    report = _first_fold(postgres.pool)
    if not report.events:
        return dg.SkipReason("nothing beyond the fold cursor")
    return dg.SensorResult(asset_events=presentation.folded_materializations(report))


@dg.sensor(job=recount, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def late_days(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for a recount of every dirty day that nobody is recounting yet: a few ranges, never a run per day.

    It looks at what is dirty now and remembers nothing, so a failed run or a restored database asks again.
    """
    fail_orphaned_runs(context.instance)
    busy = _days_in_flight(context.instance)
    with postgres.transaction() as tx:
        dirty = dirty_days(tx, quiet_seconds=QUIET_SECONDS, max_failures=MAX_FAILED_RECOUNTS, limit=DIRTY_LIMIT)
        stuck = {late.day for late in stuck_days(tx, max_failures=MAX_FAILED_RECOUNTS)}
    wanted = {day for day in dirty if has_partition(day)} - busy
    ranges = covering_ranges(wanted, avoiding=stuck | busy)
    return [dg.RunRequest(tags={**tags_for(days), **LATE}) for days in ranges] or dg.SkipReason("no late day waits")


@dg.sensor(job=push, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def unpushed_usage(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, stripe: StripeResource
) -> dg.RunRequest | dg.SkipReason:
    """Ask for a push when Stripe lacks something and no push is under way or has just failed."""
    now = datetime.now(UTC)
    if _in_flight(context.instance, "push"):
        return dg.SkipReason("a push is under way")
    if _failed_since(context.instance, "push", now - PUSH_PAUSE):
        return dg.SkipReason(f"a push failed less than {PUSH_PAUSE} ago")
    modes = [sink.mode for sink in stripe.sinks()]
    if not modes:
        return dg.SkipReason("no Stripe key is set: see `stripemeter doctor`")
    if not has_unpushed_usage(postgres.pool, now=now, modes=modes):
        return dg.SkipReason("Stripe has everything")
    return dg.RunRequest()


@dg.sensor(job=reconcile, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def requested_reconciliations(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.RunRequest | dg.SkipReason:
    """Ask for one run that answers every request; those of a run that died wait still, so they ask again."""
    with postgres.transaction() as tx:
        if not has_waiting_request(tx):
            return dg.SkipReason("nobody asked")
    if _in_flight(context.instance, "reconcile"):
        return dg.SkipReason("a reconciliation is under way")
    return dg.RunRequest()


@dg.schedule(job=reconcile, cron_schedule="7 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def hourly_reconciliation(postgres: PostgresResource) -> dg.RunRequest | dg.SkipReason:
    """Compare with Stripe, when any meter is mapped to it."""
    with postgres.transaction() as tx:
        is_mapped = any(mapping.mode != "off" for mapping in list_mappings(tx))
    return dg.RunRequest() if is_mapped else dg.SkipReason("no meter is mapped to Stripe")


@dg.schedule(job=archive, cron_schedule="11 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def nightly_archive(
    context: dg.ScheduleEvaluationContext, postgres: PostgresResource
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask for every closed day that the lake lacks or holds in an older state: a few ranges, never a run per day.

    Like `late_days` it looks at what is and remembers nothing, so what failed is asked for again the next night.
    """
    busy = _days_in_flight(context.instance)
    unarchived = unarchived_days(postgres.pool, now=datetime.now(UTC), limit=ARCHIVE_LIMIT)
    wanted = {day for day in unarchived if has_partition(day)} - busy
    ranges = covering_ranges(wanted, avoiding=busy)
    return [dg.RunRequest(tags=tags_for(days)) for days in ranges] or dg.SkipReason("the lake has every closed day")


hourly_watch = dg.ScheduleDefinition(
    name="hourly_watch", job=watch, cron_schedule="37 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
nightly_proof = dg.ScheduleDefinition(
    name="nightly_proof", job=prove, cron_schedule="23 1 * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)
daily_housekeeping = dg.ScheduleDefinition(
    name="daily_housekeeping",
    job=housekeeping,
    cron_schedule="41 2 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


def _first_fold(pool: ConnectionPool) -> FoldReport:
    """The first fold that finds something, or the last that found nothing within FOLD_HOLD_SECONDS."""
    deadline = time.monotonic() + FOLD_HOLD_SECONDS
    report = fold(pool, max_events=FOLD_MAX_EVENTS)
    while not report.events and time.monotonic() + FOLD_LOOK_SECONDS <= deadline:
        time.sleep(FOLD_LOOK_SECONDS)
        report = fold(pool, max_events=FOLD_MAX_EVENTS)
    return report


def _in_flight(instance: dg.DagsterInstance, job_name: str) -> bool:
    return bool(instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=IN_FLIGHT), limit=1))


def _failed_since(instance: dg.DagsterInstance, job_name: str, since: datetime) -> bool:
    failed = dg.RunsFilter(job_name=job_name, statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since)
    return bool(instance.get_runs(failed, limit=1))


def _days_in_flight(instance: dg.DagsterInstance) -> set[date]:
    # Any partitioned run, an operator's too. A day being archived waits for its recount, and the other way round: the
    # level is still there when the run has ended.
    return {day for run in instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT)) for day in days_of(run.tags)}
