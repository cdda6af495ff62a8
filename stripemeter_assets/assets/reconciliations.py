"""Ours against Stripe's, and the verdict an operator looks at before an invoice closes."""

from datetime import UTC, datetime

import dagster as dg

from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.store.reconciliations import list_verdicts
from stripemeter_assets import presentation
from stripemeter_assets.accounts import for_each_account
from stripemeter_assets.resources import PostgresResource, StripeResource
from stripemeter_assets.verdicts import sort_verdicts

MOST_VERDICTS = 10_000


# Not partitioned, like pushes: a verdict is about a segment up to now. Every day of it is a row of the table.
@dg.asset(
    deps=["pushes"],
    pool="stripe",
    group_name="billing",
    kinds={"postgres", "stripe"},
    owners=["team:billing"],
    metadata=presentation.table_metadata("reconciliations"),
)
def reconciliations(
    context: dg.AssetExecutionContext, postgres: PostgresResource, stripe: StripeResource
) -> dg.MaterializeResult[None]:
    """Our total, what Stripe accepted, what Stripe sums up: compared per tenant, meter, customer, segment and day."""
    now = datetime.now(UTC)
    reports = for_each_account(context.log, stripe.sinks(), lambda sink: reconcile_usage(postgres.pool, sink, now=now))
    return dg.MaterializeResult(metadata=presentation.by_account(reports))


# An unexplained difference is an ERROR: a number is wrong and somebody must act. A day Stripe did not answer for is a
# WARN: nothing is known to be wrong and the next hour asks again, but it is not shown as agreement either.
@dg.asset_check(
    asset="reconciliations", description="Stripe holds what we counted, on every open day; what it lacks is on its way."
)
def stripe_equals_local(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Reads the latest verdict of every open day and reports the worst."""
    now = datetime.now(UTC)
    with postgres.transaction() as tx:
        verdicts = sort_verdicts(list_verdicts(tx, limit=MOST_VERDICTS), now=now)
    offenders = [*verdicts.unexplained, *verdicts.unknown]
    return presentation.check_result(
        passed=not offenders,
        severity=dg.AssetCheckSeverity.ERROR if verdicts.unexplained else dg.AssetCheckSeverity.WARN,
        description=presentation.stripe_verdict(verdicts),
        offenders=offenders,
        metadata={"on_its_way": presentation.records(verdicts.on_its_way)},
    )
