"""`stripemeter mappings`: a file says what is billed, and what it would change is shown before it does."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import Conflict, InvalidInput, NotAllowed, NotFound, StripeMeterError
from tests.emulator import RunningEmulator, emulator, emulator_server
from tests.stripe_account import StripeAccount, open_account

__all__ = ["emulator", "emulator_server"]

FILE = """
tenant: acme
mappings:
  - {{metric: calls, aggregation: sum, stripeAccount: {account}, priceId: {price}, shadow: true}}
  - {{metric: seats, aggregation: max, stripeAccount: {account}, priceId: price_seats, active: false}}
customers:
  - {{customerRef: ada, stripeAccount: {account}, stripeCustomer: {ada}}}
"""


@pytest.fixture
def account(emulator: RunningEmulator) -> StripeAccount:
    """An account with one meter `calls` and its price."""
    return open_account(emulator)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, database_url: str, account: StripeAccount, tmp_path: Path) -> CliRunner:
    """Types commands at this test's database and account."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", account.emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", account.emulator.url)
    return CliRunner()


@pytest.fixture
def file(tmp_path: Path, account: StripeAccount) -> Path:
    """The file, to be changed by the test."""
    path = tmp_path / "mappings.yaml"
    path.write_text(FILE.format(account=account.account_id, price=account.price, ada=account.add_customer()))
    return path


def mappings(runner: CliRunner, *words: str, status: int = 0) -> list[str]:
    """What `stripemeter mappings ...` prints on standard output."""
    answer = runner.invoke(app, ["mappings", *words])
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return answer.stdout.splitlines()


def test_a_file_is_compared_applied_and_exported(runner: CliRunner, file: Path, account: StripeAccount) -> None:
    """Diff exits 1 with what apply would do, asking nobody; then 0; an export applied is a no-op."""
    account_id = account.account_id
    before = account.requests
    planned = mappings(runner, "diff", str(file), status=1)
    assert account.requests == before
    assert planned[:2] == [
        f"create seats at {account_id} (off, max to price_seats)",
        f"create calls at {account_id} (shadow, sum to {account.price})",
    ]
    assert planned[2].startswith("bind ada to cus_")
    assert mappings(runner, "apply", str(file)) == planned
    assert (mappings(runner, "apply", str(file)), mappings(runner, "diff", str(file))) == ([], [])
    exported = "\n".join(mappings(runner, "export", "--tenant", "acme")) + "\n"
    file.write_text(exported)
    assert mappings(runner, "diff", str(file), "--prune") == []


def test_a_change_shows_each_member_and_prune_switches_off(runner: CliRunner, file: Path) -> None:
    """Before and after; a mapping that is no longer named stays unless pruned."""
    mappings(runner, "apply", str(file))
    text = file.read_text()
    file.write_text(text.replace("shadow: true", "shadow: true, currency: usd"))
    assert mappings(runner, "apply", str(file))[1:] == ['  currency: null -> "usd"']
    head, _, tail = text.partition("mappings:")
    file.write_text(f"{head}mappings: []\ncustomers:{tail.partition('customers:')[2]}")
    assert mappings(runner, "diff", str(file)) == []
    (switched,) = mappings(runner, "apply", str(file), "--prune")
    assert switched.startswith("off calls at ")
    assert "active: false" in "\n".join(mappings(runner, "export", "--tenant", "acme"))


def test_a_late_policy_is_said_shown_and_exported(runner: CliRunner, file: Path) -> None:
    """Where it is not `hold`; a policy that does not exist is refused by its place."""
    text = file.read_text()
    mappings(runner, "apply", str(file))
    assert "latePolicy" not in "\n".join(mappings(runner, "export", "--tenant", "acme"))
    file.write_text(text.replace("shadow: true", "shadow: true, latePolicy: carry_forward"))
    assert mappings(runner, "diff", str(file), status=1)[1:] == ['  latePolicy: "hold" -> "carry_forward"']
    mappings(runner, "apply", str(file))
    exported = mappings(runner, "export", "--tenant", "acme")
    assert "latePolicy: carry_forward" in "\n".join(exported)
    file.write_text("\n".join(exported))
    assert mappings(runner, "diff", str(file), "--prune") == []
    file.write_text(text.replace("shadow: true", "shadow: true, latePolicy: next_month"))
    with pytest.raises(InvalidInput, match="must be one of hold, carry_forward") as refused:
        mappings(runner, "diff", str(file))
    assert refused.value.field == "mappings[0].latePolicy"


def test_what_the_account_refuses_is_not_recorded(runner: CliRunner, file: Path, account: StripeAccount) -> None:
    """A price that is not there, a customer that is not there, one whose usage would be billed twice, no key."""
    text, account_id = file.read_text(), account.account_id
    file.write_text(text.replace(account.price, "price_none"))
    with pytest.raises(InvalidInput) as refused:
        mappings(runner, "apply", str(file))
    assert refused.value.field == "priceId"
    ada = text.partition("stripeCustomer: ")[2].partition("}")[0]
    file.write_text(text.replace(ada, "cus_nobody"))
    with pytest.raises(NotFound, match="cus_nobody"):
        mappings(runner, "apply", str(file))
    first, second = (account.subscribe(ada, account.price) for _ in range(2))
    file.write_text(text)
    with pytest.raises(Conflict) as twice:
        mappings(runner, "apply", str(file))
    assert all(item in str(twice.value) for item in (first, second))
    account.unsubscribe(second)
    assert mappings(runner, "apply", str(file)) == [f"bind ada to {ada} at {account_id}"]
    file.write_text(text.replace(ada, account.add_customer()))
    with pytest.raises(Conflict, match="what it was sent stays there"):
        mappings(runner, "diff", str(file))


def test_without_a_key_only_off_mappings_are_recorded(
    runner: CliRunner, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The off mapping comes first and stands; the shadow one is refused."""
    monkeypatch.delenv("STRIPE_TEST_SECRET_KEY")
    with pytest.raises(NotAllowed):
        mappings(runner, "apply", str(file))
    exported = "\n".join(mappings(runner, "export", "--tenant", "acme"))
    assert ("metric: seats" in exported, "metric: calls" in exported) == (True, False)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("mappings: [{metric: calls}]", "mappings[0].aggregation"),
        ("mappings: [{metric: m, aggregation: sum, stripeAccount: acct_1}]", "mappings[0].priceId"),
        (
            "mappings: [&m {metric: m, aggregation: sum, stripeAccount: acct_1, priceId: price_1}, *m]",
            "mappings[1].metric",
        ),
        ("mappings: [{metric: m, aggregation: sum, stripeAccount: a, priceId: price_1}]", "mappings[0].stripeAccount"),
        ("mappings: []\ncustomers: [{customerRef: ada, stripeAccount: acct_1}]", "customers[0].stripeCustomer"),
        (
            (
                "mappings: []\ncustomers: [{customerRef: a, stripeAccount: acct_1, stripeCustomer: cus_1}, "
                "{customerRef: b, stripeAccount: acct_1, stripeCustomer: cus_1}]"
            ),
            "customers[1].stripeCustomer",
        ),
        ("mapping: []", "mapping"),
    ],
)
def test_a_file_that_is_wrong_names_the_member(runner: CliRunner, file: Path, line: str, field: str) -> None:
    """Nothing is asked or changed."""
    file.write_text(f"tenant: acme\n{line}\n")
    with pytest.raises(InvalidInput) as refused:
        mappings(runner, "diff", str(file))
    assert refused.value.field == field
