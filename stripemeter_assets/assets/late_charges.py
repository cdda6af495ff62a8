"""Usage that came after its invoice was final, billed as money, and the verdict on it."""

from datetime import UTC, datetime

import dagster as dg

from stripemeter.pipeline.late_charges import charge_late_usage
from stripemeter.runtime.settings import load_settings
from stripemeter.store.late_charges import list_charges
from stripemeter_assets import presentation
from stripemeter_assets.accounts import for_each_account
from stripemeter_assets.resources import PostgresResource, StripeResource
from stripemeter_assets.verdicts import stuck_charges


# Before invoices are closed: what is billed elsewhere by then, a proof does not count.
@dg.asset(
    deps=["reconciliations"],
    pool="stripe",
    group_name="billing",
    kinds={"postgres", "stripe"},
    owners=["team:billing"],
    metadata=presentation.table_metadata("late_charges"),
)
def late_charges(
    context: dg.AssetExecutionContext, postgres: PostgresResource, stripe: StripeResource
) -> dg.MaterializeResult[None]:
    """Late usage where a mapping wants it as money: one invoice item or credit note each, written down before."""
    settings = load_settings()
    reports = for_each_account(
        context.log,
        stripe.sinks(),
        lambda sink: charge_late_usage(postgres.pool, sink, now=datetime.now(UTC), witnesses=settings.witnesses),
    )
    for name, report in reports.items():
        if report.stopped:
            context.log.warning("%s: charged nothing more: %s", name, report.stopped)
    return dg.MaterializeResult(metadata=presentation.by_account(reports))


@dg.asset_check(asset="late_charges", description="Every charge of late usage is at Stripe.")
def late_charges_arrive(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Reads the charges that Stripe refused and nobody released, and those on their way for too long."""
    with postgres.transaction() as tx:
        stuck = stuck_charges(list_charges(tx), now=datetime.now(UTC))
    return presentation.check_result(
        passed=not stuck,
        description=f"{len(stuck)} charges are refused or late: see `stripemeter late list`" if stuck else "all arrive",
        offenders=stuck,
    )
