"""The three Dagster processes on Postgres storage, as `stripemeter up` runs them: triggers, backfills, commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import httpx2
import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import days_between
from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.request_backfill import BackfillRequest, new_backfill, record_backfill
from stripemeter.pipeline.revert import request_revert
from stripemeter.runtime import ports
from stripemeter.runtime.children import spawn
from stripemeter.runtime.dagster_home import create_schema, dagster_pg_url, write_dagster_home
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from stripemeter.store.dagster_events import delete_superseded_reports
from stripemeter.store.postgres import open_pool, transaction
from stripemeter_assets.partitions import DAYS
from tests.assets.running import report
from tests.conftest import own_push_epoch

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

START_SECONDS = 300
"""How long anything may take here: the machine may be busy, and the backfill daemon wakes every 30 s."""
COUNTERS = dg.AssetKey("counters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What runs, and where it can be asked."""

    database_url: str
    dagster_url: str
    pool: ConnectionPool
    instance: dg.DagsterInstance
    env: dict[str, str]

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """One answer of the webserver."""
        sent = {"query": query, "variables": variables}
        answer: dict[str, Any] = httpx2.post(f"{self.dagster_url}/graphql", json=sent, timeout=60).json()
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data

    def count(self, query: str) -> int:
        """The one number a query answers."""
        with transaction(self.pool) as tx:
            (number,) = tx.execute(query).fetchone() or (0,)
        return int(number)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`stripemeter ...` beside this stack."""
        argv = [sys.executable, "-m", "stripemeter.cli.main", *arguments]
        return subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False, timeout=START_SECONDS)

    def materialized(self, days: list[date]) -> set[date]:
        """The days Dagster shows as materialised."""
        keys = [day.isoformat() for day in days]
        statuses = self.instance.get_status_by_partition(COUNTERS, keys, DAYS) or {}
        return {
            date.fromisoformat(key) for key, status in statuses.items() if status and status.value == "MATERIALIZED"
        }


@pytest.fixture(scope="module")
def stack(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Code server, webserver and daemon on a database of their own."""
    name = f"stack_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} template stripemeter_template")
    database_url = postgres.database_url(name)
    own_push_epoch(database_url)
    create_schema(database_url)
    home = tmp_path_factory.mktemp("home")
    code, web = (ports.claim("127.0.0.1", 0, setting="none") for _ in range(2))
    write_dagster_home(home / "dagster", code_server_port=code)
    env = {
        **os.environ,
        "DATABASE_URL": database_url,
        "DAGSTER_HOME": str(home / "dagster"),
        "DAGSTER_PG_URL": dagster_pg_url(database_url),
        "STRIPEMETER_HOME": str(home),
        "STRIPEMETER_DAGSTER_PORT": str(web),
    }
    workspace = str(home / "dagster" / "workspace.yaml")
    commands = {
        "code": [
            "dagster",
            "api",
            "grpc",
            "-m",
            "stripemeter_assets.definitions",
            "--host",
            "127.0.0.1",
            "--port",
            str(code),
        ],
        "web": ["dagster_webserver", "-h", "127.0.0.1", "-p", str(web), "-w", workspace],
        "daemon": ["dagster._daemon", "run", "-w", workspace],
    }
    processes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_PG_URL", env["DAGSTER_PG_URL"])
        try:
            for label, argv in commands.items():
                with (home / f"{label}.log").open("ab") as log:
                    processes.append(spawn([sys.executable, "-m", *argv], log=log, env=env))
                if label == "code":
                    until(lambda: not ports.is_free(code))
            until(lambda: not ports.is_free(web))
            with open_pool(database_url) as pool, dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
                yield Stack(
                    database_url=database_url,
                    dagster_url=f"http://127.0.0.1:{web}",
                    pool=pool,
                    instance=instance,
                    env=env,
                )
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(START_SECONDS)
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


