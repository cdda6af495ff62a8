"""The lake as an asset: closed days as Parquet files, and the proof that they are what Postgres holds."""

from datetime import UTC, date, datetime

import dagster as dg

from stripemeter.metering.frames import ARCHIVED_EVENTS
from stripemeter.pipeline.archive import FailedArchive, archive_days, prove_days
from stripemeter.pipeline.prove import open_days
from stripemeter.store.archived_days import ArchivedDay
from stripemeter_assets import presentation
from stripemeter_assets.partitions import DAYS, days_of
from stripemeter_assets.resources import LakeResource, PostgresResource


@dg.asset(
    deps=["events", "counters"],
    partitions_def=DAYS,
    # Beta; docs/decisions/0003-single-run-backfills.md says why and what happens if it goes away.
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="lake",
    group_name="ledger",
    kinds={"parquet", "polars"},
    owners=["team:billing"],
    metadata=presentation.table_metadata("events", ARCHIVED_EVENTS),
)
def event_archive(
    context: dg.AssetExecutionContext, postgres: PostgresResource, lake: LakeResource
) -> dg.MaterializeResult[None]:
    """The lake: a day's ledger, counters and their items as one Parquet file each, and the rules they follow.

    Closed days are archived every night, and again when late events changed them. The same day gives the same bytes; a
    range of days is one run, and each day of it is committed by itself.
    """
    days = [date.fromisoformat(key) for key in context.partition_keys]
    outcomes = [_logged(context, outcome) for outcome in archive_days(postgres.pool, lake.lake, days)]
    archived = {outcome.day: outcome for outcome in outcomes if isinstance(outcome, ArchivedDay)}
    if len(archived) < len(days):
        for done in archived.values():  # a failed step materialises nothing, yet these days are in the lake
            context.log_event(presentation.archived_materialization(done))
        raise dg.Failure(presentation.failed_archives(days, outcomes), allow_retries=False)
    for day, done in archived.items():
        context.add_asset_metadata(presentation.archived(done), partition_key=day.isoformat())
    return dg.MaterializeResult()


@dg.asset_check(asset="event_archive", description="Archived open days are, byte for byte, what Postgres holds.")
def lake_equals_ledger(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource, lake: LakeResource
) -> dg.AssetCheckResult:
    """Recounts the open archived days (and those of this run) from the lake alone: one difference fails them all."""
    proof = prove_days(postgres.pool, lake.lake, [*open_days(datetime.now(UTC)), *days_of(context.run.tags)])
    return presentation.check_result(
        passed=not proof.mismatches,
        description=presentation.lake_verdict(proof),
        offenders=proof.mismatches,
    )


def _logged(context: dg.AssetExecutionContext, outcome: ArchivedDay | FailedArchive) -> ArchivedDay | FailedArchive:
    context.log.info(presentation.archive_progress(outcome))
    return outcome
