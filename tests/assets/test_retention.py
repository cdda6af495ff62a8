"""Scheduled retention: nothing goes unless the operator says how many months stay; then what the lake proves goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import month_start, next_month
from stripemeter.pipeline.archive import archive_days
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.retention import KEPT_AFTER, months_to_drop
from stripemeter.runtime.settings import load_settings
from stripemeter.store.dropped_months import list_dropped_months
from stripemeter.store.lake import LocalLake
from stripemeter.store.ledger import ensure_month
from stripemeter.store.postgres import transaction
from stripemeter_assets import retention
from stripemeter_assets.definitions import build_definitions
from stripemeter_assets.resources import LakeResource, PostgresResource
from tests.assets.running import Report

Tick = Callable[[], dg.RunRequest | dg.SkipReason]


def months_ago(count: int) -> date:
    """First day of the month so many before this one."""
    month = month_start(datetime.now(UTC).date())
    for _ in range(count):
        month = month_start(month - timedelta(days=1))
    return month


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    """The lake the definitions read."""
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
    """One tick of the schedule, as the code server evaluates it."""

    def evaluate() -> object:
        with dg.build_schedule_context(instance=instance, resources={"postgres": postgres_resource}) as context:
            return retention.nightly_retention(context)

    return evaluate  # type: ignore[return-value]


def run(definitions: dg.Definitions, instance: dg.DagsterInstance, request: object) -> dg.ExecuteInProcessResult:
    """The run a tick asked for."""
    assert isinstance(request, dg.RunRequest)
    job = definitions.resolve_job_def("retention")
    return job.execute_in_process(instance=instance, run_config=request.run_config, raise_on_error=False)


def gone(pool: ConnectionPool) -> set[date]:
    """The dropped months."""
    with transaction(pool) as tx:
        return list_dropped_months(tx)


def test_by_default_everything_stays(tick: Tick, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a number that makes no sense is refused, naming the variable."""
    monkeypatch.delenv("STRIPEMETER_RETAIN_MONTHS", raising=False)
    skipped = tick()
    assert isinstance(skipped, dg.SkipReason)
    assert "STRIPEMETER_RETAIN_MONTHS is not set" in str(skipped.skip_message)
    for wrong in ("1", "0", "-3", "many"):
        monkeypatch.setenv("STRIPEMETER_RETAIN_MONTHS", wrong)
        with pytest.raises(InvalidInput, match="STRIPEMETER_RETAIN_MONTHS"):
            load_settings()


def test_old_months_go_once_the_lake_has_them(
    tick: Tick,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    lake: LocalLake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those beyond the ones to keep; one that is not archived stays, fails the run by name and is asked for again."""
    monkeypatch.setenv("STRIPEMETER_RETAIN_MONTHS", "4")
    old, older, kept = months_ago(5), months_ago(6), months_ago(4)
    report_usage(old, older, kept, datetime.now(UTC).date())
    fold(pool)
    list(archive_days(pool, lake, [old, kept]))
    failed = run(definitions, instance, tick())
    assert not failed.success
    message = str(failed.failure_data_for_node("drop_months").user_failure_data.description)
    assert message.startswith(f"1 of 2 months stay in Postgres\n- {older:%Y-%m}: the lake does not have {older}")
    assert gone(pool) == {old}
    list(archive_days(pool, lake, [older]))
    assert run(definitions, instance, tick()).success
    assert gone(pool) == {old, older}
    assert isinstance(tick(), dg.SkipReason)

    report_usage(old, customer="late")  # its partition is there again
    fold(pool)
    list(archive_days(pool, lake, [old]))
    assert run(definitions, instance, tick()).success
    assert isinstance(tick(), dg.SkipReason)
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from events where ts < %s", [kept]).fetchone() == (0,)


def test_a_run_under_way_is_not_asked_for_again(
    tick: Tick,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    pool: ConnectionPool,
    report_usage: Report,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds the month's locks already; when it has ended the next night asks."""
    monkeypatch.setenv("STRIPEMETER_RETAIN_MONTHS", "2")
    report_usage(months_ago(5))
    fold(pool)
    job = definitions.resolve_job_def("retention")
    started = instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, run_config={"ops": {"drop_months": {"config": {"months": []}}}}
    )
    assert isinstance(tick(), dg.SkipReason)
    instance.report_run_failed(started)
    assert isinstance(tick(), dg.RunRequest)


def test_months_to_drop(pool: ConnectionPool) -> None:
    """Whole months before the current one are kept, as many as said, and none that may still be invoiced goes."""
    months = [date(2025, 12, 1), date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)]
    with transaction(pool) as tx:
        for month in months:
            ensure_month(tx, month)

    def at(year: int, month: int, day: int, retain_months: int) -> list[date]:
        now = datetime(year, month, day, tzinfo=UTC)
        return [found for found in months_to_drop(pool, now=now, retain_months=retain_months) if found in months]

    assert at(2026, 6, 30, 2) == months[:4]
    assert at(2026, 6, 30, 3) == months[:3]
    assert at(2026, 6, 30, 6) == []
    assert at(2027, 1, 1, 12) == months[:1]
    youngest = datetime.combine(next_month(months[1]), datetime.min.time(), UTC) + KEPT_AFTER
    assert (youngest.month, youngest.day) == (4, 4)
    assert at(2026, 4, 3, 2) == months[:1]
    assert at(2026, 4, 4, 2) == months[:2]
