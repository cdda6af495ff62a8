"""`stripemeter late`: what is late is charged, what was refused is listed until somebody releases it."""

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
from tests.closing_bench import open_closing
from tests.emulator import RunningEmulator
from tests.late_usage_bench import set_policy


def late(*words: str, status: int = 0) -> dict[str, Any]:
    """What `stripemeter late ... --json` prints."""
    answer = CliRunner().invoke(app, ["late", *words])
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return json.loads(answer.stdout) if "--json" in words else {"text": answer.stdout}


def test_a_charge_from_refused_to_made(
    pool: ConnectionPool, database_url: str, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`apply` exits 1 on a refusal, `list` shows it, `release` lets the next `apply` charge it; then all is quiet."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    bench = open_closing(pool, emulator, start=datetime.now(UTC).replace(microsecond=0) - timedelta(days=10))
    set_policy(bench.stripe, "invoice_item")
    bench.count("5")
    bench.go_to(bench.start + timedelta(days=4))
    push_usage(pool, bench.stripe.sink, now=bench.start + timedelta(days=4))
    bench.close(bench.start + timedelta(days=7, minutes=20), "observe")
    bench.close(bench.start + timedelta(days=7, hours=2), "observe")
    bench.count("7.5")
    bench.go_to(datetime.now(UTC))
    emulator.fault({"match": {"path_re": "invoiceitems"}, "do": {"kind": "status", "status": 400}})
    assert late("apply", "--json", status=1)["rejected"] == 1
    emulator.fault()
    (refused,) = late("list", "--json")["charges"]
    assert (refused["state"], refused["from"], refused["to"], refused["amount_minor"]) == ("rejected", "5", "7.5", 5)
    assert json.loads(refused["derivation"])["amountMinor"] == 5
    assert late("release", refused["id"])["text"] == f"released {refused['id']}\n"
    with pytest.raises(NotFound, match="waits for a person"):
        late("release", refused["id"])
    assert late("apply", "--json", "--invoice", "in_another")["accepted"] == 0
    assert late("apply", "--json", "--invoice", refused["invoice"])["accepted"] == 1
    assert late("list", "--json") == {"charges": []}
    assert "invoice_item" in late("list", "--all", "--tenant", bench.stripe.tenant)["text"]
