"""`stripemeter backtest` and `stripemeter plans`: what docs/backtests.md shows is what comes out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner, Result

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prices import say_price
from tests.laws.worlds import Fact, ingest_into

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backtests.md"
BLOCK = re.compile(r"(?P<fence>`{3,4})(?P<kind>\w+)(?: (?P<name>\S+))?\n(?P<text>.*?)(?P=fence)\n", re.DOTALL)
USED = {"ada": (800, 1_200), "bob": (5_000, 4_000), "cyd": (60_000, 0)}
MONTHS = ("--from", "2025-01", "--to", "2025-02")
Run = Callable[..., Result]


@pytest.fixture
def blocks() -> dict[str, str]:
    """What the page shows, by the name of a block or its kind."""
    return {found["name"] or found["kind"]: found["text"] for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


@pytest.fixture
def run(
    database_url: str, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocks: dict[str, str]
) -> Run:
    """The command on this test's database, in a directory with the page's plans and usage counted."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("current.yaml", "tiered.yaml"):
        (tmp_path / name).write_text(blocks[name])
    with ingest_into(database_url) as ingest:
        ingest.accept(
            [
                Fact(
                    tenant="demo",
                    customer=customer,
                    quantity=str(calls),
                    ts=datetime(2025, month, 9, tzinfo=UTC),
                    key=f"{customer}{month}",
                )
                for customer, used in USED.items()
                for month, calls in enumerate(used, start=1)
                if calls
            ]
        )
    fold(pool)
    return lambda *words: CliRunner().invoke(app, words)


def test_the_page_shows_what_comes_out(run: Run, blocks: dict[str, str], tmp_path: Path) -> None:
    """The differences of the two plans and the summary, word by word; the files say the same, twice."""
    assert run("plans", "diff", "current.yaml", "tiered.yaml").stdout == blocks["diff"]
    question = ("backtest", "--tenant", "demo", "--baseline", "current.yaml", "--plan", "tiered.yaml", *MONTHS)
    done = run(*question)
    assert done.exit_code == 0, done.output
    assert done.stdout == blocks["markdown"]
    assert "3 of 4: current" in done.stderr
    first = {path.name: path.read_bytes() for path in (tmp_path / "backtest").iterdir()}
    assert json.loads(run(*question, "--format", "json").stdout) == json.loads(first["backtest.json"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "backtest").iterdir()} == first
    page = first["backtest.html"].decode()
    assert page.count("<svg") == 3
    assert not re.search(r"<script|<link|<img|@import|src=|href=", page)
    assert [customer["delta"] for customer in json.loads(first["backtest.json"])["candidates"][0]["customers"]] == [
        "10.00",
        "-7.00",
        "-259.00",
    ]


def test_todays_plan_is_a_file_to_begin_with(run: Run, pool: ConnectionPool, tmp_path: Path) -> None:
    """It changes nothing when it is tried, and there is nothing to show before there are prices."""
    missing = run("plans", "show", "--tenant", "demo")
    assert "no metric has a price" in str(missing.exception)
    say_price(
        pool,
        {"model": "volume", "currency": "eur", "tiers": [{"upTo": 900, "flatPrice": 3}, {"unitPrice": "0.002"}]},
        tenant_id="demo",
        meter="api_calls",
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )
    shown = run("plans", "show", "--tenant", "demo", "--currency", "eur")
    (tmp_path / "again.yaml").write_text(shown.stdout)
    assert run("plans", "validate", "again.yaml").stdout == "again.yaml: today in EUR: 1 metrics, 0 fees, 0 minimums\n"
    (tmp_path / "other.yaml").write_text(shown.stdout.replace("name: today", "name: other").replace("0.002", "0.003"))
    done = run("backtest", "--tenant", "demo", "--plan", "again.yaml", "--plan", "other.yaml", *MONTHS)
    assert done.exit_code == 0, done.output
    assert "| today | 0.00 EUR" not in done.stdout
    assert "~ metrics.api_calls.tiers[1].unitPrice: 0.002 -> 0.003" in done.stdout
    same, other = json.loads((tmp_path / "backtest" / "backtest.json").read_text())["candidates"]
    assert (same["compared"]["delta"], same["changes"]) == ("0.00", [])
    assert same["compared"]["pay"] == {"less": 0, "more": 0, "same": 3}
    assert other["compared"]["pay"] == {"less": 0, "more": 3, "same": 0}


def test_what_cannot_be_right_is_named(run: Run, tmp_path: Path) -> None:
    """By file and member; a check of several files says all that is wrong, a comparison may exit by its outcome."""
    (tmp_path / "bad.yaml").write_text("name: bad\ncurrency: USD\nmetrics: {calls: {model: flat, unitPrise: 1}}\n")
    (tmp_path / "credit.yaml").write_text("name: bad\ncurrency: USD\nfees: [{name: a, amount: 1}]\ncredits: []\n")
    checked = run("plans", "validate", "bad.yaml", "tiered.yaml", "credit.yaml")
    assert checked.exit_code == 1
    assert "bad.yaml: metrics.calls.unitPrise: no such member" in checked.stderr
    assert "credit.yaml: credits: no such member" in checked.stderr
    assert checked.stdout == "tiered.yaml: tiered in USD: 1 metrics, 1 fees, 1 minimums\n"
    assert run("plans", "diff", "tiered.yaml", "tiered.yaml", "--exit-code").exit_code == 0
    changed = run("plans", "diff", "current.yaml", "tiered.yaml", "--exit-code", "--format", "json")
    assert (changed.exit_code, json.loads(changed.stdout)[0]["path"]) == (3, "metrics.api_calls.model")
    for words, field in (
        (("--from", "2025-1", "--to", "2025-02"), "--from"),
        (("--from", "2025-03", "--to", "2025-02"), "--from"),
        (("--from", "2025-03", "--to", "2999-02"), "--to"),
    ):
        refused = run("backtest", "--tenant", "demo", "--plan", "tiered.yaml", *words)
        assert isinstance(refused.exception, InvalidInput)
        assert refused.exception.field == field
