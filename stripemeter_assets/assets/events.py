"""The ledger as an asset: written by the receiver, watched here."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from stripemeter.metering.frames import LEDGER_EVENTS
from stripemeter.store.ledger import load_arrivals, load_last_arrival
from stripemeter_assets import presentation
from stripemeter_assets.resources import PostgresResource

ARRIVAL_DAYS = 31
SILENCE = timedelta(hours=24)
"""How long no event may arrive before an operator should ask why: most applications have usage every day."""

events = dg.AssetSpec(
    "events",
    description="The ledger: one immutable row per accepted event. Written by the receiver, never by Dagster; the "
    "fold reports its growth here.",
    group_name="ledger",
    kinds={"postgres"},
    owners=["team:billing"],
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=3 * SILENCE, warn_window=SILENCE),
    metadata=presentation.table_metadata("events", LEDGER_EVENTS),
)


@dg.asset_check(asset="events", description=f"Somebody reports usage: an event arrived within {SILENCE}.")
def events_arrive(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Warns when nothing arrives any more; shows the last month's arrivals day by day."""
    with postgres.transaction() as tx:
        last_arrival_at, arrivals = load_last_arrival(tx), load_arrivals(tx, days=ARRIVAL_DAYS)
    return presentation.check_result(
        passed=last_arrival_at is None or datetime.now(UTC) - last_arrival_at <= SILENCE,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"last arrival: {last_arrival_at or 'none ever'}",
        metadata={"arrivals": presentation.records(arrivals)},
    )
