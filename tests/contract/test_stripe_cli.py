"""`stripemeter stripe`: what an operator types, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.days import month_bounds
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(database_url: str, emulator: RunningEmulator, tmp_path: Path) -> Run:
    """Type `stripemeter stripe ...` with the emulator as the test account."""
    return _typed("stripe", database_url, emulator, tmp_path)


@pytest.fixture
def run_push(database_url: str, emulator: RunningEmulator, tmp_path: Path) -> Run:
    """Type `stripemeter push ...` likewise."""
    return _typed("push", database_url, emulator, tmp_path)


def _typed(noun: str, database_url: str, emulator: RunningEmulator, tmp_path: Path) -> Run:
    def typed(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("STRIPE", "DATABASE"))}
        return subprocess.run(
            [sys.executable, "-m", "stripemeter.cli.main", noun, *words],
            env={
                **environment,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "DATABASE_URL": database_url,
                "STRIPEMETER_HOME": str(tmp_path),
                "STRIPE_TEST_SECRET_KEY": emulator.key,
                "STRIPEMETER_STRIPE_API_BASE": emulator.url,
                **more,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return typed


def answer(done: subprocess.CompletedProcess[str]) -> Any:  # noqa: ANN401 - any JSON
    """What a command that must succeed printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_from_a_counter_to_stripe_by_hand(run: Run, pool: ConnectionPool) -> None:
    """Map, bind, push, reconcile, look; and saying the same again changes nothing."""
    mapped = answer(run("map", "calls", "--tenant", "t", "--event-name", "api_calls", "--json"))
    bound = answer(run("bind", "ada", "--tenant", "t", "--json"))
    assert answer(run("map", "calls", "--tenant", "t", "--event-name", "api_calls", "--json"))["id"] == mapped["id"]
    assert answer(run("bind", "ada", "--tenant", "t", "--json"))["stripe_customer_id"] == bound["stripe_customer_id"]
    day = datetime.now(UTC).date() - timedelta(days=1)
    with transaction(pool) as tx:
        tx.execute(
            """
            insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum,
                quantity_min, quantity_max, quantity_last, last_ts, last_seq)
            values ('t', 'ada', 'calls', %s, %s, 1, 12.5, 12.5, 12.5, 12.5, now(), 1)
            """,
            (day, month_bounds(day)[0]),
        )
    assert run("reconcile", "--json").returncode == 0  # unsent is drift that a push explains
    pushed = answer(run("push", "--json"))
    assert (pushed["accepted"], pushed["quantity"]) == (1, "12.5")
    assert answer(run("reconcile", "--json"))["ok"] == 1
    status = answer(run("status", "--json"))
    assert [row["state"] for row in status["outbox"]] == ["confirmed"]
    assert status["days"] == {"ok": 1}
    assert "api_calls" in run("status").stdout


def test_what_cannot_be_is_refused_in_words(run: Run) -> None:
    """Wrong aggregation, unknown Stripe customer, unknown row, live without the switch: exit 1 and one line."""
    for words, said in (
        (("map", "seats", "--tenant", "t", "--aggregation", "avg"), "aggregation: must be one of sum, count"),
        (("map", "seats", "--tenant", "t", "--aggregation", "unique"), "needs a meter that counts distinct values"),
        (("map", "seats", "--tenant", "t", "--off"), "is not mapped"),
        (("bind", "ada", "--tenant", "t", "--stripe-customer", "cus_nobody"), "no customer cus_nobody"),
        (("release", "nonsense", "--tenant", "t"), "is a UUID"),
        (("push", "--live"), "STRIPEMETER_ALLOW_LIVE"),
    ):
        done = run(*words)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_without_any_key_nothing_is_called(run: Run) -> None:
    """No key and no stack: a refusal that says what to set."""
    done = run("push", STRIPE_TEST_SECRET_KEY="")
    assert (done.returncode, "set STRIPE_TEST_SECRET_KEY" in done.stderr) == (1, True)


def test_the_plan_comes_before_the_push(
    run: Run, run_push: Run, pool: ConnectionPool, emulator: RunningEmulator
) -> None:
    """`push plan` shows it, `push apply` alone refuses, `push apply --yes` sends just that."""
    answer(run("map", "calls", "--tenant", "t", "--json"))
    answer(run("bind", "ada", "--tenant", "t", "--json"))
    day = datetime.now(UTC).date() - timedelta(days=1)
    with transaction(pool) as tx:
        tx.execute(
            """
            insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum,
                quantity_min, quantity_max, quantity_last, last_ts, last_seq)
            values ('t', 'ada', 'calls', %s, %s, 1, 12.5, 12.5, 12.5, 12.5, now(), 1)
            """,
            (day, month_bounds(day)[0]),
        )
    plan = answer(run_push("plan", "--json"))
    assert [(row["customer_ref"], row["day"], row["quantity"]) for row in plan["rows"]] == [
        ("ada", day.isoformat(), "12.5")
    ]
    refused = run_push("apply")
    assert (refused.returncode, emulator.ledger()) == (1, [])
    assert "--yes" in refused.stderr
    sent = answer(run_push("apply", "--yes", "--json"))
    assert (sent["accepted"], sent["quantity"]) == (plan["events"], plan["quantity"])
    assert [row["value"] for row in emulator.ledger()] == ["12.5"]
