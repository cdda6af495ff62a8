"""`stripemeter lake drop-month` and `lake moved`: what they do, say and refuse."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner, Result

from stripemeter.cli.main import app
from stripemeter.errors import Conflict, InvalidInput
from stripemeter.pipeline.archive import archive_days
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.dropped_months import load_dropped_month
from stripemeter.store.lake import LocalLake
from stripemeter.store.postgres import transaction
from tests.laws.worlds import Fact, ingest_into

DAYS = [date(2025, 1, 15), date(2025, 2, 3)]
Run = Callable[..., Result]


@pytest.fixture
def lake(pool: ConnectionPool, database_url: str, tmp_path: Path) -> LocalLake:
    """Two archived days of two months, three events each."""
    lake = LocalLake(root=tmp_path / "lake")
    with ingest_into(database_url) as ingest:
        ingest.accept(
            [
                Fact(ts=datetime(day.year, day.month, day.day, 12, tzinfo=UTC), key=f"{day}{n}")
                for day in DAYS
                for n in range(3)
            ]
        )
    fold(pool)
    list(archive_days(pool, lake, DAYS))
    return lake


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command on this test's database and lake."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STRIPEMETER_LAKE", str(tmp_path / "lake"))
    return lambda *arguments, **options: CliRunner().invoke(app, arguments, **options)


def stored(pool: ConnectionPool) -> int:
    """Ledger rows in Postgres."""
    with transaction(pool) as tx:
        row = tx.execute("select count(*) from events").fetchone()
    return int(row[0]) if row else 0


def place(pool: ConnectionPool, month_on: date) -> str:
    """Where a dropped month is."""
    with transaction(pool) as tx:
        month = load_dropped_month(tx, month_on)
    assert month is not None
    return month.lake


def test_a_month_is_dropped_once_somebody_said_yes(run: Run, lake: LocalLake, pool: ConnectionPool) -> None:
    """It asks, naming the lake that has the only copy then; --yes does not ask; again it says the same."""
    asked = run("lake", "drop-month", "2025-01", input="n\n")
    assert asked.exit_code == 1
    assert f"Drop 2025-01 from Postgres? Only {lake.root} and its backups have it then" in asked.output
    assert stored(pool) == 6
    assert run("lake", "drop-month", "2025-01", input="y\n").exit_code == 0
    assert stored(pool) == 3
    done = run("lake", "drop-month", "2025-02", "--yes")
    assert done.output.startswith(f"2025-02: 3 events, in {lake.root} since ")
    assert stored(pool) == 0
    assert run("lake", "drop-month", "2025-02", "--yes").output == done.output


def test_what_cannot_be_dropped_says_why(run: Run, lake: LocalLake, pool: ConnectionPool) -> None:
    """No month, or one that the lake does not have as it is: nothing is dropped."""
    for month in ("2025", "2025-13", "january"):
        refused = run("lake", "drop-month", month, "--yes")
        assert isinstance(refused.exception, InvalidInput)
        assert refused.exception.field == "month"
    next(lake.root.glob("counters/*/day=2025-01-15/*")).unlink()
    refused = run("lake", "drop-month", "2025-01", "--yes")
    assert isinstance(refused.exception, Conflict)
    assert "the lake is wrong about 2025-01-15" in str(refused.exception)
    assert stored(pool) == 6


def test_a_lake_that_moved_is_found(run: Run, lake: LocalLake, pool: ConnectionPool, tmp_path: Path) -> None:
    """Every dropped month is looked for in the new directory; recounts work again; twice is once."""
    for month in ("2025-01", "2025-02"):
        assert run("lake", "drop-month", month, "--yes").exit_code == 0
    new = lake.root.rename(tmp_path / "new")
    done = run("lake", "moved", str(new))
    assert done.output == (
        f"2025-01: 3 events, in {new}\n2025-02: 3 events, in {new}\n"
        f"set STRIPEMETER_LAKE={new}, so that days are archived there, too\n"
    )
    assert [recount_day(pool, day).changed for day in DAYS] == [0, 0]
    assert recount_day(pool, DAYS[0]).events == 3
    assert run("lake", "moved", str(new)).output == done.output


@pytest.mark.parametrize("kind", ["events", "counters", "counter_items", "rules"])
def test_a_lake_that_lacks_a_file_is_not_taken(
    run: Run, lake: LocalLake, pool: ConnectionPool, tmp_path: Path, kind: str
) -> None:
    """One missing or altered byte of any file: the month stays where it was, those before it have moved."""
    for month in ("2025-01", "2025-02"):
        assert run("lake", "drop-month", month, "--yes").exit_code == 0
    new = lake.root.rename(tmp_path / "new")
    part = next(new.glob(f"{kind}/*/day=2025-02-03/*"))
    part.write_bytes(part.read_bytes()[:-1])
    refused = run("lake", "moved", str(new))
    assert isinstance(refused.exception, Conflict)
    assert f"{new} does not have 2025-02-03 as it was archived" in str(refused.exception)
    assert (place(pool, date(2025, 1, 1)), place(pool, date(2025, 2, 1))) == (str(new), str(lake.root))
