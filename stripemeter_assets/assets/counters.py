"""Usage counted per day, and the proofs that it is counted right."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from stripemeter.metering.frames import COUNTERS
from stripemeter.pipeline import prove
from stripemeter.pipeline.recount import RecountedDay
from stripemeter.pipeline.recount_days import FailedDay, recount_days
from stripemeter.store.counter_days import stuck_days
from stripemeter.store.silence import load_silent
from stripemeter.store.slice_recounts import MAX_FAILURES, stuck_slices
from stripemeter_assets import presentation
from stripemeter_assets.partitions import DAYS, days_of
from stripemeter_assets.resources import PostgresResource
from stripemeter_assets.verdicts import is_current

MAX_FAILED_RECOUNTS = 3
"""After so many failures nothing retries a day by itself any more, and `late_days_settled` is red."""
STALE_SECONDS = 120
"""How old the fold's cut may be, and how long a backlog may wait for it: twenty of its ticks."""
HABIT_DAYS = 14
"""Closed days that show who normally reports: two weeks hold every weekday twice."""
LEAST_REPORTING_DAYS = 11
"""On how many of them: one more than two weeks' working days, or every office would be an alarm each Saturday."""
MOST_SILENT = 10_000
"""Rows read of a list whose first hundred are shown."""


@dg.asset(
    deps=["events"],
    partitions_def=DAYS,
    # Beta; docs/decisions/0003-single-run-backfills.md says why and what happens if it goes away.
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="counters",
    group_name="metering",
    kinds={"postgres", "polars"},
    owners=["team:billing"],
    metadata=presentation.table_metadata("counters", COUNTERS),
)
def counters(context: dg.AssetExecutionContext, postgres: PostgresResource) -> dg.MaterializeResult[None]:
    """Usage: one row per tenant, customer, meter, UTC day and segment.

    The fold counts new events within seconds and reports the days it touched. Materialising a day recounts it from the
    ledger; a range of days is one run, and each day of it is committed by itself.
    """
    days = [date.fromisoformat(key) for key in context.partition_keys]
    outcomes = [_logged(context, outcome) for outcome in recount_days(postgres.pool, days)]
    recounted = {outcome.day: outcome for outcome in outcomes if isinstance(outcome, RecountedDay)}
    if len(recounted) < len(days):
        for done in recounted.values():  # a failed step materialises nothing, yet these days are committed
            context.log_event(presentation.recounted_materialization(done))
        raise dg.Failure(presentation.failed_days(days, outcomes), allow_retries=False)
    for day, done in recounted.items():
        context.add_asset_metadata(presentation.recounted(done), partition_key=day.isoformat())
    return dg.MaterializeResult()


@dg.asset_check(asset="counters", blocking=True, description="Every open day's counters are what its ledger says.")
def counters_equal_ledger(context: dg.AssetCheckExecutionContext, postgres: PostgresResource) -> dg.AssetCheckResult:
    """Recomputes the open days (and those of this run) and compares: one differing counter fails them all."""
    days = sorted({*prove.open_days(datetime.now(UTC)), *days_of(context.run.tags)})
    mismatches = prove.counters_equal_ledger(postgres.pool, days)
    return presentation.check_result(
        passed=not mismatches,
        description=presentation.counters_verdict(days, mismatches),
        offenders=mismatches,
    )


@dg.asset_check(
    asset="counters",
    blocking=True,
    description="Nothing is lost: received = accepted + duplicates + conflicts + rejected, and accepted = counted + "
    "pending + withheld + unmatched + voided.",
)
def conservation(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Adds up what became of every event ever received, per tenant."""
    tenants = prove.conservation(postgres.pool)
    broken = [tenant for tenant in tenants if not tenant.holds]
    return presentation.check_result(
        passed=not broken,
        description=f"tenants: {len(tenants)}; of these do not add up: {len(broken)}",
        offenders=broken,
        metadata={"tenants": presentation.records(tenants)},
    )


@dg.asset_check(
    asset="counters",
    description=f"No day failed its recount {MAX_FAILED_RECOUNTS} times and is now retried by nothing.",
)
def late_days_settled(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Names the days an operator must look at: nothing else will."""
    with postgres.transaction() as tx:
        stuck = stuck_days(tx, max_failures=MAX_FAILED_RECOUNTS)
    return presentation.check_result(
        passed=not stuck,
        description=f"days that wait for an operator to materialise them: {len(stuck)}",
        offenders=stuck,
    )


@dg.asset_check(
    asset="counters",
    description=f"Every changed rule is applied: no tenant's days failed to be counted again {MAX_FAILURES} times.",
)
def rules_applied(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Names what still counts by an old rule and is retried by nothing; materialising the day lets it go on."""
    with postgres.transaction() as tx:
        stuck = stuck_slices(tx)
    return presentation.check_result(
        passed=not stuck,
        description=f"ranges of days that wait for an operator: {len(stuck)}",
        offenders=stuck,
    )


@dg.asset_check(asset="counters", description=f"The fold keeps up: nothing waits longer than {STALE_SECONDS} s for it.")
def fold_is_current(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Reads how old the fold's cut is and what lies beyond its cursor."""
    state = prove.fold_state(postgres.pool)
    return presentation.check_result(
        passed=is_current(state, within=timedelta(seconds=STALE_SECONDS)),
        description=presentation.fold_verdict(state),
        metadata=presentation.facts(state),
    )


@dg.asset_check(
    asset="counters",
    description=f"Whoever reported on {LEAST_REPORTING_DAYS} of {HABIT_DAYS} closed days still does: a metering outage "
    "looks like zero usage.",
)
def meters_report(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Warns of tenants, meters and customers without an event since the last complete UTC day began."""
    silent_on = datetime.now(UTC).date() - timedelta(days=1)
    first_on = silent_on - timedelta(days=HABIT_DAYS)
    with postgres.transaction() as tx:
        silent = load_silent(
            tx, first_on=first_on, silent_on=silent_on, least_days=LEAST_REPORTING_DAYS, limit=MOST_SILENT
        )
    return presentation.check_result(
        passed=not silent,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"tenants, meters and customers silent since {silent_on} began: {len(silent)}",
        offenders=silent,
    )


def _logged(context: dg.AssetExecutionContext, outcome: RecountedDay | FailedDay) -> RecountedDay | FailedDay:
    context.log.info(presentation.progress(outcome))
    return outcome
