"""Backfills that came over HTTP: the sensor asks for what waits, the job does it, and what died goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

import dagster as dg
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline import backfill as runner
from stripemeter.pipeline.error_report import load_report, report_path
from stripemeter.pipeline.request_backfill import BackfillRequest, new_backfill, record_backfill
from stripemeter.pipeline.revert import request_revert
from stripemeter.store.backfills import Backfill, RowCounts, load_backfill, lock_backfill
from stripemeter.store.files import find_source
from stripemeter.store.postgres import transaction
from stripemeter_assets import backfills
from stripemeter_assets.resources import PostgresResource
from tests.backfills import asked, create, line, stopping_after, write

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
Tick = Callable[[], list[dg.RunRequest] | dg.SkipReason]
Execute = Callable[[dg.RunRequest], dg.ExecuteInProcessResult]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of this test's own."""
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tick(definitions: dg.Definitions, instance: dg.DagsterInstance, postgres_resource: PostgresResource) -> Tick:
    """One tick of the sensor, as the code server evaluates it."""

    def evaluate() -> object:
        with dg.build_sensor_context(instance=instance, resources={"postgres": postgres_resource}) as context:
            return backfills.pending_backfills(context)

    return evaluate  # type: ignore[return-value]


@pytest.fixture
def execute(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Execute:
    """The run a request asks for, in this process; a failed one is an answer."""

    def run(request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        return definitions.resolve_job_def("backfill").execute_in_process(
            instance=instance, run_config=request.run_config, tags=request.tags, raise_on_error=False
        )

    return run


def ask(pool: ConnectionPool, **members: object) -> UUID:
    """A backfill of January 2026 as the API records it."""
    said = {"customer_ref": None, "period_end": date(2026, 1, 31), "events": None, "csv_data": None, "source_url": None}
    request = BackfillRequest(
        tenant_id="acme", metric="api_calls", period_start=date(2026, 1, 1), reason="test", actor="test",
        **{**said, **members},  # type: ignore[arg-type]
    )  # fmt: skip
    return record_backfill(
        pool, new_backfill(request, max_events=5000, readable=["s3://usage/"]), limits=IngestLimits(), now=NOW
    )


def rows(count: int, quantity: object = 1) -> list[dict[str, object]]:
    """Events of January, one a day and again."""
    return [
        {
            "customerRef": "c1",
            "quantity": quantity,
            "ts": f"2026-01-{number % 28 + 1:02}T00:00:00Z",
            "idempotencyKey": f"key-{number}",
        }
        for number in range(count)
    ]


def stored(pool: ConnectionPool, backfill_id: UUID) -> Backfill:
    """The operation as the table has it."""
    with transaction(pool) as tx:
        return load_backfill(tx, backfill_id)


def ids(requests: list[dg.RunRequest] | dg.SkipReason) -> list[str]:
    """Which operations runs are requested for."""
    assert isinstance(requests, list), requests
    return [request.tags[backfills.OPERATION_TAG] for request in requests]


def only(requests: list[dg.RunRequest] | dg.SkipReason) -> dg.RunRequest:
    """The one request."""
    assert isinstance(requests, list), requests
    (request,) = requests
    return request


def test_a_pending_operation_is_run_to_its_end(tick: Tick, execute: Execute, pool: ConnectionPool, home: Path) -> None:
    """Requested, stored with its id, reported, its payload gone, and asked for no more."""
    assert isinstance(tick(), dg.SkipReason)
    backfill_id = ask(pool, events=[*rows(3), {"quantity": 1}])
    assert execute(only(tick())).success
    found = stored(pool, backfill_id)
    assert (found.status, found.counts) == ("completed", RowCounts(accepted=3, failed=1))
    (error,) = load_report(report_path(home, backfill_id), committed_bytes=found.report_bytes, limit=100)
    assert (error.row, error.field) == (4, "customerRef")
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from events where backfill_id = %s", [backfill_id]).fetchone() == (3,)
        assert tx.execute("select payload from backfills").fetchone() == (None,)
    assert isinstance(tick(), dg.SkipReason)


def test_files_are_left_to_whoever_typed_them(tick: Tick, pool: ConnectionPool, tmp_path: Path) -> None:
    """An interrupted `stripemeter ingest` names a path of another machine, perhaps."""
    create(pool, asked(write(tmp_path / "f.csv", [line(1)])))
    assert isinstance(tick(), dg.SkipReason)


def test_one_run_per_operation(
    tick: Tick, pool: ConnectionPool, definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    """Not asked for again while a run is under way, nor for a while after one failed; another operation is."""
    first, second = ask(pool, events=rows(1)), ask(pool, events=rows(1))
    assert sorted(ids(tick())) == sorted([str(first), str(second)])
    run = instance.create_run_for_job(
        definitions.resolve_job_def("backfill"),
        run_config=backfills._request(str(first)).run_config,
        tags={backfills.OPERATION_TAG: str(first)},
        status=dg.DagsterRunStatus.STARTED,
    )
    assert ids(tick()) == [str(second)]
    instance.report_run_failed(run)
    assert ids(tick()) == [str(second)]


def test_the_pause_after_a_failure_ends(
    tick: Tick,
    pool: ConnectionPool,
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The level is still there, so the request comes back."""
    backfill_id = ask(pool, events=rows(1))
    run = instance.create_run_for_job(
        definitions.resolve_job_def("backfill"),
        run_config=backfills._request(str(backfill_id)).run_config,
        tags={backfills.OPERATION_TAG: str(backfill_id)},
    )
    instance.report_run_failed(run)
    assert isinstance(tick(), dg.SkipReason)
    monkeypatch.setattr(backfills, "PAUSE", timedelta(0))
    assert ids(tick()) == [str(backfill_id)]


def test_what_somebody_else_runs_is_not_asked_for(tick: Tick, pool: ConnectionPool, database_url: str) -> None:
    """`stripemeter backfills run` holds the same lock; when it dies, the operation waits again."""
    backfill_id = ask(pool, events=rows(1))
    with psycopg.connect(database_url, autocommit=True) as connection:
        lock_backfill(connection, backfill_id)
        assert isinstance(tick(), dg.SkipReason)
        connection.execute("select pg_advisory_unlock_all()")
    assert ids(tick()) == [str(backfill_id)]


def test_a_run_that_died_goes_on_from_its_checkpoint(
    tick: Tick, execute: Execute, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows before it are not read again, none is counted twice."""
    monkeypatch.setattr(runner, "BATCH_ROWS", 10)
    monkeypatch.setattr(backfills, "PAUSE", timedelta(0))
    backfill_id = ask(pool, events=rows(45))
    with stopping_after(monkeypatch, 2):
        died = execute(only(tick()))
    assert not died.success
    assert stored(pool, backfill_id).counts == RowCounts(accepted=20)
    assert stored(pool, backfill_id).status == "processing"
    assert execute(only(tick())).success
    assert stored(pool, backfill_id).counts == RowCounts(accepted=45)


def test_an_operation_that_fails_says_why_and_its_run_is_red(
    tick: Tick, execute: Execute, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that cannot be read ends it: nobody is there to mend it."""
    backfill_id = ask(pool, events=rows(1))
    monkeypatch.setattr(runner, "payload_source", lambda _: find_source("/nonexistent.jsonl"))
    assert not execute(only(tick())).success
    found = stored(pool, backfill_id)
    assert (found.status, found.error_message) == ("failed", "no file /nonexistent.jsonl")
    monkeypatch.setattr(backfills, "PAUSE", timedelta(0))
    assert isinstance(tick(), dg.SkipReason)


def test_a_revert_that_is_not_done_goes_on(tick: Tick, execute: Execute, pool: ConnectionPool) -> None:
    """Asked for and not finished by whoever asked: a run voids the rest."""
    backfill_id = ask(pool, events=rows(30))
    assert execute(only(tick())).success
    with transaction(pool) as tx:
        request_revert(tx, backfill_id, tenant_id="acme", reason="wrong", actor="ada", now=NOW)
    assert execute(only(tick())).success
    found = stored(pool, backfill_id)
    assert found.voided_count == 30
    assert found.reverted_at is not None
    assert isinstance(tick(), dg.SkipReason)
