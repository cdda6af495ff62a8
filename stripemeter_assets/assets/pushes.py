"""What Stripe was told."""

from datetime import UTC, datetime

import dagster as dg

from stripemeter_assets import presentation
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
def pushes(postgres: PostgresResource, stripe: StripeResource) -> dg.MaterializeResult[None]:
    """What Stripe lacks, sent: one row of the outbox per attempt."""
    from stripemeter.pipeline.push import push_usage  # noqa: PLC0415 - see resources: most runs never see Stripe

    report = push_usage(postgres.pool, stripe.sink(), now=datetime.now(UTC))
    return dg.MaterializeResult(metadata=presentation.facts(report))
