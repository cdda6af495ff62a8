"""Invoices with our usage on them, and the verdict on what was billed."""

from datetime import UTC, datetime

import dagster as dg

from stripemeter.pipeline.closing import close_invoices
from stripemeter.runtime.settings import load_settings
from stripemeter.store.closings import list_closings, list_short_graces
from stripemeter_assets import presentation
from stripemeter_assets.accounts import for_each_account
from stripemeter_assets.resources import PostgresResource, StripeResource
from stripemeter_assets.verdicts import SHORT_GRACES, sort_closings

MOST_CLOSINGS = 10_000


# Not partitioned: an invoice bills a window, and a look serves all that are due.
@dg.asset(
    deps=["reconciliations", "late_charges"],
    pool="stripe",
    group_name="billing",
    kinds={"postgres", "stripe"},
    owners=["team:billing"],
    metadata=presentation.table_metadata("invoice_closings"),
)
def invoice_closings(
    context: dg.AssetExecutionContext, postgres: PostgresResource, stripe: StripeResource
) -> dg.MaterializeResult[None]:
    """Each invoice from draft to proof: observed, or held until Stripe holds exactly our usage, and then finalized."""
    settings = load_settings()
    reports = for_each_account(
        context.log,
        stripe.sinks(),
        lambda sink: close_invoices(
            postgres.pool, sink, now=datetime.now(UTC), control=settings.closing, witnesses=settings.witnesses
        ),
    )
    return dg.MaterializeResult(metadata={"control": settings.closing, **presentation.by_account(reports)})


# A failed invoice is an ERROR: it bills a wrong quantity, or is held and bills nothing. A grace that is too short is a
# WARN: nothing is known to be wrong, but late usage will be missing on that invoice.
@dg.asset_check(
    asset="invoice_closings", description="Every closed invoice bills what we counted, and is proven; none is stuck."
)
def closed_invoices_prove_parity(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Reads every invoice that is not closed, or failed and nobody released it, and graces of late."""
    now = datetime.now(UTC)
    with postgres.transaction() as tx:
        verdicts = sort_closings(list_closings(tx, is_open=True, limit=MOST_CLOSINGS), now=now)
        short = list_short_graces(tx, created_from=now - SHORT_GRACES, limit=MOST_CLOSINGS)
    stuck = [*verdicts.failed, *verdicts.overdue]
    return presentation.check_result(
        passed=not stuck and not short,
        severity=dg.AssetCheckSeverity.ERROR if stuck else dg.AssetCheckSeverity.WARN,
        description=presentation.closing_verdict(verdicts, short),
        offenders=stuck,
        metadata={"grace_too_short": presentation.records(short)},
    )
