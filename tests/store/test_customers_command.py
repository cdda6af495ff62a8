"""`stripemeter customers`: what is typed is recorded, what is wrong is named."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import Conflict, InvalidInput, StripeMeterError


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, database_url: str) -> CliRunner:
    """Types commands at this test's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return CliRunner()


def customers(runner: CliRunner, *words: str) -> list[str]:
    """What `stripemeter customers ... --tenant t` prints."""
    answer = runner.invoke(app, ["customers", *words, "--tenant", "t"], catch_exceptions=True)
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == 0, answer.output
    return answer.output.splitlines()


def test_a_customer_is_set_split_aliased_and_shown(runner: CliRunner) -> None:
    """Each command shows the customer as it is afterwards; nothing said before is lost."""
    anchored = ["--cadence", "month", "--anchor", "2026-01-31T10:30:00+01:00"]
    customers(runner, "set", "ada", "--time-zone", "Europe/Berlin", *anchored)
    customers(runner, "set", "ada", "--stripe-customer", "cus_1", "--account", "acct_1")
    customers(runner, "alias", "ada", "lovelace")
    shown = customers(runner, "split", "ada", "2026-03-10T12:00:00Z", "--reason", "new price")
    assert shown == [
        "customer   ada",
        "time zone  Europe/Berlin",
        "segment    2026-03-10T12:00:00+00:00 to 2026-03-31T09:30:00+00:00",
        "alias      lovelace",
        "phase      every meter: always, every 1 month, anchor 2026-01-31T09:30:00+00:00, billing",
        (
            "phase      every meter: from 2026-03-10T12:00:00+00:00, every 1 month, anchor 2026-01-31T09:30:00+00:00, "
            "new price"
        ),
        "stripe     cus_1 at acct_1",
    ]
    assert customers(runner, "show", "lovelace", "--at", "2026-03-10T12:00:00Z") == shown
    assert customers(runner, "list") == ["ada\tEurope/Berlin\tlovelace"]
    assert "alias      lovelace" not in customers(runner, "alias", "ada", "lovelace", "--remove")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["set", "ada", "--time-zone", "Mars"], "--time-zone"),
        (["set", "ada", "--anchor", "2026-01-31T00:00:00Z"], "--cadence"),
        (["set", "ada", "--cadence", "month", "--anchor", "2026-01-31"], "--anchor"),
        (["set", "ada", "--cadence", "moon"], "billing.cadence"),
        (["show", "ada", "--at", "yesterday"], "--at"),
        (["split", "ada", "2026-03-10T12:00:00.5Z"], "at"),
        (["alias", "ada", "ada"], "aliases[0]"),
    ],
)
def test_what_is_wrong_is_named(runner: CliRunner, words: list[str], field: str) -> None:
    """Nothing is recorded of it."""
    with pytest.raises(InvalidInput) as refused:
        customers(runner, *words)
    assert refused.value.field == field
    assert customers(runner, "list") == []


def test_an_alias_is_not_spoken_of(runner: CliRunner) -> None:
    """It has no settings of its own: the customer has."""
    customers(runner, "alias", "ada", "lovelace")
    with pytest.raises(Conflict, match="alias of 'ada'"):
        customers(runner, "set", "lovelace", "--time-zone", "UTC")
