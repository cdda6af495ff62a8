"""Retention: old months leave Postgres by themselves, when the operator said how many stay.

Belongs here: when, and what a run tells. Does not: what must hold before a month goes (`pipeline.retention`).
"""

from datetime import UTC, date, datetime

import dagster as dg

from stripemeter.errors import Conflict
from stripemeter.pipeline.retention import drop_month, months_to_drop
from stripemeter.runtime.settings import load_settings
from stripemeter_assets.housekeeping import SCHEDULED
from stripemeter_assets.resources import LakeResource, PostgresResource
from stripemeter_assets.triggers import IN_FLIGHT


class MonthsConfig(dg.Config):
    """Which months, YYYY-MM-DD of their first days."""

    months: list[str]


@dg.op(pool="lake")
def drop_months(
    context: dg.OpExecutionContext, config: MonthsConfig, postgres: PostgresResource, lake: LakeResource
) -> None:
    """Drop months, one by one; one that the lake does not have as it is stays, and does not keep the others."""
    refused = []
    for month_on in sorted(map(date.fromisoformat, config.months)):
        try:
            dropped = drop_month(postgres.pool, lake.lake, month_on, now=datetime.now(UTC))
        except Conflict as error:
            refused.append(f"- {month_on:%Y-%m}: {error}")
        else:
            context.log.info("%s: %d events live in %s alone", f"{month_on:%Y-%m}", dropped.events, dropped.lake)
    if refused:
        raise dg.Failure(
            f"{len(refused)} of {len(config.months)} months stay in Postgres\n" + "\n".join(refused),
            allow_retries=False,
        )


@dg.job(tags=SCHEDULED)
def retention() -> None:
    """Drop old months from Postgres that the lake provably has."""
    drop_months()


# After the nightly archive, which writes what late events changed.
@dg.schedule(job=retention, cron_schedule="11 5 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def nightly_retention(
    context: dg.ScheduleEvaluationContext, postgres: PostgresResource
) -> dg.RunRequest | dg.SkipReason:
    """Ask for the drop of every month beyond STRIPEMETER_RETAIN_MONTHS; what failed is asked for the next night."""
    retain_months = load_settings().retain_months
    if retain_months is None:
        return dg.SkipReason("STRIPEMETER_RETAIN_MONTHS is not set: every month stays in Postgres")
    if context.instance.get_runs(dg.RunsFilter(job_name=retention.name, statuses=IN_FLIGHT), limit=1):
        return dg.SkipReason("months are being dropped")
    months = months_to_drop(postgres.pool, now=datetime.now(UTC), retain_months=retain_months)
    if not months:
        return dg.SkipReason(f"Postgres has no month before the last {retain_months}")
    return dg.RunRequest(run_config=dg.RunConfig(ops={drop_months.name: MonthsConfig(months=list(map(str, months)))}))