def test_new_events_are_folded_and_shown_without_a_run(stack: Stack) -> None:
    """The sensor's tick counts them; their day and the ledger appear as materialised, and no run was started."""
    today = datetime.now(UTC).date()
    report(stack.database_url, today, customer="punctual")
    until(lambda: stack.materialized([today]) == {today})
    assert stack.instance.get_latest_materialization_event(dg.AssetKey("events")) is not None
    assert stack.count("select sum(event_count) from counters where customer_ref = 'punctual'") == 2
    assert stack.instance.get_runs(dg.RunsFilter(job_name="recount")) == []


def test_a_late_month_is_recounted_by_one_run(stack: Stack) -> None:
    """Late events of 31 days: the level-triggered sensor asks for one run, and that settles every day."""
    month = days_between(date(2025, 7, 1), date(2025, 7, 31))
    report(stack.database_url, *month, count=1, customer="late")
    until(
        lambda: stack.count("select count(*) from counter_days where day between '2025-07-01' and '2025-07-31'") == 31
    )
    with transaction(stack.pool) as tx:  # as if the burst had ended ten minutes ago
        tx.execute("update counter_days set last_folded_at = last_folded_at - interval '10 minutes'")

    until(lambda: stack.count("select count(*) from counter_days where recounted_version < dirty_version") == 0)
    runs = stack.instance.get_runs(dg.RunsFilter(tags={"stripemeter/why": "late"}))
    assert len(runs) == 1
    until(lambda: stack.instance.get_runs(dg.RunsFilter(run_ids=[runs[0].run_id]))[0].is_success)
    assert stack.materialized(month) == set(month)


def test_recount_from_the_command_line_shows_its_progress(stack: Stack) -> None:
    """`stripemeter counters recount` is a run of Dagster's: seen in its UI, followed to its end, repaired."""
    first, last = date(2025, 3, 1), date(2025, 3, 5)
    report(stack.database_url, *days_between(first, last), customer="cli")
    fold(stack.pool)
    with transaction(stack.pool) as tx:
        tx.execute("update counters set quantity_sum = quantity_sum + 1 where day = %s", [first])

    done = stack.command("counters", "recount", "--from", first.isoformat(), "--to", last.isoformat())

    assert done.returncode == 0, done.stderr
    assert "2025-03-01: 2 events, 1 counters, 1 changed" in done.stdout
    assert "2025-03-05: 2 events, 1 counters, 0 changed" in done.stdout
    run_id = done.stdout.splitlines()[0].rpartition("/")[2]
    assert stack.instance.get_run_by_id(run_id) is not None
    assert stack.materialized(days_between(first, last)) == set(days_between(first, last))
    check = dg.AssetCheckKey(COUNTERS, "counters_equal_ledger")
    proven = stack.instance.event_log_storage.get_latest_asset_check_execution_by_key([check])[check]
    assert (proven.run_id, proven.status.value) == (run_id, "SUCCEEDED")


def test_the_command_line_fails_when_a_day_fails(stack: Stack) -> None:
    """A poisoned day: exit 1, named in the output; its neighbours are recounted."""
    first, bad, last = date(2025, 5, 1), date(2025, 5, 2), date(2025, 5, 3)
    report(stack.database_url, first, last, customer="cli")
    fold(stack.pool)
    with transaction(stack.pool) as tx:
        tx.execute(
            "insert into events (xid, ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key,"
            " source) values ('1', '2025-05-02 03:00Z', now(), 'NaN', 'acme', 'api_calls', 'c1', 'poison', 'http')"
        )
    done = stack.command("counters", "recount", *(day.isoformat() for day in (first, bad, last)))
    assert done.returncode == 1
    assert "2025-05-02: FAILED" in done.stdout
    assert "1 of 3 days failed; 2 were recounted and are committed" in done.stdout
    assert "2025-05-03: 2 events" in done.stdout
    with transaction(stack.pool) as tx:
        tx.execute("delete from events where idempotency_key = 'poison'")
    assert stack.command("counters", "recount", bad.isoformat()).returncode == 0


