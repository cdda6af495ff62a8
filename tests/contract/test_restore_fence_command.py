"""`stripemeter restore-fence`: what an operator types after a restore."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.stripe_bench import StripeBench, open_bench

Run = Callable[..., subprocess.CompletedProcess[str]]
AGO = timedelta(hours=3)


@pytest.fixture
def run(database_url: str, emulator: RunningEmulator, tmp_path: Path) -> Run:
    """Type `stripemeter ...` with the emulator as the test account."""

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("STRIPE", "DATABASE"))}
        return subprocess.run(
            [sys.executable, "-m", "stripemeter.cli.main", *words],
            env={
                **kept,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "DATABASE_URL": database_url,
                "STRIPEMETER_HOME": str(tmp_path),
                "STRIPE_TEST_SECRET_KEY": emulator.key,
                "STRIPEMETER_STRIPE_API_BASE": emulator.url,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return typed


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 the day before yesterday; Stripe, asked three hours ago, holds 7."""
    opened = open_bench(pool, emulator)
    stripe_customer = opened.bind()
    now = datetime.now(UTC) - AGO
    emulator.freeze(now)
    day = (now - timedelta(days=2)).date()
    opened.count("5", day)
    push_usage(pool, opened.sink, now=now)
    (entry,) = opened.entries()
    emulator.client().v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "timestamp": int(entry["stamped_at"].timestamp()) - 600,
            "payload": {"stripe_customer_id": stripe_customer, "value": "2"},
        }
    )
    emulator.freeze(datetime.now(UTC))
    return opened


def test_nothing_is_needed_where_nothing_was_restored(bench: StripeBench, run: Run) -> None:
    """Typed by mistake: it says so and changes nothing."""
    done = run("restore-fence", "--yes")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "outcome: not_needed")
    with transaction(bench.pool) as tx:
        assert tx.execute("select count(*) from push_epochs").fetchone() == (1,)


def test_from_a_restore_to_pushing_by_hand(bench: StripeBench, run: Run) -> None:
    """Refused, shown, fenced, waited for, opened, pushed; doctor and the plan say the same."""
    with transaction(bench.pool) as tx:
        tx.execute("update push_epochs set timeline = 77")
    pushed = run("stripe", "push")
    assert pushed.returncode == 1
    assert "stripemeter restore-fence" in pushed.stderr
    assert "another timeline" in json.loads(run("push", "plan", "--json").stdout)["fenced"]
    shown = json.loads(run("restore-fence", "--json").stdout)
    assert (shown["outcome"], shown["minutes"], shown["quantity"]) == ("preview", 1, "2")
    assert [row["customer_ref"] for row in shown["rows"]] == ["ada"]
    early = run("restore-fence", "--yes")
    assert early.returncode == 1
    assert "run this again after" in early.stderr
    stopped_at = (datetime.now(UTC) - timedelta(hours=2)).isoformat(timespec="seconds")
    opened = run("restore-fence", "--yes", "--stopped-at", stopped_at, "--json")
    assert opened.returncode == 0, opened.stderr
    assert (json.loads(opened.stdout)["outcome"], json.loads(opened.stdout)["minutes"]) == ("opened", 1)
    assert json.loads(run("push", "plan", "--json").stdout)["fenced"] == ""
    assert run("stripe", "push").returncode == 0
    assert sorted(entry["delta"] for entry in bench.entries()) == [Decimal(-2), Decimal(2), Decimal(5)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--stopped-at", "yesterday"), "must be like 2026-11-28T14:00:00Z"),
        (("--stopped-at", "2026-11-28T14:00:00"), "needs a time zone"),
        (("--stopped-at", "2999-01-01T00:00:00Z", "--by-hand"), "in the future"),
    ],
)
def test_a_time_that_cannot_be_is_refused(run: Run, words: tuple[str, ...], said: str) -> None:
    """Exit 1, one line, nothing fenced."""
    done = run("restore-fence", "--yes", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
