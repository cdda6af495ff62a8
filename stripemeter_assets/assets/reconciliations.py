"""Ours against Stripe's, and the verdict an operator looks at before an invoice closes."""

from datetime import UTC, datetime

import dagster as dg

from stripemeter_assets import presentation
from stripemeter_assets.resources import PostgresResource, StripeResource


# Not partitioned, like pushes: a verdict is about a segment up to now. Every day of it is a row of the table.
@dg.asset(
    deps=["pushes"],
    pool="stripe",
    group_name="billing",
    kinds={"postgres", "stripe"},
    owners=["team:billing"],
    metadata=presentation.table_metadata("reconciliations"),
)
def reconciliations(postgres: PostgresResource, stripe: StripeResource) -> dg.MaterializeResult[None]:
    """Ledger total, what Stripe accepted, what Stripe sums up: compared per tenant, meter, customer and segment."""
    from stripemeter.pipeline.reconcile import reconcile_usage  # noqa: PLC0415 - see resources

    report = reconcile_usage(postgres.pool, stripe.sink(), now=datetime.now(UTC))
    return dg.MaterializeResult(metadata=presentation.facts(report))
