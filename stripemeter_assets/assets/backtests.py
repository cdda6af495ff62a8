"""Backtests as an asset: past months priced by the plans that its configuration names, the summary in place."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from pydantic import Field

from stripemeter.cli.plans import read_plan
from stripemeter.pipeline.backtest_files import write_reports
from stripemeter.pipeline.backtest_report import count_directions, report_markdown, totals_of
from stripemeter.pipeline.backtests import Backtest, Comparison, run_backtest
from stripemeter.pipeline.billed_usage import parse_months
from stripemeter.pricing.invoice_writing import amount_text
from stripemeter.pricing.rounding import parse_rounding
from stripemeter.runtime.settings import load_settings
from stripemeter_assets.resources import LakeResource, PostgresResource


class BacktestConfig(dg.Config):
    """What is compared over what; typed into the launchpad."""

    tenant: str = Field(description="Whose customers.")
    plans: list[str] = Field(description="Plans to try: paths of YAML files on the server.")
    baseline: str = Field(default="", description="A plan to compare with; empty: the prices in force.")
    first: str = Field(description="First month, YYYY-MM (UTC).")
    last: str = Field(description="Last month, included; it has ended.")
    rounding: str = Field(default="half_up", description="half_up, half_even or ceiling.")


# Not partitioned: a backtest is a question about several months at once, and each materialisation its answer.
@dg.asset(deps=["event_archive", "counters"], group_name="pricing", kinds={"duckdb", "polars"}, owners=["team:billing"])
def backtests(
    context: dg.AssetExecutionContext, config: BacktestConfig, postgres: PostgresResource, lake: LakeResource
) -> dg.MaterializeResult[None]:
    """What past months would have cost by other plans: nothing is changed, Stripe is not asked.

    The reports are in `reports/backtests/` of the state directory, in a directory named by the run.
    """
    first, last = parse_months(config.first, config.last)
    backtest = run_backtest(
        postgres.pool,
        lake.lake,
        tenant_id=config.tenant,
        candidates=[read_plan(Path(path)) for path in config.plans],
        baseline=read_plan(Path(config.baseline)) if config.baseline else None,
        first=first,
        last=last,
        now=datetime.now(UTC),
        rounding=parse_rounding(config.rounding),
        watch=lambda done, total, step: context.log.info("%s of %s: %s", done, total, step),
    )
    files = write_reports(backtest, load_settings().state / "reports" / "backtests" / context.run.run_id)
    return dg.MaterializeResult(
        metadata={
            "summary": dg.MetadataValue.md(report_markdown(backtest)),
            "html_report": dg.MetadataValue.path(str(files.page)),
            "json_report": dg.MetadataValue.path(str(files.json)),
            "customers": backtest.customers,
            **_deltas(backtest),
        }
    )


def _deltas(backtest: Backtest) -> dict[str, str]:
    """Of each candidate the change of revenue and whom it hits, as text: Dagster's numbers are floats."""
    return {
        f"delta_{_metadata_name(comparison.candidate.name)}": _delta(comparison) for comparison in backtest.comparisons
    }


def _delta(comparison: Comparison) -> str:
    pay = count_directions(comparison)
    delta = amount_text(totals_of(comparison)[2], comparison.currency)
    return (
        f"{delta} {comparison.currency}: {pay['less']} customers pay less, {pay['more']} more, {pay['same']} the same"
    )


def _metadata_name(name: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in name)
