"""`stripemeter close`: what is open, what failed and why, one invoice with its proof, and a person's release."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import NotFound, StripeMeterError
from stripemeter.pipeline.push import push_usage
from tests.closing_bench import ClosingBench, open_closing
from tests.emulator import RunningEmulator


@pytest.fixture
def bench(
    pool: ConnectionPool, database_url: str, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ClosingBench:
    """A week that ended three days ago, and Stripe knows of its usage; the command looks there."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    monkeypatch.setenv("STRIPEMETER_CLOSING", "control")
    opened = open_closing(pool, emulator, start=datetime.now(UTC).replace(microsecond=0) - timedelta(days=10))
    opened.count("5")
    opened.go_to(opened.start + timedelta(days=4))
    push_usage(pool, opened.stripe.sink, now=opened.start + timedelta(days=4))
    opened.go_to(opened.start + timedelta(days=7, minutes=20))
    return opened


def close(*words: str, status: int = 0) -> dict[str, Any]:
    """What `stripemeter close ... --json` prints."""
    answer = CliRunner().invoke(app, ["close", *words])
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return json.loads(answer.stdout) if "--json" in words else {"text": answer.stdout}


def test_an_invoice_from_found_to_proven(bench: ClosingBench) -> None:
    """`run` holds, drains and finalizes it; `list` has it no more, `show` has its proof."""
    report = close("run", "--json")
    assert (report["found"], report["verified"], report["waiting"]) == (1, 1, 0)
    assert close("list", "--json") == {"invoices": []}
    (row,) = close("list", "--all", "--json")["invoices"]
    assert (row["state"], row["control"], row["grace"]) == ("verified", "control", "")
    shown = close("show", row["invoice"], "--json")
    assert (shown["proof_is_equal"], shown["lines"][0]["counted"], shown["lines"][0]["billed"]) == (True, "5", "5")
    assert "proof_evidence_sha256: " in close("show", row["invoice"])["text"]


def test_what_failed_is_listed_until_somebody_releases_it(bench: ClosingBench) -> None:
    """Exit 1 with the reason; a release names a person, and the next run finalizes and says the difference."""
    bench.write("3", bench.start + timedelta(days=3))
    assert close("run", "--json", status=1)["failed"] == 1
    (row,) = close("list", "--json")["invoices"]
    assert (row["state"], row["tenant"], row["customer"]) == ("failed", "t", "ada")
    assert "another writer" in row["message"]
    assert "released" in close("release", row["invoice"], "--reason", "agreed")["text"]
    close("run", "--json", status=1)
    shown = close("show", row["invoice"], "--json")
    assert (shown["proof_is_equal"], shown["lines"][0]["difference"]) == (False, "-3")
    assert (shown["release_reason"], bench.invoice().status) == ("agreed", "paid")
    assert close("list", "--json") == {"invoices": []}


def test_an_unknown_invoice_is_told(bench: ClosingBench) -> None:
    """Neither shown nor released."""
    with pytest.raises(NotFound, match="close list --all"):
        close("show", "in_unknown")
    with pytest.raises(NotFound, match="waits for a person"):
        close("release", "in_unknown", "--reason", "why not")
