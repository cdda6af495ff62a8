"""What starts by itself: each sensor's tick on real tables, and what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between, next_month
from stripemeter.pipeline.error_report import report_path
from stripemeter.pipeline.fold import fold
from stripemeter.store.counter_days import record_failed_recount
from stripemeter.store.postgres import transaction
from stripemeter.store.slice_recounts import add_slice_recount, count_pending_days
from stripemeter_assets import triggers
from stripemeter_assets.assets.counters import MAX_FAILED_RECOUNTS
from stripemeter_assets.housekeeping import ROUTINE_RETENTION, RUN_RETENTION, delete_old_runs
from stripemeter_assets.partitions import days_of, tags_for
from stripemeter_assets.resources import PostgresResource
from tests.assets.running import Report, execute

TODAY = datetime.now(UTC).date()
LATE_DAY = date(2025, 6, 1)
YEAR = days_between(date(2025, 1, 1), date(2025, 12, 31))
Tick = Callable[[dg.SensorDefinition], dg.SensorResult | list[dg.RunRequest] | dg.RunRequest | dg.SkipReason]


@pytest.fixture
def tick(definitions: dg.Definitions, instance: dg.DagsterInstance, postgres_resource: PostgresResource) -> Tick:
    """One tick of a sensor, as the code server evaluates it."""

    def evaluate(sensor: dg.SensorDefinition) -> object:
        with dg.build_sensor_context(instance=instance, resources={"postgres": postgres_resource}) as context:
            return sensor(context)

    return evaluate  # type: ignore[return-value]


@pytest.fixture
def dirty(pool: ConnectionPool, report_usage: Report) -> Callable[..., None]:
    """Days with late events that stopped arriving an hour ago."""

    def make(*days: date) -> None:
        report_usage(*days, count=1)
        fold(pool)
        with transaction(pool) as tx:
            tx.execute("update counter_days set last_folded_at = now() - interval '1 hour'")

    return make


def asked_days(requests: object) -> list[list[date]]:
    """The days of every requested run."""
    assert isinstance(requests, list), requests
    return [days_of(request.tags) for request in requests]


def test_the_fold_reports_one_event_per_touched_day(tick: Tick, pool: ConnectionPool, report_usage: Report) -> None:
    """Counted and committed in the tick; the ledger's growth and each day are reported once."""
    days = [TODAY - timedelta(days=1), TODAY]
    report_usage(*days, count=3)
    result = tick(triggers.fold_events)
    assert isinstance(result, dg.SensorResult)
    reported = {(event.asset_key.to_user_string(), event.partition) for event in result.asset_events}
    assert reported == {("events", None), *(("counters", day.isoformat()) for day in days)}
    assert len(result.asset_events) == 3
    with transaction(pool) as tx:
        assert tx.execute("select sum(event_count) from counters").fetchone() == (6,)


def test_the_fold_skips_when_nothing_arrived(tick: Tick) -> None:
    """An idle tick reports nothing: it costs one skipped tick, no event."""
    assert isinstance(tick(triggers.fold_events), dg.SkipReason)


def test_the_fold_finishes_what_rules_left(tick: Tick, pool: ConnectionPool, report_usage: Report) -> None:
    """Days that wait because a rule changed are counted again first, though nothing arrived: the rest of a change."""
    report_usage(TODAY)
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = quantity_sum + 1")
        add_slice_recount(tx, "acme", None, TODAY - timedelta(days=2), TODAY, "meter", datetime.now(UTC))
    assert isinstance(tick(triggers.fold_events), dg.SkipReason)
    with transaction(pool) as tx:
        assert tx.execute("select sum(quantity_sum) from counters").fetchone() == (3,)
        assert count_pending_days(tx, None) == 0


def test_a_year_of_late_days_is_one_run(tick: Tick, dirty: Callable[..., None]) -> None:
    """What an import of history makes dirty is recounted by one run over the range."""
    dirty(*YEAR)
    assert asked_days(tick(triggers.late_days)) == [YEAR]


def test_punctual_days_ask_for_nothing(tick: Tick, dirty: Callable[..., None]) -> None:
    """Events of today and yesterday are not late."""
    dirty(TODAY - timedelta(days=1), TODAY)
    assert isinstance(tick(triggers.late_days), dg.SkipReason)


def test_a_burst_that_goes_on_waits(tick: Tick, pool: ConnectionPool, report_usage: Report) -> None:
    """While late events still arrive for a day nothing is asked: the burst becomes one recount."""
    report_usage(LATE_DAY)
    fold(pool)
    assert isinstance(tick(triggers.late_days), dg.SkipReason)


