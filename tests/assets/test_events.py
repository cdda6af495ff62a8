"""The ledger as an asset: what its check says about arrivals."""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg
from psycopg_pool import ConnectionPool

from stripemeter.store.postgres import transaction
from tests.assets.running import Report, evaluations, execute

TODAY = datetime.now(UTC).date()


def events_arrive(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    """The check's verdict now."""
    return evaluations(execute(definitions, "watch", instance))["events_arrive"]


def test_an_empty_ledger_is_no_alarm(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """Nobody has reported yet: nothing stopped."""
    result = events_arrive(definitions, instance)
    assert result.passed
    assert result.description == "last arrival: none ever"


def test_arrivals_are_shown_day_by_day(
    definitions: dg.Definitions, instance: dg.DagsterInstance, report_usage: Report
) -> None:
    """An operator reads how much arrived and what became of it."""
    report_usage(TODAY, count=3)
    report_usage(TODAY, count=3)
    result = events_arrive(definitions, instance)
    assert result.passed
    table = result.metadata["arrivals"]
    assert isinstance(table, dg.TableMetadataValue)
    (row,) = table.records
    assert row.data == {
        "received_on": TODAY.isoformat(),
        "received": 6,
        "accepted": 3,
        "duplicates": 3,
        "conflicts": 0,
        "rejected": 0,
    }


def test_silence_is_a_warning(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool, report_usage: Report
) -> None:
    """A day without any event: somebody should ask why, and nothing is stopped for it."""
    report_usage(TODAY)
    with transaction(pool) as tx:
        tx.execute("update events set received_at = received_at - interval '25 hours'")
    result = events_arrive(definitions, instance)
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.WARN
