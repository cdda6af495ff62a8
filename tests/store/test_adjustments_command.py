"""`stripemeter adjustments`: every verb at a terminal, in effect at once, audited, with bad options named."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli import adjustments as command
from stripemeter.cli.main import app
from stripemeter.errors import Conflict, InvalidInput, NotAllowed, NotFound, StripeMeterError
from stripemeter.pipeline.adjustments import PolicyChange, find, put_policy
from stripemeter.pipeline.fold import fold
from stripemeter.store.usage import load_current_usage
from tests.laws.worlds import NOW, Fact, ingest_into

TODAY = NOW.date().isoformat()
CREATE = ("create", "--metric", "api_calls", "--customer", "cust_1", "--day", TODAY, "--delta", "-2.50")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, database_url: str) -> CliRunner:
    """Types commands at this test's database, which has counted an event of 5."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="k", quantity="5")])
    return CliRunner()


def run(runner: CliRunner, *words: str, tenant: str = "acme") -> list[list[str]]:
    """The columns of each line the command prints."""
    answer = runner.invoke(app, ["adjustments", *words, "--tenant", tenant])
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return [line.split("\t") for line in answer.stdout.splitlines()]


def create(runner: CliRunner, *words: str) -> list[str]:
    """The one line of a new adjustment."""
    (line,) = run(runner, *CREATE, *words)
    return line


def usage(pool: ConnectionPool) -> Decimal:
    """What the customer used this month."""
    fold(pool, now=NOW)
    found = load_current_usage(pool, tenant_id="acme", customer_ref="cust_1", at=NOW, now=NOW)
    return found.metrics["api_calls"].quantity


def test_a_correction_is_created_approved_shown_and_reverted(runner: CliRunner, pool: ConnectionPool) -> None:
    """Usage follows approve and revert at once; each step stands in the audit with who took it and why."""
    line = create(runner, "--reason", "credit", "--note", "outage")
    rest = ["pending", TODAY, "cust_1", "api_calls", "-2.5", "credit"]
    assert line[1:] == rest
    assert usage(pool) == 5
    assert run(runner, "approve", line[0], "--note", "agreed") == [[line[0], "approved", *rest[1:]]]
    assert usage(pool) == Decimal("2.5")
    assert run(runner, "approve", line[0])[0][-1] == "credit  (it was before)"
    assert run(runner, "revert", line[0])[0][1] == "reverted"
    assert usage(pool) == 5
    shown = run(runner, "show", line[0])
    assert shown[0] == [line[0], "reverted", *rest[1:]]
    actor = f"cli:{getpass.getuser()}"
    assert [step[0].split("Z ")[1] for step in shown[1:]] == [
        f"created by {actor}  outage",
        f"approved by {actor}  agreed",
        f"reverted by {actor}",
    ]
    with pytest.raises(InvalidInput, match="Already reverted"):
        run(runner, "approve", line[0])


def test_what_is_rejected_never_counts(runner: CliRunner, pool: ConnectionPool) -> None:
    """And cannot be approved or reverted any more."""
    adjustment_id = create(runner)[0]
    assert run(runner, "reject", adjustment_id, "--note", "no")[0][1] == "rejected"
    assert usage(pool) == 5
    for verb in ("approve", "revert"):
        with pytest.raises(InvalidInput):
            run(runner, verb, adjustment_id)


def test_a_request_id_makes_one_adjustment(runner: CliRunner) -> None:
    """A retry prints the same row; something else under it is refused."""
    first = create(runner, "--request-id", "r1")
    assert create(runner, "--request-id", "r1") == first
    with pytest.raises(Conflict, match="reason"):
        create(runner, "--request-id", "r1", "--reason", "promo")
    assert len(run(runner, "list")) == 1


def test_lists_are_whole_and_filtered(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, across pages; by status, metric, customer; nobody else's."""
    monkeypatch.setattr(command, "PAGE", 2)
    made = [create(runner)[0] for _ in range(5)]
    run(runner, "approve", made[1])
    other = run(runner, "create", "--metric", "seats", "--customer", "c2", "--day", TODAY, "--delta", "1")[0][0]
    assert [row[0] for row in run(runner, "list")] == [other, *made[::-1]]
    assert [row[0] for row in run(runner, "list", "--status", "approved")] == [made[1]]
    assert [row[0] for row in run(runner, "list", "--metric", "seats")] == [other]
    assert [row[0] for row in run(runner, "list", "--customer", "c2")] == [other]
    assert run(runner, "list", tenant="other") == []


def test_a_late_event_waits_in_the_list(runner: CliRunner, pool: ConnectionPool, database_url: str) -> None:
    """Its segment closed: pending until somebody at a terminal approves it."""
    fold(pool, now=NOW)
    late = NOW - timedelta(days=60)
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key="late", ts=late, quantity="7")])
    fold(pool, now=NOW)
    (row,) = run(runner, "list", "--status", "pending")
    assert row[1:] == ["pending", late.date().isoformat(), "cust_1", "api_calls", "+7", "late_event"]
    assert run(runner, "approve", row[0])[0][1] == "approved"
    found = load_current_usage(pool, tenant_id="acme", customer_ref="cust_1", at=late, now=NOW)
    assert found.metrics["api_calls"].quantity == 7


def test_four_eyes_hold_at_a_terminal(runner: CliRunner, pool: ConnectionPool) -> None:
    """Who created it may not approve it."""
    put_policy(pool, "acme", PolicyChange(is_four_eyes=True), now=datetime.now(UTC))
    adjustment_id = create(runner)[0]
    with pytest.raises(NotAllowed):
        run(runner, "approve", adjustment_id)
    assert find(pool, "acme", UUID(adjustment_id))[0].status == "pending"


@pytest.mark.parametrize("verb", ["show", "approve", "reject", "revert"])
def test_another_tenants_adjustment_is_not_found(runner: CliRunner, verb: str) -> None:
    """Nor one that nobody made."""
    adjustment_id = create(runner)[0]
    for words, tenant in (((verb, adjustment_id), "other"), ((verb, str(uuid4())), "acme")):
        with pytest.raises(NotFound):
            run(runner, *words, tenant=tenant)


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--delta", "1e3", "--delta"),
        ("--delta", "0.0000000000001", "--delta"),
        ("--delta", "0", "delta"),
        ("--delta", "1000000.1", "delta"),
        ("--day", "2026-13-01", "--day"),
        ("--metric", "", "--metric"),
        ("--metric", "m" * 101, "--metric"),
        ("--customer", "c" * 256, "--customer"),
        ("--request-id", "", "--request-id"),
        ("--note", "n" * 1001, "--note"),
    ],
)
def test_an_option_that_cannot_be_is_named(runner: CliRunner, option: str, value: str, field: str) -> None:
    """Before anything is stored."""
    with pytest.raises(InvalidInput) as refused:
        run(runner, *CREATE, option, value)
    assert refused.value.field == field
    assert run(runner, "list") == []


def test_what_typer_refuses_is_a_usage_error(runner: CliRunner) -> None:
    """Exit 2: a reason that only the fold gives, an id that is none."""
    for words in ((*CREATE, "--reason", "late_event"), ("approve", "five")):
        assert runner.invoke(app, ["adjustments", *words, "--tenant", "acme"]).exit_code == 2
