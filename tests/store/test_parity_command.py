"""`stripemeter parity compare`: what is typed, what is printed, how it ends; the documentation's example is run."""

from __future__ import annotations

import json
import os
import re
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import polars as pl
import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, NotFound
from stripemeter.pipeline.parity_report import CSV_HEADER
from stripemeter.store.files import fetch_source, format_of, open_rows
from stripemeter.store.sql import shipped
from tests.backfills import serving_s3

DOCS = shipped("docs/parity.md").read_text(encoding="utf-8")
EVENTS = "metric,customerRef,quantity,ts,idempotencyKey\ncalls,ada,12.5,2026-10-05T09:00:00Z,k1\n"
EQUAL = "customer,metric,period,quantity\nada,calls,2026-10,12.5\n"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path) -> CliRunner:
    """Types commands at this test's database, in this test's directory."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def typed(runner: CliRunner, command: str, status: int) -> str:
    """What `stripemeter ...` prints on standard output."""
    answer = runner.invoke(app, command.split())
    assert answer.exit_code == status, answer.output
    return answer.stdout


def block(name: str) -> str:
    """A fenced block of the documentation."""
    found = re.search(rf"^```{re.escape(name)}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_example_of_the_documentation(runner: CliRunner, pool: ConnectionPool, tmp_path: Path) -> None:
    """Its files, its command, its output to the letter; the heading of the CSV report as well."""
    del pool
    for name in ("events.csv", "export.csv"):
        (tmp_path / name).write_text(block(f"csv {name}"), encoding="utf-8")
    typed(runner, "ingest events.csv --tenant demo", 0)
    command = block("bash").strip().removeprefix("stripemeter ")
    assert typed(runner, command, 2) == block("text")
    assert ",".join(CSV_HEADER) in DOCS


def test_statuses_formats_and_files(runner: CliRunner, tmp_path: Path) -> None:
    """0 equal, 1 different, 2 incomplete or none; each format to the terminal and to a file."""
    (tmp_path / "events.csv").write_text(EVENTS)
    typed(runner, "ingest events.csv --tenant acme", 0)
    (tmp_path / "export.csv").write_text(EQUAL)
    assert typed(runner, "parity compare export.csv --tenant acme", 0).startswith("equal: 1 rows (1 matched")
    assert typed(runner, "parity compare export.csv --tenant other", 1).startswith("different: 1 rows")
    (tmp_path / "near.csv").write_text(EQUAL.replace("12.5", "12.5000001"))
    typed(runner, "parity compare near.csv --tenant acme", 1)
    (tmp_path / "bad.csv").write_text(EQUAL + "ada,calls,2026-10,many\n")
    assert "line 3: quantity: must be a number" in typed(runner, "parity compare bad.csv --tenant acme", 2)
    for command in (
        "missing.csv",
        "events.csv",
        "export.csv --period 2026-13",
        "export.csv --kind invoice",
        "export.csv --columns x=customer",
        "export.csv --as-of 2999-01-01",
        "export.parquet",
    ):
        assert typed(runner, f"parity compare {command} --tenant acme", 2) == ""
    document = json.loads(typed(runner, "parity compare near.csv --tenant acme --format json", 1))
    assert (document["verdict"], document["differences"][0]["lines"]) == ("within_epsilon", [2])
    assert typed(runner, "parity compare near.csv --tenant acme --format csv", 1).startswith(",".join(CSV_HEADER))
    assert typed(runner, "parity compare near.csv --tenant acme --format html --out report.html", 1).strip() == (
        "within_epsilon: report.html"
    )
    assert "<!doctype html>" in (tmp_path / "report.html").read_text()
    renamed = EQUAL.replace("customer", "kunde").replace("period,", "").replace("2026-10,", "")
    (tmp_path / "renamed.txt").write_text(renamed)
    words = "--tenant acme --columns kunde=customer --period 2026-10 --file-format csv --metric calls"
    typed(runner, f"parity compare renamed.txt {words}", 0)


def test_parquet_and_s3(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Decimals are exact and floats refused; an object in S3 is read as a file is."""
    (tmp_path / "events.csv").write_text(EVENTS)
    typed(runner, "ingest events.csv --tenant acme", 0)
    row: dict[str, Any] = {"customer": ["ada"], "metric": ["calls"], "period": ["2026-10"]}
    exact = pl.DataFrame({**row, "quantity": [Decimal("12.5")]}, schema_overrides={"quantity": pl.Decimal(20, 3)})
    exact.write_parquet(tmp_path / "exact.parquet")
    pl.DataFrame({**row, "quantity": [12.5]}).write_parquet(tmp_path / "floats.parquet")
    typed(runner, "parity compare exact.parquet --tenant acme", 0)
    assert "line 1: quantity: a floating-point number" in typed(
        runner, "parity compare floats.parquet --tenant acme", 2
    )
    with serving_s3(monkeypatch):
        bucket = f"{os.environ['AWS_ENDPOINT_URL']}/usage/in"
        for name, content in (
            ("exact.parquet", (tmp_path / "exact.parquet").read_bytes()),
            ("export.csv", EQUAL.encode()),
        ):
            assert httpx2.put(f"{bucket}/{name}", content=content).status_code == 200
            typed(runner, f"parity compare s3://usage/in/{name} --tenant acme", 0)
            fetched = fetch_source(f"s3://usage/in/{name}", most_bytes=len(content))
            assert fetched.content == content
            with closing(open_rows(fetched, format_of(name))) as rows:
                assert rows.columns == ["customer", "metric", "period", "quantity"]
                assert len(list(rows)) == 1
            with pytest.raises(InvalidInput, match="are read for an answer"):
                fetch_source(f"s3://usage/in/{name}", most_bytes=len(content) - 1)
        typed(runner, "parity compare s3://usage/in/none.csv --tenant acme", 2)
        with pytest.raises(NotFound):
            fetch_source("s3://usage/in/none.csv", most_bytes=1)
