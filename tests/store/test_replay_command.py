"""`stripemeter replay`: a window before now, exit statuses, and going on after an interruption."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner, Result

from stripemeter.cli import replay as command
from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.pipeline import replay as pipeline_replay
from stripemeter.pipeline.fold import fold
from stripemeter.store.postgres import transaction
from tests.laws.worlds import Fact, ingest_into, parse

NOW = datetime.now(UTC)
WINDOW = ("replay", "--tenant", "acme", "--since", "-P40D", "--until", "now")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str, pool: ConnectionPool) -> Path:
    """Where the command keeps its state; its database has one wrong counter, early in the window."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    with ingest_into(database_url, clock=lambda: NOW) as ingest:
        ingest.accept_parsed(parse([Fact(key="a", ts=NOW - timedelta(days=39), quantity="3")], now=NOW))
        ingest.accept_parsed(parse([Fact(key="b", ts=NOW, quantity="4")], now=NOW))
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = 1 where quantity_sum = 3")
    return tmp_path


def run(*words: str) -> Result:
    """What the command answers."""
    return CliRunner().invoke(app, [*WINDOW, *words])


def test_a_dry_run_fails_until_it_is_applied(home: Path) -> None:
    """1 while something differs, 0 once it was applied; pages are said on the way, no checkpoint stays."""
    told = run()
    assert told.exit_code == 1, told.output
    assert "api_calls: 1 events, 0 late, +2, 1 customers" in told.stdout.replace(".000000000000", "")
    assert "41/41 days" in told.stderr
    assert run("--apply").exit_code == 0
    assert run().exit_code == 0
    assert not list((home / "replays").glob("*"))


def test_an_interrupted_replay_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second page fails; --resume starts there, in the same window, and still knows what the first page found."""
    real = pipeline_replay.replay
    pages: list[tuple[object, object, object]] = []

    def failing(*arguments: object, **options: object) -> pipeline_replay.Replayed:
        pages.append((options["since"], options["until"], options["next_day"]))
        if len(pages) == 2:
            raise Unavailable("planted")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline_replay, "replay", failing)
    monkeypatch.setattr(command, "PAGE_DAYS", 30)
    assert isinstance(run().exception, Unavailable)
    (checkpoint,) = (home / "replays").glob("*.json")
    assert json.loads(checkpoint.read_text())["next_day"] == str(pages[1][2])

    resumed = run("--resume")

    assert resumed.exit_code == 1, "what the first page found still differs"
    assert pages[1] == pages[2], "the same page of the same window"
    assert len(pages) == 3
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("since", "until"),
    [("-P", "now"), ("-P1M", "now"), ("yesterday", "now"), ("2026-01-01T00:00:00", "now"), ("now", "-PT1H")],
)
def test_what_is_no_window_is_refused(home: Path, since: str, until: str) -> None:
    """Durations of fixed length, instants with a zone, the first before the last."""
    answer = CliRunner().invoke(app, ["replay", "--tenant", "acme", "--since", since, "--until", until])
    assert isinstance(answer.exception, InvalidInput)
    assert answer.exception.field in {"--since", "--until"}
