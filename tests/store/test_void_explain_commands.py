"""`stripemeter events void` and `stripemeter explain`: what somebody at a terminal can take back and be told."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, NotFound, StripeMeterError
from stripemeter.metering.replacements import next_key
from stripemeter.pipeline.archive import archive_days
from stripemeter.pipeline.explain import explain_event, explain_usage
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.retention import drop_month
from stripemeter.pipeline.void import void_event
from stripemeter.store.lake import LocalLake
from tests.laws.worlds import NOW, Fact, ingest_into

REPLACEMENT = '{"metric": "api_calls", "customerRef": "cust_1", "quantity": 0.1, "ts": "2026-11-23T12:00:00Z"}'


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, database_url: str, pool: ConnectionPool) -> CliRunner:
    """Types commands at this test's database, which has counted one event."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="k", quantity="5")])
    fold(pool)
    return CliRunner()


def run(runner: CliRunner, *words: str) -> str:
    """What the command prints."""
    answer = runner.invoke(app, [*words, "--tenant", "acme"])
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_an_event_is_voided_and_replaced(runner: CliRunner) -> None:
    """Both are said; again, it says that nothing was left to do."""
    void = ("events", "void", "k", "--reason", "wrong", "--replacement", REPLACEMENT)
    assert run(runner, *void) == "k: voided\nk#2: accepted\n"
    again = run(runner, *void)
    assert again.startswith("k: was voided already")
    assert again.endswith("k#2: duplicate\n")
    with pytest.raises(NotFound):
        run(runner, "events", "void", "other", "--reason", "wrong")
    for text in ("{", "[]", '{"metric": 5}'):
        with pytest.raises(InvalidInput):
            run(runner, "events", "void", "k", "--reason", "wrong", "--replacement", text)
    with pytest.raises(InvalidInput):
        run(runner, "events", "void", "k", "--reason", "")


def test_events_and_usage_are_explained(runner: CliRunner) -> None:
    """State, counter and what was read of each event."""
    counted = run(runner, "explain", "event", "k")
    assert counted.startswith("k: counted\n")
    assert "counts in api_calls of cust_1" in counted
    day = NOW.date().isoformat()
    usage = run(runner, "explain", "usage", "cust_1", "api_calls", day)
    assert "1 events, sum 5.000000000000" in usage
    run(runner, "events", "void", "k", "--reason", "wrong")
    assert run(runner, "explain", "event", "k").startswith("k: voided\n")
    assert "\tvoided\t" in run(runner, "explain", "usage", "cust_1", "api_calls", day)


def test_an_event_that_left_for_the_lake_is_explained(pool: ConnectionPool, database_url: str, tmp_path: Path) -> None:
    """From its archived row and what became of it since; usage shows it and says that the lake alone has it."""
    lake = LocalLake(root=tmp_path / "lake")
    at = datetime(2025, 1, 15, 12, tzinfo=UTC)
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="old", ts=at, quantity="2.5"), Fact(key="other", ts=at)])
    fold(pool)
    list(archive_days(pool, lake, [at.date()]))
    drop_month(pool, lake, date(2025, 1, 1), now=NOW)
    counted = explain_event(pool, "acme", "old")
    assert (counted.state, counted.is_counting, counted.event.batch) == ("counted", True, None)
    assert [reading.quantity for reading in counted.readings] == [Decimal("2.5")]
    usage = explain_usage(
        pool,
        tenant_id="acme",
        customer_ref="cust_1",
        meter="api_calls",
        first_on=at.date(),
        last_on=at.date(),
        limit=5,
    )
    assert (usage.is_in_lake, usage.counters[0][0].event_count) == (True, 2)
    rows = [(row.event.idempotency_key, row.event.batch, row.state, row.is_counting) for row in usage.events]
    assert rows == [("old", None, "counted", True), ("other", None, "counted", True)]
    void_event(pool, "acme", "old", reason="wrong", actor="tester", now=NOW)
    voided = explain_event(pool, "acme", "old")
    assert (voided.state, voided.event.void_actor) == ("voided", "tester")


def test_a_key_is_numbered_on() -> None:
    """The same key always comes to the same next one; one too long for a number is refused."""
    assert [next_key(key) for key in ("k", "k#2", "k#9", "k#0", "#1")] == ["k#2", "k#3", "k#10", "k#0#2", "#1#2"]
    assert next_key("x" * 253) == "x" * 253 + "#2"
    with pytest.raises(InvalidInput):
        next_key("x" * 254)
