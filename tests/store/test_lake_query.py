"""Questions to the lake: exact, over every archived day, and unable to change or reach anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner, Result

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, NotFound
from stripemeter.pipeline.archive import archive_day
from stripemeter.pipeline.fold import fold
from stripemeter.store.lake import LocalLake
from stripemeter.store.lake_query import query_lake
from stripemeter.store.postgres import transaction
from tests.laws.worlds import Fact, ingest_into

DAYS = [date(2024, 1, 31), date(2024, 2, 1)]
FACTS = [
    Fact(customer="a", quantity="12345678901234567890.123456789012", ts=datetime(2024, 1, 31, 5, tzinfo=UTC), key="1"),
    Fact(customer="a", quantity="0.000000000001", ts=datetime(2024, 1, 31, 6, tzinfo=UTC), key="2"),
    Fact(customer="b,\"'", quantity="3", ts=datetime(2024, 1, 31, 23, 59, tzinfo=UTC), key="3", meta={"n": 1.5}),
    Fact(customer="b,\"'", quantity="4", ts=datetime(2024, 2, 1, tzinfo=UTC), key="4"),
]
FORBIDDEN = [
    "select 1; select 2",
    "",
    "copy (select 1) to '{lake}/x.csv'",
    "create table t (n integer)",
    "drop view events",
    "insert into events select * from events",
    "attach '{lake}/x.db'",
    "set enable_external_access = true",
    "select * from read_csv('/etc/passwd')",
    "select * from read_text('{outside}')",
    "install httpfs",
    "select * from nowhere",
    "selec",
]
Run = Callable[..., Result]


@pytest.fixture
def lake(pool: ConnectionPool, database_url: str, tmp_path: Path) -> LocalLake:
    """Two archived days of two months."""
    lake = LocalLake(root=tmp_path / "a 'lake'")
    with ingest_into(database_url) as ingest:
        ingest.accept(FACTS)
    fold(pool)
    for day in DAYS:
        archive_day(pool, lake, day)
    return lake


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command on this test's database and lake."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STRIPEMETER_LAKE", str(tmp_path / "a 'lake'"))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_views_say_what_postgres_says(pool: ConnectionPool, lake: LocalLake) -> None:
    """Events, counters and daily usage over all archived days, decimals exact."""
    with transaction(pool) as tx:
        events = tx.execute("select idempotency_key, ts, quantity, meta::text from events order by seq").fetchall()
        counters = tx.execute(
            "select day, customer_ref, event_count, quantity_sum, quantity_last, last_ts, segment_start from counters"
            " order by 1, 2"
        ).fetchall()
    asked = query_lake(lake, "select idempotency_key, ts, quantity, meta from events order by seq")
    assert (asked.columns, asked.rows) == (("idempotency_key", "ts", "quantity", "meta"), events)
    asked = query_lake(
        lake,
        "select day, customer_ref, event_count, quantity_sum, quantity_last, last_ts, segment_start from counters"
        " order by 1, 2",
    )
    assert asked.rows == counters
    usage = query_lake(lake, "select day, customers, event_count, quantity_sum from daily_usage order by day").rows
    assert usage == [
        (DAYS[0], 2, 3, Decimal("12345678901234567893.123456789013")),
        (DAYS[1], 1, 1, Decimal(4)),
    ]


def test_a_day_is_asked_for_by_its_folder(lake: LocalLake) -> None:
    """Files of other days are not opened, not even broken ones."""
    for part in lake.root.glob("*/month=2024-02/*/part.parquet"):
        part.write_bytes(b"broken")
    assert query_lake(lake, "select count(*) from events where day = date '2024-01-31'").rows == [(3,)]
    with pytest.raises(InvalidInput, match="DuckDB"):
        query_lake(lake, "select max(quantity) from events")


@pytest.mark.parametrize("question", FORBIDDEN)
def test_a_question_can_only_read_the_lake(lake: LocalLake, tmp_path: Path, question: str) -> None:
    """Nothing is written, no other file is read, no setting is opened; the refusal is the caller's to mend."""
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    before = sorted(lake.root.rglob("*"))
    with pytest.raises(InvalidInput):
        query_lake(lake, question.format(lake=tmp_path / "lake", outside=outside))
    assert sorted(lake.root.rglob("*")) == before


def test_an_empty_lake_says_so(tmp_path: Path) -> None:
    """And what to do about it."""
    with pytest.raises(NotFound, match="stripemeter lake archive"):
        query_lake(LocalLake(root=tmp_path), "select 1")


def test_staged_files_are_not_read(lake: LocalLake) -> None:
    """What a killed archive left is no part of any answer."""
    (part,) = lake.root.glob("events/month=2024-02/*/part.parquet")
    (part.parent / ".staged-0").write_bytes(part.read_bytes())
    (part.parent / ".tmp-0").write_bytes(b"half")
    assert query_lake(lake, "select count(*) from events").rows == [(4,)]


def test_every_form_of_an_answer_is_exact(run: Run, lake: LocalLake) -> None:
    """A table for people, CSV and JSON for programs; decimals keep every digit, text keeps its quotes."""
    question = "select customer_ref, quantity, ts, null as nothing from events order by seq limit 3 offset 1"
    assert run("query", question, "--format", "csv").output.splitlines() == [
        "customer_ref,quantity,ts,nothing",
        "a,0.000000000001,2024-01-31T06:00:00+00:00,",
        '"b,""\'",3.000000000000,2024-01-31T23:59:00+00:00,',
        '"b,""\'",4.000000000000,2024-02-01T00:00:00+00:00,',
    ]
    assert json.loads(run("query", question, "--format", "json").output)[0] == {
        "customer_ref": "a",
        "quantity": "0.000000000001",
        "ts": "2024-01-31T06:00:00+00:00",
        "nothing": None,
    }
    assert run("query", "select day, event_count from daily_usage order by day").output.splitlines() == [
        "day         event_count",
        "----------  -----------",
        "2024-01-31  3",
        "2024-02-01  1",
    ]


def test_the_command_archives_and_verifies(run: Run, lake: LocalLake) -> None:
    """One line per day; exit 1 names the day whose file is damaged, and archiving again mends it."""
    done = run("lake", "archive", "--from", "2024-01-31", "--to", "2024-02-01")
    assert (done.exit_code, done.output) == (0, "2024-01-31: 3 events, 2 counters\n2024-02-01: 1 events, 1 counters\n")
    (part,) = lake.root.glob("events/month=2024-02/*/part.parquet")
    part.unlink()
    done = run("lake", "verify", "--from", "2024-01-01", "--to", "2024-02-29")
    assert done.exit_code == 1
    assert "2024-02-01: the lake has no events/month=2024-02" in done.output
    assert "proven: 1, stale: 0, wrong: 1" in done.output
    assert run("lake", "archive", "2024-02-01").exit_code == 0
    assert run("lake", "verify", "2024-02-01").output == "proven: 1, stale: 0, wrong: 0\n"


def test_a_day_that_cannot_be_archived_fails_the_command(run: Run, lake: LocalLake, pool: ConnectionPool) -> None:
    """Exit 1; the days after it are archived."""
    with transaction(pool) as tx:
        tx.execute("delete from counters where day = %s", [DAYS[0]])
    done = run("lake", "archive", "--from", "2024-01-31", "--to", "2024-02-01")
    assert done.exit_code == 1
    assert "2024-01-31: FAILED" in done.output
    assert "2024-02-01: 1 events" in done.output
