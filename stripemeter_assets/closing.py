"""What closes invoices by itself: the job, its schedule, and the sensor that hears of an invoice sooner.

Belongs here: when. Does not: what (`assets.late_charges`, `assets.invoice_closings`), how
(`stripemeter.pipeline.late_charges`, `stripemeter.pipeline.closing`).
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from stripemeter.pipeline.closing_discovery import has_message
from stripemeter.store.mappings import list_mappings
from stripemeter_assets.housekeeping import SCHEDULED
from stripemeter_assets.resources import PostgresResource, StripeResource
from stripemeter_assets.triggers import IN_FLIGHT

PAUSE = timedelta(minutes=1)
"""How long nothing is requested after a run: at the end of a month invoices come by the thousand."""

close = dg.define_asset_job(
    "close",
    selection=dg.AssetSelection.assets("late_charges", "invoice_closings"),
    description="Charge usage that came after its invoice; find invoices with ours, and take each as far as it goes.",
    tags=SCHEDULED,
)


# Six times in the shortest grace Stripe has by default, an hour: a draft is found, and held where that is wanted.
@dg.schedule(job=close, cron_schedule="*/10 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def frequent_closing(postgres: PostgresResource, stripe: StripeResource) -> dg.RunRequest | dg.SkipReason:
    """Look at the invoices, when any meter is mapped to an account there is a key for."""
    modes = {sink.mode for sink in stripe.sinks()}
    with postgres.transaction() as tx:
        is_mapped = any(mapping.mode in modes for mapping in list_mappings(tx))
    return dg.RunRequest() if is_mapped else dg.SkipReason("no meter is mapped to Stripe")


@dg.sensor(job=close, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def told_invoices(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, stripe: StripeResource
) -> dg.RunRequest | dg.SkipReason:
    """Look sooner when Stripe told of an invoice, unless somebody looks already or has just looked."""
    modes = {sink.mode for sink in stripe.sinks()}
    if not has_message(postgres.pool, modes=modes):
        return dg.SkipReason("Stripe told of no invoice")
    if context.instance.get_runs(dg.RunsFilter(job_name=close.name, statuses=IN_FLIGHT), limit=1):
        return dg.SkipReason("a run is under way")
    since = dg.RunsFilter(job_name=close.name, updated_after=datetime.now(UTC) - PAUSE)
    if context.instance.get_runs(since, limit=1):
        return dg.SkipReason(f"a run ended less than {PAUSE} ago")
    return dg.RunRequest()
