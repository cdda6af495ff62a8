"""`stripemeter stripe recheck`: an operator finds what Stripe dropped without a word."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput
from stripemeter.pipeline.push import push_usage
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.stripe_bench import NO_PAUSE, NOW, TODAY, StripeBench, open_bench

YESTERDAY = TODAY - timedelta(days=1)


@pytest.fixture
def bench(
    pool: ConnectionPool,
    emulator: RunningEmulator,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> StripeBench:
    """Yesterday's 5 were acknowledged and dropped, days ago by the machine's clock."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("5", YESTERDAY)
    emulator.fault({"match": {"path_re": "meter_events"}, "do": {"kind": "drop_async"}})
    push_usage(pool, opened.sink, now=NOW, retries=NO_PAUSE)
    return opened


def recheck(*words: str, status: int = 0) -> dict[str, Any]:
    """What `stripemeter stripe recheck ... --json` prints."""
    answer = CliRunner().invoke(app, ["stripe", "recheck", *words, "--json"])
    if isinstance(answer.exception, InvalidInput):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    printed: dict[str, Any] = json.loads(answer.stdout)
    return printed


def test_c19_an_operator_finds_what_was_dropped(bench: StripeBench) -> None:
    """C19: doubted and read at once, read again ten minutes later, and then the next push sends it."""
    first = recheck("--tenant", bench.tenant, "--day", YESTERDAY.isoformat(), "--reason", "short")
    assert (first["doubted"], first["still_doubted"], first["rows"][0]["outcome"]) == (1, 1, "again")
    assert recheck()["rows"] == []
    with transaction(bench.pool) as tx:
        tx.execute("update push_doubts set read_at = read_at - interval '10 min', next_reading_at = now()")
    second = recheck(status=1)
    assert (second["absent"], second["still_doubted"]) == (1, 0)
    assert bench.states() == ["rejected_async"]
    now = datetime.now(UTC)
    bench.emulator.freeze(now)
    push_usage(bench.pool, bench.sink, now=now, retries=NO_PAUSE)
    assert bench.at_stripe(YESTERDAY) == 5


@pytest.mark.parametrize(
    "words",
    [
        ["--day", "2026-11-22", "--reason", "short"],
        ["--tenant", "t", "--reason", "short"],
        ["--reason", "short"],
        ["--meter", "calls"],
        ["--tenant", "t", "--day", "yesterday", "--reason", "short"],
        ["--tenant", "t", "--day", "2026-11-22"],
    ],
)
def test_half_an_order_is_refused(bench: StripeBench, words: list[str]) -> None:
    """Usage is sent again only for a named day, with a reason."""
    with pytest.raises(InvalidInput):
        recheck(*words)
    assert bench.states() == ["accepted"]
    with transaction(bench.pool) as tx:
        assert tx.execute("select count(*) from push_doubts").fetchone() == (0,)
