"""The asset `event_archive`, its check and its schedule, on real tables and a real lake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between
from stripemeter.pipeline.fold import fold
from stripemeter.store.lake import LocalLake, load_events
from stripemeter.store.postgres import transaction
from stripemeter_assets import triggers
from stripemeter_assets.definitions import build_definitions
from stripemeter_assets.partitions import DAYS, days_of, tags_for
from stripemeter_assets.resources import LakeResource, PostgresResource
from tests.assets.running import Report, evaluations, execute

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 8)
WEEK = days_between(FIRST, LAST)
TODAY = datetime.now(UTC).date()
Tick = Callable[[], list[dg.RunRequest] | dg.SkipReason]


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    """The lake the definitions write to."""
    return LocalLake(root=tmp_path / "lake")


@pytest.fixture
def definitions(postgres_resource: PostgresResource, lake: LocalLake) -> dg.Definitions:
    """The real code location on this test's database and lake."""
    return build_definitions({"postgres": postgres_resource, "lake": LakeResource(location=str(lake.root))})


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster of this test's own on disk: a schedule's context wants one it could open again."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as local:
        yield local


@pytest.fixture
def tick(instance: dg.DagsterInstance, postgres_resource: PostgresResource) -> Tick:
    """One tick of the nightly schedule, as the code server evaluates it."""

    def evaluate() -> object:
        with dg.build_schedule_context(instance=instance, resources={"postgres": postgres_resource}) as context:
            return triggers.nightly_archive(context)

    return evaluate  # type: ignore[return-value]


def test_a_range_of_days_is_one_run_with_an_event_per_day(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    lake: LocalLake,
) -> None:
    """Each day's file is in the lake, and each day has its own numbers in the UI."""
    for number, day in enumerate(WEEK, start=1):
        report_usage(day, count=number)
    fold(pool)
    result = execute(definitions, "archive", instance, tags_for((FIRST, LAST)))
    assert result.success
    seen = {
        event.partition: event.event_specific_data.materialization.metadata["events"].value
        for event in result.get_asset_materialization_events()
    }
    assert seen == {day.isoformat(): number for number, day in enumerate(WEEK, start=1)}
    assert [load_events(lake, day).height for day in WEEK] == list(range(1, 9))
    assert evaluations(result)["lake_equals_ledger"].description == (
        "archived days equal to Postgres: 8; changed since, to be archived again: 0; wrong: 0"
    )


def test_one_bad_day_does_not_lose_the_others(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    poison: Callable[[date], None],
    lake: LocalLake,
) -> None:
    """The run fails and names the day; the others are in the lake and reported."""
    bad = date(2026, 1, 5)
    report_usage(*WEEK)
    fold(pool)
    poison(bad)
    result = execute(definitions, "archive", instance, tags_for((FIRST, LAST)))
    assert not result.success
    message = str(result.failure_data_for_node("event_archive").user_failure_data.description)
    assert message.startswith("1 of 8 days failed; 7 were archived, 0 were not attempted\n- 2026-01-05")
    keys = [day.isoformat() for day in WEEK]
    statuses = instance.get_status_by_partition(dg.AssetKey("event_archive"), keys, DAYS)
    reported = {day for day, status in statuses.items() if status and status.value == "MATERIALIZED"}
    assert reported == {day.isoformat() for day in WEEK if day != bad}
    assert [load_events(lake, day).height for day in WEEK if day != bad] == [2] * 7


@pytest.mark.parametrize("is_wrong", [False, True])
def test_lake_equals_ledger(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    lake: LocalLake,
    is_wrong: bool,
) -> None:
    """One damaged file of any archived open day fails the check of every later run, and the table names the day."""
    yesterday = TODAY - timedelta(days=1)
    report_usage(yesterday, FIRST)
    fold(pool)
    assert execute(definitions, "archive", instance, tags_for((yesterday, yesterday))).success
    if is_wrong:
        for part in lake.root.glob("counters/*/*/part.parquet"):
            part.write_bytes(part.read_bytes()[:-1])
    result = evaluations(execute(definitions, "archive", instance, tags_for((FIRST, FIRST))))["lake_equals_ledger"]
    assert result.passed is not is_wrong
    assert result.metadata["offenders"].value == int(is_wrong)
    if is_wrong:
        table = result.metadata["worst"]
        assert isinstance(table, dg.TableMetadataValue)
        assert [row.data["day"] for row in table.records] == [yesterday.isoformat()]


def test_the_night_asks_for_closed_days_until_they_are_archived(
    tick: Tick,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
) -> None:
    """One run over the range; open days wait, late events ask again; days before 2000 have no partition."""
    report_usage(*WEEK, TODAY - timedelta(days=3), date(1999, 12, 31))
    fold(pool)
    requests = tick()
    assert isinstance(requests, list)
    assert [days_of(request.tags) for request in requests] == [WEEK]
    assert execute(definitions, "archive", instance, requests[0].tags).success
    assert isinstance(tick(), dg.SkipReason)

    report_usage(FIRST, customer="late")
    fold(pool)
    requests = tick()
    assert isinstance(requests, list)
    assert [days_of(request.tags) for request in requests] == [[FIRST]]


def test_a_day_that_a_run_holds_is_not_asked_for(
    tick: Tick,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
) -> None:
    """Neither while it is archived nor while it is recounted; when the run fails the next night asks."""
    report_usage(FIRST)
    fold(pool)
    job = definitions.resolve_job_def("recount")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=tags_for((FIRST, FIRST)))
    assert isinstance(tick(), dg.SkipReason)
    instance.report_run_failed(run)
    assert isinstance(tick(), list)


def test_a_night_is_bounded(
    tick: Tick, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, report_usage: Report
) -> None:
    """The oldest days first, at most ARCHIVE_LIMIT of them: the rest is asked for the next night."""
    monkeypatch.setattr(triggers, "ARCHIVE_LIMIT", 3)
    report_usage(*WEEK)
    fold(pool)
    requests = tick()
    assert isinstance(requests, list)
    assert [days_of(request.tags) for request in requests] == [WEEK[:3]]


def test_the_lake_lies_in_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unless STRIPEMETER_LAKE says otherwise."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.delenv("STRIPEMETER_LAKE", raising=False)
    assert LakeResource().lake.root == tmp_path / "lake"
    monkeypatch.setenv("STRIPEMETER_LAKE", str(tmp_path / "elsewhere"))
    assert LakeResource().lake.root == tmp_path / "elsewhere"


def test_damaged_counters_stop_the_archive(
    definitions: dg.Definitions, instance: dg.DagsterInstance, pool: ConnectionPool, report_usage: Report
) -> None:
    """What is wrong in Postgres does not get into the lake."""
    report_usage(FIRST)
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = quantity_sum + 1")
    assert not execute(definitions, "archive", instance, tags_for((FIRST, FIRST))).success