@pytest.mark.parametrize("held_by", [tags_for((LATE_DAY, LATE_DAY)), tags_for((date(2025, 5, 1), date(2025, 7, 1)))])
def test_a_day_that_a_run_holds_is_not_asked_for_again(
    tick: Tick,
    dirty: Callable[..., None],
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    held_by: dict[str, str],
) -> None:
    """Whoever started it, alone or in a range: one run per day at a time."""
    dirty(LATE_DAY)
    job = definitions.resolve_job_def("recount")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=held_by)
    assert isinstance(tick(triggers.late_days), dg.SkipReason)

    instance.report_run_failed(run)  # the level is still there, so the request comes back
    assert asked_days(tick(triggers.late_days)) == [[LATE_DAY]]


def test_a_settled_day_is_asked_for_no_more(
    tick: Tick, dirty: Callable[..., None], definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    """The run the sensor asked for is what ends its asking."""
    dirty(LATE_DAY)
    (request,) = tick(triggers.late_days)  # type: ignore[misc]
    assert execute(definitions, "recount", instance, request.tags).success
    assert isinstance(tick(triggers.late_days), dg.SkipReason)


def test_a_poisoned_day_is_given_up_and_does_not_stop_its_neighbours(
    tick: Tick, dirty: Callable[..., None], pool: ConnectionPool
) -> None:
    """After MAX_FAILED_RECOUNTS nothing asks for it any more, and ranges go around it."""
    month = days_between(date(2025, 6, 1), date(2025, 6, 30))
    dirty(*month)
    for _ in range(MAX_FAILED_RECOUNTS):
        with transaction(pool) as tx:
            record_failed_recount(tx, date(2025, 6, 10), "planted")
    assert asked_days(tick(triggers.late_days)) == [month[:9], month[10:]]


def test_a_late_day_before_the_first_partition_does_not_break_the_tick(tick: Tick, dirty: Callable[..., None]) -> None:
    """It is no partition, so no run can hold it; the others are asked for."""
    dirty(date(1998, 1, 1), LATE_DAY)
    assert asked_days(tick(triggers.late_days)) == [[LATE_DAY]]


def test_ticks_share_one_pool(postgres_resource: PostgresResource, database_url: str) -> None:
    """Dagster builds a resource per tick; a pool per tick would be a connection storm."""
    assert PostgresResource(database_url=database_url).pool is postgres_resource.pool


@pytest.mark.parametrize(
    ("tags", "status", "age", "is_kept"),
    [
        ({"stripemeter/why": "unpushed"}, dg.DagsterRunStatus.SUCCESS, ROUTINE_RETENTION, False),
        ({"stripemeter/why": "unpushed"}, dg.DagsterRunStatus.FAILURE, ROUTINE_RETENTION, True),
        ({}, dg.DagsterRunStatus.SUCCESS, ROUTINE_RETENTION, True),
        ({}, dg.DagsterRunStatus.SUCCESS, RUN_RETENTION, False),
        ({}, dg.DagsterRunStatus.FAILURE, RUN_RETENTION, False),
        ({}, dg.DagsterRunStatus.STARTED, RUN_RETENTION, True),
    ],
)
def test_old_runs_are_deleted(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    tags: dict[str, str],
    status: dg.DagsterRunStatus,
    age: timedelta,
    is_kept: bool,
) -> None:
    """Routine successes go after days, everything finished after a month, nothing that still runs."""
    run = instance.create_run_for_job(definitions.resolve_job_def("recount"), status=status, tags=tags)
    now = datetime.now(UTC)
    assert delete_old_runs(instance, now + age - timedelta(hours=1)) == 0
    assert delete_old_runs(instance, now + age + timedelta(hours=1)) == int(not is_kept)
    assert (instance.get_run_by_id(run.run_id) is not None) is is_kept


def test_housekeeping_deletes_the_reports_of_old_backfills(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Those that ended longer ago than the setting says; a younger one stays."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPEMETER_BACKFILL_REPORT_DAYS", "7")
    (tmp_path / "backfills").mkdir()
    with transaction(pool) as tx:
        rows = tx.execute(
            "insert into backfills (tenant_id, reason, actor, source_type, source, source_version, source_format,"
            " source_size, status, created_at, updated_at, completed_at) select 'acme', 'test', 'test', 'csv', '', '',"
            " 'csv', 0, 'completed', now(), now(), now() - make_interval(days => age) from (values (6), (8)) as e (age)"
            " returning id"
        ).fetchall()
    young, old = (report_path(tmp_path, row[0]) for row in rows)
    for report in (young, old):
        report.write_text("{}\n")
    assert execute(definitions, "housekeeping", instance).success
    assert (young.exists(), old.exists()) == (True, False)


def test_housekeeping_prepares_next_month(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool
) -> None:
    """The first event of a month must not wait for its ledger partition to be created."""
    assert execute(definitions, "housekeeping", instance).success
    with transaction(pool) as tx:
        for month in (TODAY.replace(day=1), next_month(TODAY)):
            assert tx.execute("select to_regclass(%s) is not null", [f"events_{month:%Y_%m}"]).fetchone() == (True,)
