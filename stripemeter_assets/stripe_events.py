"""What Stripe told by itself: the job that works through it, and the sensor that asks for it.

Belongs here: when. Does not: keeping events (the receiver), what a report means (`pipeline.stripe_error_reports`),
reading rows back (`pipeline.push_doubts`).
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from stripemeter.billing import BillingSink
from stripemeter.pipeline.push_doubts import DoubtReport, has_due_doubt, settle_doubts
from stripemeter.pipeline.stripe_error_reports import ReportsRead, has_waiting_report, read_reports
from stripemeter_assets.accounts import for_each_account
from stripemeter_assets.resources import PostgresResource, StripeResource
from stripemeter_assets.triggers import IN_FLIGHT

PAUSE = timedelta(minutes=5)
"""How long nothing is requested after a run: what could not be read is tried again then, and not every minute."""


@dg.op(pool="stripe")
def settle_reports(context: dg.OpExecutionContext, postgres: PostgresResource, stripe: StripeResource) -> None:
    """Read the error reports that wait, then read back the rows that are doubted and due."""

    def settle(sink: BillingSink) -> tuple[ReportsRead, DoubtReport]:
        now = datetime.now(UTC)
        return read_reports(postgres.pool, sink, now=now), settle_doubts(postgres.pool, sink, now=now)

    for mode, (read, doubts) in for_each_account(context.log, stripe.sinks(), settle).items():
        context.log.info(
            "%s: %d reports, %d rows doubted, %d events wait", mode, read.reports, read.doubted, len(read.waiting)
        )
        context.log.info(
            "%s: %d present, %d absent, %d hold something else, %d still doubted",
            mode,
            doubts.present,
            doubts.absent,
            doubts.otherwise,
            doubts.waiting,
        )


@dg.job
def stripe_error_reports() -> None:
    """Find out which deltas Stripe acknowledged and did not count."""
    settle_reports()


# By name: given the job itself, Dagster 1.13 rebuilds the sensor and warns of a parameter nobody passed.
@dg.sensor(job_name="stripe_error_reports", minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def reported_rows(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, stripe: StripeResource
) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run when a report waits or a doubted row can be read back, and none is under way or has just ended."""
    now = datetime.now(UTC)
    modes = [sink.mode for sink in stripe.sinks()]
    if not modes:
        return dg.SkipReason("no Stripe key is set: see `stripemeter doctor`")
    if not has_waiting_report(postgres.pool, modes=modes) and not has_due_doubt(postgres.pool, now=now, modes=modes):
        return dg.SkipReason("no report waits, and no row is to be read back")
    if context.instance.get_runs(dg.RunsFilter(job_name=stripe_error_reports.name, statuses=IN_FLIGHT), limit=1):
        return dg.SkipReason("a run is under way")
    if context.instance.get_runs(dg.RunsFilter(job_name=stripe_error_reports.name, updated_after=now - PAUSE), limit=1):
        return dg.SkipReason(f"a run ended less than {PAUSE} ago")
    return dg.RunRequest()
