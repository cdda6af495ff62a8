"""`stripemeter events void` and `stripemeter explain`: what somebody at a terminal can take back and be told."""

from __future__ import annotations

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, NotFound, StripeMeterError
from stripemeter.metering.replacements import next_key
from stripemeter.pipeline.fold import fold
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


def test_a_key_is_numbered_on() -> None:
    """The same key always comes to the same next one; one too long for a number is refused."""
    assert [next_key(key) for key in ("k", "k#2", "k#9", "k#0", "#1")] == ["k#2", "k#3", "k#10", "k#0#2", "#1#2"]
    assert next_key("x" * 253) == "x" * 253 + "#2"
    with pytest.raises(InvalidInput):
        next_key("x" * 254)
