"""Ours against Stripe's, and the verdict an operator looks at before an invoice closes."""

from datetime import UTC, datetime

import dagster as dg

from stripemeter.pipeline.reconcile import reconcile_and_record
from stripemeter.pipeline.reconciliation_report import save_report
from stripemeter.runtime.settings import load_settings
from stripemeter.store.reconciliation_runs import end_requests, list_runs, start_requests
from stripemeter.store.reconciliations import list_verdicts
from stripemeter_assets import presentation
from stripemeter_assets.accounts import for_each_account
from stripemeter_assets.resources import PostgresResource, StripeResource
from stripemeter_assets.verdicts import sort_verdicts

MOST_VERDICTS = 10_000
PLOTTED_RUNS = 200
"""Points of the drift-over-time plot."""


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
    with postgres.transaction() as tx:
        requests = start_requests(tx, now=datetime.now(UTC))
    try:
        reports = for_each_account(
            context.log,
            stripe.sinks(),
            lambda sink: reconcile_and_record(postgres.pool, sink, clock=lambda: datetime.now(UTC)),
        )
    except dg.Failure as failure:
        with postgres.transaction() as tx:
            end_requests(tx, requests, "failed", now=datetime.now(UTC), error_message=failure.description)
        raise
    with postgres.transaction() as tx:
        end_requests(tx, requests, "completed", now=datetime.now(UTC))
        runs = {
            name: list_runs(tx, stripe_account_id=report.stripe_account_id, limit=PLOTTED_RUNS)
            for name, report in reports.items()
        }
    report_file = save_report(load_settings().state, reports, runs, now=datetime.now(UTC))
    return dg.MaterializeResult(
        metadata={
            **presentation.by_account(reports),
            **presentation.differences(reports),
            **presentation.drift_plots(runs),
            "html_report": dg.MetadataValue.path(str(report_file)),
        }
    )


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
