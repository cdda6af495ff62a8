"""What Stripe was told."""

from datetime import UTC, datetime

import dagster as dg

from stripemeter.pipeline.push import push_usage
from stripemeter.runtime.settings import load_settings
from stripemeter_assets import presentation
from stripemeter_assets.accounts import for_each_account
from stripemeter_assets.resources import PostgresResource, StripeResource


# Not partitioned: what Stripe lacks is a difference over a whole segment, so one push serves all open days and no day
# can be pushed alone.
@dg.asset(
    deps=["counters"],
    pool="stripe",
    group_name="billing",
    kinds={"postgres", "stripe"},
    owners=["team:billing"],
    metadata=presentation.table_metadata("push_entries"),
)
def pushes(
    context: dg.AssetExecutionContext, postgres: PostgresResource, stripe: StripeResource
) -> dg.MaterializeResult[None]:
    """What Stripe lacks, sent: one row of the outbox per attempt, one section of metadata per account."""
    now = datetime.now(UTC)
    settings = load_settings()
    reports = for_each_account(
        context.log,
        stripe.sinks(),
        lambda sink: push_usage(
            postgres.pool,
            sink,
            now=now,
            witnesses=settings.witnesses,
            connected_accounts=settings.connected_accounts,
        ),
    )
    if any(report.stopped for report in reports.values()):
        raise dg.Failure(
            presentation.stopped_pushes(reports), metadata=presentation.by_account(reports), allow_retries=False
        )
    return dg.MaterializeResult(metadata=presentation.by_account(reports))