def test_a_day_that_is_no_partition_is_refused_and_can_be_recounted_locally(stack: Stack) -> None:
    """Before 2000 there are no partitions: the refusal is clear, and --local does the work."""
    refused = stack.command("counters", "recount", "1999-12-31")
    assert refused.returncode == 1
    assert "1999-12-31" in refused.stderr
    local = stack.command("counters", "recount", "1999-12-31", "--local")
    assert local.returncode == 0, local.stderr
    assert "1999-12-31: 0 events" in local.stdout


def test_a_backfill_from_the_ui_is_one_run(stack: Stack) -> None:
    """Selecting forty days in the UI and pressing Materialize starts one run, and every day has its own event."""
    days = days_between(date(2024, 2, 1), date(2024, 3, 11))
    launch = (
        "mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params)"
        " { __typename ... on LaunchBackfillSuccess { backfillId } } }"
    )
    params = {"assetSelection": [{"path": ["counters"]}], "partitionNames": [day.isoformat() for day in days]}
    answer = stack.graphql(launch, {"params": params})["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer

    until(lambda: stack.materialized(days) == set(days))

    runs = stack.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": answer["backfillId"]}))
    assert len(runs) == 1


def test_a_backfill_over_http_is_run_and_reverted(stack: Stack) -> None:
    """The sensor finds what was recorded, one run stores it; the wish to revert it is another run."""
    asked = BackfillRequest(
        tenant_id="acme", metric="api_calls", customer_ref="old", period_start=date(2025, 9, 1), period_end=None,
        reason="test", actor="test", csv_data="quantity,ts\n7,2025-09-01T00:00:00Z\nbad,2025-09-01T00:00:00Z\n",
        events=None, source_url=None,
    )  # fmt: skip
    new = new_backfill(asked, max_events=5000, readable=())
    backfill_id = record_backfill(stack.pool, new, limits=IngestLimits(), now=datetime.now(UTC))
    until(lambda: stack.count("select count(*) from backfills where status = 'completed' and accepted_count = 1") == 1)
    assert stack.command("backfills", "show", str(backfill_id)).stdout.count("1 accepted") == 1
    until(lambda: stack.count("select count(*) from counters where customer_ref = 'old'") == 1)

    with transaction(stack.pool) as tx:
        request_revert(tx, backfill_id, tenant_id="acme", reason="wrong", actor="ada", now=datetime.now(UTC))
    until(lambda: stack.count("select count(*) from backfills where reverted_at is not null") == 1)
    assert stack.count("select count(*) from counters where customer_ref = 'old'") == 0
    runs = stack.instance.get_runs(dg.RunsFilter(job_name="backfill"))
    assert {run.tags["stripemeter/backfill"] for run in runs} == {str(backfill_id)}
    assert len(runs) == 2


def test_housekeeping_takes_back_superseded_reports(stack: Stack) -> None:
    """Of many run-less reports of a day the newest stays, and its partition stays materialised."""
    day, other = date(2023, 4, 1), date(2023, 4, 2)
    for partition in (day, day, day, other):
        stack.instance.report_runless_asset_event(dg.AssetMaterialization(COUNTERS, partition=partition.isoformat()))
    reports = "select count(*) from dagster.event_logs where run_id = '' and partition in ('2023-04-01', '2023-04-02')"

    with transaction(stack.pool) as tx:
        delete_superseded_reports(tx, datetime.now(UTC) - timedelta(hours=1))
    assert stack.count(reports) == 4

    with transaction(stack.pool) as tx:
        delete_superseded_reports(tx, datetime.now(UTC) + timedelta(hours=1))
    assert stack.count(reports) == 2
    assert stack.materialized([day, other]) == {day, other}


def until(holds: Callable[[], bool]) -> None:
    """Look again and again until it holds."""
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"did not come true within {START_SECONDS} s"
        time.sleep(0.2)
