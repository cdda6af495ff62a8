"""A meter or customer that used to report and no longer does is a warning; who never did, or still does, is not."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter_assets.assets.counters import HABIT_DAYS, LEAST_REPORTING_DAYS
from tests.assets.running import Report, evaluations, execute
from tests.laws.worlds import Fact, ingest_into

TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)
HABIT = [YESTERDAY - timedelta(days=back) for back in range(HABIT_DAYS, 0, -1)]


def verdict(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    """What the check says now."""
    return evaluations(execute(definitions, "watch", instance))["meters_report"]


def offenders(evaluation: dg.AssetCheckEvaluation) -> list[tuple[object, ...]]:
    """(tenant, meter, customer, days) of its table, in order; "none" where a row is not about one."""
    table = evaluation.metadata["worst"]
    assert isinstance(table, dg.TableMetadataValue)
    names = ("tenant_id", "meter", "customer_ref", "reported_days")
    return [tuple(record.data[name] for name in names) for record in table.records]


@pytest.mark.parametrize("is_folded", [False, True])
def test_a_customer_that_went_silent_is_listed(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    is_folded: bool,
) -> None:
    """It reported for two weeks and not since yesterday began, while others do; counted or not, it is the same."""
    report_usage(*HABIT, count=1, customer="silent")
    report_usage(*HABIT, YESTERDAY, count=1, customer="steady")
    if is_folded:
        fold(pool)
    result = verdict(definitions, instance)
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.WARN
    assert offenders(result) == [("acme", "none", "silent", HABIT_DAYS)]
    table = result.metadata["worst"]
    assert isinstance(table, dg.TableMetadataValue)
    assert table.records[0].data["last_seen_at"] == f"{HABIT[-1]}T00:00:00+00:00"


def test_a_tenant_silent_as_a_whole_is_one_row(
    definitions: dg.Definitions, instance: dg.DagsterInstance, report_usage: Report
) -> None:
    """An operator reads one line, not one per customer."""
    for customer in ("c1", "c2", "c3"):
        report_usage(*HABIT, count=1, customer=customer)
    assert offenders(verdict(definitions, instance)) == [("acme", "none", "none", HABIT_DAYS)]


def test_a_meter_that_went_silent_is_listed(
    definitions: dg.Definitions, instance: dg.DagsterInstance, database_url: str, report_usage: Report
) -> None:
    """Its customers still report something else: only the meter stands there, over all customers."""
    with ingest_into(database_url) as ingest:
        for number, day in enumerate(HABIT):
            ts = datetime.combine(day, time(12), UTC)
            ingest.accept([Fact(metric="seats", customer=f"c{number % 2}", ts=ts, key=f"k{number}")], now=ts)
    report_usage(YESTERDAY, customer="c0")
    report_usage(YESTERDAY, customer="c1")
    assert offenders(verdict(definitions, instance)) == [("acme", "seats", "none", HABIT_DAYS)]


@pytest.mark.parametrize(
    "days",
    [
        HABIT[: LEAST_REPORTING_DAYS - 1],
        [day for day in HABIT if day.weekday() < 5],
        [*HABIT, YESTERDAY],
        [*HABIT, TODAY],
        [],
    ],
    ids=["too seldom", "working days", "yesterday", "again today", "never"],
)
def test_no_habit_or_no_silence_is_no_alarm(
    definitions: dg.Definitions, instance: dg.DagsterInstance, report_usage: Report, days: list[date]
) -> None:
    """Who reports now and then, on working days only, yesterday or today is not silent."""
    if days:
        report_usage(*days, count=1)
    result = verdict(definitions, instance)
    assert result.passed
    assert result.metadata["offenders"].value == 0


def test_the_habit_has_an_edge(definitions: dg.Definitions, instance: dg.DagsterInstance, report_usage: Report) -> None:
    """Exactly as many days as a habit takes are one; days before the fortnight do not count."""
    report_usage(*HABIT[:LEAST_REPORTING_DAYS], count=1, customer="just")
    before = [HABIT[0] - timedelta(days=back) for back in (1, 2, 3)]
    report_usage(*before, *HABIT[: LEAST_REPORTING_DAYS - 1], count=1, customer="not quite")
    report_usage(YESTERDAY, count=1, customer="keeps the tenant awake")
    assert offenders(verdict(definitions, instance)) == [("acme", "none", "just", LEAST_REPORTING_DAYS)]
