"""kill -9 of every process of a loaded stack: each acknowledged event is in the ledger and the counters once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import httpx2
import psycopg
import pytest

from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.runtime.processes import command_line, members
from stripemeter.store.postgres import open_pool
from tests.stacks import Stack, is_folded, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("stack"), pytest.mark.timeout(600)]

BATCH = 20
DAYS = 5
RUN_DEADLINE_SECONDS = 300
"""A run of a killed process holds its place in Dagster's queue until run monitoring gives it up (`dagster.yaml`:
120 s to start, a look every 30 s), and a recount waits for it."""


class Load:
    """Clients that send batches and resend each, unchanged, until it is answered; remembers what was acknowledged."""

    def __init__(self, api_url: str, name: str, *, clients: int = 3) -> None:
        self.api_url = api_url
        self.name = name
        self.acknowledged: set[str] = set()
        self.errors = 0
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send_until_stopped, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        """Start the clients."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let every client have its last batch answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)
            assert not thread.is_alive()

    def wait_for(self, more: int) -> None:
        """Return when this many further events are acknowledged."""
        target = len(self.acknowledged) + more
        wait_until(lambda: len(self.acknowledged) >= target, f"{more} more events to be acknowledged")

    def _send_until_stopped(self) -> None:
        now = datetime.now(UTC)
        while not self._stop.is_set():
            numbers = [next(self._numbers) for _ in range(BATCH)]
            events = [
                {
                    "tenantId": self.name,
                    "metric": "calls",
                    "customerRef": f"c{number % 7}",
                    "quantity": 1,
                    "ts": (now - timedelta(days=number % DAYS)).isoformat(),
                    "idempotencyKey": f"{self.name}-{number}",
                }
                for number in numbers
            ]
            self._send(events)

    def _send(self, events: list[dict[str, object]]) -> None:
        for _ in range(1200):
            try:
                answer = httpx2.post(f"{self.api_url}/v1/events/ingest", json={"events": events}, timeout=30)
            except httpx2.TransportError:
                self.errors += 1
            else:
                if answer.status_code == 200:
                    results = answer.json()["results"]
                    assert {result["status"] for result in results} <= {"accepted", "duplicate"}
                    self.acknowledged |= {result["idempotencyKey"] for result in results}
                    return
                assert answer.status_code == 503, answer.text
                self.errors += 1
            threading.Event().wait(0.05)
        raise AssertionError("a batch was not answered in a minute")


def assert_each_counted_once(stack: Stack, load: Load) -> None:
    """Every acknowledged key is one ledger row; counters, ledger and tallies agree; usage reads say the same."""
    api_url = stack.api_url
    wait_until(lambda: is_folded(api_url), "the fold")
    with psycopg.connect(stack.database_url) as connection:
        stored = {
            key
            for (key,) in connection.execute(
                "select idempotency_key from events where tenant_id = %s", (load.name,)
            ).fetchall()
        }
        (rows,) = connection.execute("select count(*) from events where tenant_id = %s", (load.name,)).fetchone() or (
            0,
        )
        (counted,) = connection.execute(
            "select sum(event_count) from counters where tenant_id = %s", (load.name,)
        ).fetchone() or (0,)
    assert stored == load.acknowledged  # every batch was answered in the end, so nothing else may be there either
    assert rows == counted == len(load.acknowledged)
    today = datetime.now(UTC).date()
    with open_pool(stack.database_url, max_size=2) as pool:
        assert counters_equal_ledger(pool, [today - timedelta(days=ago) for ago in range(DAYS + 1)]) == ()
        assert [one for one in conservation(pool) if not one.holds] == []


@pytest.mark.parametrize("service", ["api-1", "postgres", "code-server", "dagster-daemon", "stripe-emulator"])
def test_killing_a_service_loses_and_doubles_nothing(stack: Stack, service: str) -> None:
    """A service killed with -9 under load is restarted, and every acknowledged event is counted exactly once."""
    with Load(stack.api_url, f"kill-{service}") as load:
        load.wait_for(400)
        stack.kill(service)
        load.wait_for(400)
    assert_each_counted_once(stack, load)


def test_killing_a_run_worker_leaves_every_counter_right(stack: Stack, tmp_path: Path) -> None:
    """A recount run whose worker is killed with -9 changes no total; the day is recounted by the next run."""
    with Load(stack.api_url, "kill-run-worker") as load:
        load.wait_for(400)
        with _recount_running(stack, tmp_path / "recount.txt"):
            for pid in _run_workers(stack):
                os.kill(pid, signal.SIGKILL)
            load.wait_for(400)
    assert_each_counted_once(stack, load)


@contextmanager
def _recount_running(stack: Stack, told: Path) -> Iterator[None]:
    """A recount of many days, in the midst of its Dagster run; asked for again when Dagster was not ready for it."""
    today = datetime.now(UTC).date()
    command = [
        *(sys.executable, "-m", "stripemeter.cli.main", "counters", "recount"),
        *("--from", str(today - timedelta(days=100)), "--to", str(today)),
    ]
    with told.open("w", encoding="utf-8") as output:
        for _ in range(3):
            recount = subprocess.Popen(command, env=stack.env, stdout=output, stderr=subprocess.STDOUT)
            try:
                wait_until(
                    lambda: _run_workers(stack) != [] or recount.poll() is not None,  # noqa: B023 - awaited here
                    "the run worker",
                    deadline_seconds=RUN_DEADLINE_SECONDS,
                )
                if recount.poll() is None:
                    yield
                    return
            finally:
                recount.terminate()
                recount.wait()
    raise AssertionError(f"no recount ran:\n{told.read_text(encoding='utf-8')}")


def test_killing_the_supervisor_leaves_no_orphan_and_loses_nothing(stack: Stack) -> None:
    """kill -9 of the supervisor ends everything of the stack; the next `up` goes on with nothing lost or doubled."""
    mark = _mark(stack)
    with Load(stack.api_url, "kill-supervisor") as load:
        load.wait_for(400)
        os.kill(int(stack.status()["supervisor_pid"]), signal.SIGKILL)
        wait_until(lambda: members(mark) == [], "every process of the stack to end")
        stack.cli("up", "-d", "--wait")
        load.api_url = stack.api_url
        load.wait_for(400)
    assert_each_counted_once(stack, load)


def _mark(stack: Stack) -> str:
    return str(json.loads((stack.home / "stack.json").read_text(encoding="utf-8"))["mark"])


def _run_workers(stack: Stack) -> list[int]:
    """Pids of the stack's Dagster run workers: the code server starts them through multiprocessing's spawn."""
    return [pid for pid in members(_mark(stack)) if any("spawn_main" in part for part in command_line(pid))]
