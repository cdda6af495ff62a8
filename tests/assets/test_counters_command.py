"""`stripemeter counters` without a running Dagster."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner, Result

from stripemeter.cli.counters import app, contiguous
from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.pipeline.fold import fold
from stripemeter.runtime import ports
from stripemeter.store.postgres import transaction
from tests.assets.running import Report

DAY = date(2026, 1, 5)
Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The command on this test's database, in a home where no stack runs."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("STRIPEMETER_DAGSTER_PORT", str(ports.claim("127.0.0.1", 0, setting="none")))
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_fold_counts_everything_that_waits(run: Run, pool: ConnectionPool, report_usage: Report) -> None:
    """Slice after slice until nothing is left, and says what it did."""
    report_usage(DAY, count=3)
    assert run("fold").output == "folded 3 events into 1 days\n"
    assert run("fold").output == "folded 0 events into 0 days\n"
    with transaction(pool) as tx:
        assert tx.execute("select sum(event_count) from counters").fetchone() == (3,)


def test_recount_in_place_repairs_a_day(run: Run, pool: ConnectionPool, report_usage: Report) -> None:
    """Without Dagster the same verb runs here."""
    report_usage(DAY)
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update counters set quantity_sum = 99")
    done = run("recount", DAY.isoformat(), "--local")
    assert (done.exit_code, done.output) == (0, "2026-01-05: 2 events, 1 counters, 1 changed\n")


def test_recount_in_place_goes_on_after_a_bad_day(
    run: Run, pool: ConnectionPool, report_usage: Report, poison: Callable[[date], None]
) -> None:
    """Exit 1, the bad day named, the days after it recounted."""
    after = DAY + timedelta(days=1)
    report_usage(DAY, after)
    fold(pool)
    poison(DAY)
    done = run("recount", "--from", DAY.isoformat(), "--to", after.isoformat(), "--local")
    assert done.exit_code == 1
    assert "2026-01-05: FAILED" in done.output
    assert "2026-01-06: 2 events" in done.output


def test_recount_says_what_to_do_when_dagster_is_away(run: Run) -> None:
    """No stack: one clear refusal that names both ways out."""
    done = run("recount", DAY.isoformat())
    assert isinstance(done.exception, Unavailable)
    assert "stripemeter up" in str(done.exception)
    assert "--local" in str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--from", "2026-01-01"),
        ("--to", "2026-01-01"),
        ("--from", "2026-01-02", "--to", "2026-01-01"),
        ("yesterday",),
        ((datetime.now(UTC).date() + timedelta(days=1)).isoformat(),),
    ],
)
def test_days_that_make_no_sense_are_refused(run: Run, arguments: tuple[str, ...]) -> None:
    """Nothing is recounted by guess."""
    assert isinstance(run("recount", *arguments, "--local").exception, InvalidInput)


def test_restamp_asks_first_and_keeps_what_is_counted(run: Run, pool: ConnectionPool, report_usage: Report) -> None:
    """After a restore: nothing counted twice, nothing lost."""
    report_usage(DAY, count=3)
    fold(pool)
    report_usage(DAY, count=2, customer="c2")
    with transaction(pool) as tx:
        tx.execute("update fold_cursors set system_identifier = 1")  # as if this were another cluster
    assert run("restamp").exit_code == 1  # nobody answered the question
    assert run("restamp", "--yes").exit_code == 0
    assert run("fold").output == "folded 2 events into 1 days\n"
    with transaction(pool) as tx:
        assert tx.execute("select sum(event_count) from counters").fetchone() == (5,)


def test_only_the_days_asked_for_share_a_run() -> None:
    """Days in a row become one range; nothing between is recounted along."""
    days = [date(2026, 1, 3), date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 5)]
    assert list(contiguous(days)) == [(date(2026, 1, 1), date(2026, 1, 3)), (date(2026, 1, 5), date(2026, 1, 5))]
