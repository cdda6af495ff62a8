"""The asset `counters` and its checks, on real tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.recount import RecountedDay
from stripemeter.pipeline.recount_days import FailedDay, recount_days
from stripemeter.store.counter_days import record_failed_recount, stuck_days
from stripemeter.store.postgres import open_pool, transaction
from stripemeter.store.slice_recounts import MAX_FAILURES, add_slice_recount, record_failure, take_slice
from stripemeter_assets import presentation
from stripemeter_assets.assets.counters import MAX_FAILED_RECOUNTS
from stripemeter_assets.partitions import DAYS, tags_for
from tests.assets.running import Report, evaluations, execute

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 8)
WEEK = days_between(FIRST, LAST)
TODAY = datetime.now(UTC).date()


def spoil(pool: ConnectionPool, day: date) -> None:
    """Make a day's counters wrong behind everybody's back."""
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = quantity_sum + 1 where day = %s", [day])


def test_materialising_a_day_repairs_it(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool, report_usage: Report
) -> None:
    """A wrong day is recounted from the ledger, and the run says how many counters were wrong."""
    report_usage(FIRST)
    fold(pool)
    spoil(pool, FIRST)

    result = execute(definitions, "recount", instance, tags_for((FIRST, FIRST)))

    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = event.event_specific_data.materialization.metadata
    assert event.partition == "2026-01-01"
    assert metadata["changed"].value == 1
    assert metadata["events"].value == 2
    assert metadata["dagster/partition_row_count"].value == 1
    assert "| api_calls | 2 | 1 | 3.000000000000 |" in str(metadata["top_meters"].value)


def test_a_range_of_days_is_one_run_with_an_event_per_day(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool, report_usage: Report
) -> None:
    """Backfilling a range takes one process, and every day has its own numbers in the UI."""
    for number, day in enumerate(WEEK, start=1):
        report_usage(day, count=number)
    fold(pool)

    result = execute(definitions, "recount", instance, tags_for((FIRST, LAST)))

    assert result.success
    seen = {
        event.partition: event.event_specific_data.materialization.metadata["events"].value
        for event in result.get_asset_materialization_events()
    }
    assert seen == {day.isoformat(): number for number, day in enumerate(WEEK, start=1)}


def test_one_bad_day_does_not_lose_the_others(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    poison: Callable[[date], None],
) -> None:
    """The run fails and names the day; the others are committed and green, and only it is counted failed."""
    bad = date(2026, 1, 5)
    report_usage(*WEEK)
    fold(pool)
    for day in WEEK:
        spoil(pool, day)
    poison(bad)

    result = execute(definitions, "recount", instance, tags_for((FIRST, LAST)))

    assert not result.success
    message = result.failure_data_for_node("counters").user_failure_data.description
    assert message.startswith("1 of 8 days failed; 7 were recounted and are committed, 0 were not attempted")
    assert "2026-01-05" in str(message)
    statuses = instance.get_status_by_partition(dg.AssetKey("counters"), [day.isoformat() for day in WEEK], DAYS)
    assert {day for day, status in statuses.items() if status.value == "FAILED"} == {"2026-01-05"}
    assert {day for day, status in statuses.items() if status.value == "MATERIALIZED"} == {
        day.isoformat() for day in WEEK if day != bad
    }
    with transaction(pool) as tx:
        wrong = tx.execute("select day from counters where quantity_sum <> 3").fetchall()
        failures = tx.execute("select day, failed_recounts from counter_days where failed_recounts > 0").fetchall()
    assert wrong == [(bad,)]
    assert failures == [(bad, 1)]


def test_a_server_that_is_away_is_no_days_fault() -> None:
    """When Postgres does not answer the iteration ends at the first day instead of waiting for it once per day."""
    with open_pool("postgresql://nobody@127.0.0.1:9/none", timeout_seconds=1) as nowhere:
        outcomes = list(recount_days(nowhere, days_between(date(2025, 1, 1), date(2025, 12, 31))))
    (failed,) = outcomes
    assert isinstance(failed, FailedDay)
    assert failed.day == date(2025, 1, 1)


@pytest.mark.parametrize("is_wrong", [False, True])
def test_counters_equal_ledger(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    is_wrong: bool,
) -> None:
    """One wrong counter on any open day fails the check, and the table names it; a good day never hides a bad one."""
    report_usage(TODAY - timedelta(days=1), TODAY)
    fold(pool)
    if is_wrong:
        spoil(pool, TODAY - timedelta(days=1))

    result = evaluations(execute(definitions, "prove", instance))["counters_equal_ledger"]

    assert result.passed is not is_wrong
    assert result.blocking
    assert result.metadata["offenders"].value == int(is_wrong)
    if is_wrong:
        assert result.severity is dg.AssetCheckSeverity.ERROR
        table = result.metadata["worst"]
        assert isinstance(table, dg.TableMetadataValue)
        (row,) = table.records
        assert row.data["day"] == (TODAY - timedelta(days=1)).isoformat()
        assert row.data["meter"] == "api_calls"


def test_counters_equal_ledger_looks_at_the_runs_own_days_too(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool, report_usage: Report
) -> None:
    """A closed day that is recounted is proven in the same run, though nobody proves it every night."""
    closed = date(2020, 2, 29)
    report_usage(closed)
    fold(pool)
    result = execute(definitions, "recount", instance, tags_for((closed, closed)))
    days = len(_open_days()) + 1
    assert evaluations(result)["counters_equal_ledger"].description == (
        f"all counters of {days} days are equal to their ledger"
    )


@pytest.mark.parametrize("is_lost", [False, True])
def test_conservation(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    is_lost: bool,
) -> None:
    """An accepted event that is in no counter and waits for no fold fails the check for its tenant."""
    report_usage(TODAY, customer="c1")
    report_usage(TODAY, customer="c1")  # duplicates are conserved, too
    report_usage(TODAY, customer="c2")
    fold(pool)
    if is_lost:
        with transaction(pool) as tx:
            tx.execute("delete from counters where customer_ref = 'c2'")
    result = evaluations(execute(definitions, "prove", instance))["conservation"]
    assert result.passed is not is_lost
    assert result.blocking
    assert result.metadata["offenders"].value == int(is_lost)


@pytest.mark.parametrize("failures", [MAX_FAILED_RECOUNTS - 1, MAX_FAILED_RECOUNTS])
def test_late_days_settled(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool, failures: int
) -> None:
    """A day that failed up to the cap, which nothing retries any more, stands in the check until it is repaired."""
    for _ in range(failures):
        with transaction(pool) as tx:
            record_failed_recount(tx, FIRST, "planted")
    result = evaluations(execute(definitions, "prove", instance))["late_days_settled"]
    assert result.passed is (failures < MAX_FAILED_RECOUNTS)


def test_a_repaired_day_leaves_the_standing_check(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool
) -> None:
    """An operator materialises the day; that success starts its failure count anew."""
    for _ in range(MAX_FAILED_RECOUNTS):
        with transaction(pool) as tx:
            record_failed_recount(tx, FIRST, "planted")
    result = execute(definitions, "recount", instance, tags_for((FIRST, FIRST)))
    assert evaluations(result)["late_days_settled"].passed
    with transaction(pool) as tx:
        assert stuck_days(tx, max_failures=MAX_FAILED_RECOUNTS) == []


@pytest.mark.parametrize("failures", [MAX_FAILURES - 1, MAX_FAILURES])
def test_rules_applied(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool, failures: int
) -> None:
    """Days that failed up to the cap stand in the check until somebody recounts the one that fails; then they go on."""
    with transaction(pool) as tx:
        add_slice_recount(tx, "acme", None, FIRST, LAST, "meter", datetime.now(UTC))
        waiting = take_slice(tx, None)
        assert waiting is not None
        for _ in range(failures):
            record_failure(tx, waiting, "planted")
    is_stuck = failures == MAX_FAILURES
    result = evaluations(execute(definitions, "watch", instance))["rules_applied"]
    assert result.passed is not is_stuck
    assert result.metadata["offenders"].value == int(is_stuck)

    execute(definitions, "recount", instance, tags_for((FIRST, FIRST)))

    assert evaluations(execute(definitions, "watch", instance))["rules_applied"].passed
    with transaction(pool) as tx:
        assert take_slice(tx, None) == waiting


def test_what_a_recount_absorbed_is_shown() -> None:
    """In the day's metadata, and in the run's log when there was any."""
    day = RecountedDay(day=FIRST, events=3, counters=2, changed=2, absorbed=1, meters=())
    assert presentation.recounted(day)["absorbed"] == 1
    assert presentation.progress(day) == "2026-01-01: 3 events, 2 counters, 2 changed, 1 late events absorbed"
    assert "absorbed" not in presentation.progress(dataclasses.replace(day, absorbed=0))


@pytest.mark.parametrize("is_behind", [False, True])
def test_fold_is_current(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    is_behind: bool,
) -> None:
    """An event that waited for minutes fails the check; a cursor that idled for minutes before an event does not."""
    report_usage(TODAY)
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update fold_cursors set advanced_at = now() - interval '10 minutes'")
    report_usage(TODAY, customer="c2")
    if is_behind:
        with transaction(pool) as tx:
            tx.execute("update events set received_at = now() - interval '10 minutes' where customer_ref = 'c2'")
    result = evaluations(execute(definitions, "prove", instance))["fold_is_current"]
    assert result.passed is not is_behind
    assert result.metadata["pending_count"].value == 2


def _open_days() -> list[date]:
    previous = (TODAY.replace(day=1) - timedelta(days=1)).replace(day=1)
    return days_between(previous, TODAY)
