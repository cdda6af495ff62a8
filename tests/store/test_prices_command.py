"""`stripemeter prices`: what a unit costs is written down when it is known, and never changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.billing import StripePrice
from stripemeter.cli.main import app
from stripemeter.errors import Conflict, InvalidInput, StripeMeterError
from stripemeter.pipeline.price_versions import (
    describe_terms,
    own_price_version,
    stripe_price_version,
    terms_of,
    version_in_force,
)
from stripemeter.pipeline.prices import list_known_prices, say_price
from stripemeter.pricing import quote
from stripemeter.store.postgres import transaction
from stripemeter.store.prices import list_prices, record_price
from tests.emulator import RunningEmulator, emulator, emulator_server
from tests.stripe_account import StripeAccount, open_account

__all__ = ["emulator", "emulator_server"]

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FLAT = {"model": "flat", "currency": "USD", "unitPrice": "0.01"}


@pytest.fixture
def account(emulator: RunningEmulator) -> StripeAccount:
    """An account with one meter `calls` and its price of a cent."""
    emulator.freeze(NOW)
    return open_account(emulator)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, database_url: str, account: StripeAccount, tmp_path: Path) -> CliRunner:
    """Types commands at this test's database and account."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", account.emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", account.emulator.url)
    return CliRunner()


def command(runner: CliRunner, *words: str, status: int = 0) -> list[str]:
    """What `stripemeter ...` prints on standard output."""
    answer = runner.invoke(app, list(words))
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return answer.stdout.splitlines()


def map_calls(runner: CliRunner, account: StripeAccount, price: str, directory: Path) -> None:
    """Let `calls` be billed by a price."""
    file = directory / "mappings.yaml"
    row = f"metric: calls, aggregation: sum, stripeAccount: {account.account_id}, priceId: {price}, shadow: true"
    file.write_text(f"tenant: acme\nmappings:\n  - {{{row}}}\n")
    command(runner, "mappings", "apply", str(file))


def listed(runner: CliRunner) -> list[tuple[str, Any]]:
    """What `prices list` shows of each version: head and terms."""
    lines = command(runner, "prices", "list", "--tenant", "acme")
    return [(line.split(" from ")[0], json.loads(line.split("Z: ", 1)[1])) for line in lines]


def test_a_mapping_brings_its_price(runner: CliRunner, account: StripeAccount, tmp_path: Path) -> None:
    """Its terms are known at once, from when Stripe made it; asking again changes nothing; one that is gone fails."""
    map_calls(runner, account, account.price, tmp_path)
    ((head, terms),) = listed(runner)
    assert (head.split()[0], head.split()[2]) == (account.price, f"({account.account_id})")
    assert terms == {
        "model": "flat",
        "currency": "USD",
        "unitPrice": "0.01",
        "version": head.replace(" ", "@").split("@(")[0],
    }
    assert "from 2026-11-23T12:00:00Z: " in command(runner, "prices", "list", "--tenant", "acme")[0]
    said = f"{account.price} of calls at {account.account_id}"
    account.emulator.client().v1.prices.update(account.price, {"nickname": "says nothing of what is charged"})
    assert command(runner, "prices", "sync", "--tenant", "acme") == [f"unchanged {said}"]
    assert command(runner, "prices", "list", "--tenant", "other") == []
    error = {"type": "invalid_request_error", "code": "resource_missing", "message": "No such price"}
    gone = {"kind": "status", "status": 404, "body": {"error": error}}
    account.emulator.fault({"match": {"path_re": "/v1/prices/.*"}, "do": gone, "times": 10})
    assert command(runner, "prices", "sync", "--tenant", "acme", status=1) == [f"missing {said}"]


def test_a_changed_mapping_brings_the_new_price(runner: CliRunner, account: StripeAccount, tmp_path: Path) -> None:
    """Tiers are asked for, their decimals keep every digit, and the price before stays known until it is unmapped."""
    map_calls(runner, account, account.price, tmp_path)
    tiers = [
        {"up_to": 10, "unit_amount_decimal": "0.123456789012", "flat_amount": 100},
        {"up_to": "inf", "unit_amount": 3},
    ]
    given: Any = {"currency": "usd", "product": account.product, "billing_scheme": "tiered", "tiers": tiers}
    given |= {"tiers_mode": "graduated", "recurring": {"interval": "month", "usage_type": "metered"}}
    given["recurring"]["meter"] = account.meter
    map_calls(runner, account, account.emulator.client().v1.prices.create(given).id, tmp_path)
    ((_, terms),) = listed(runner)
    assert [tier["unitPrice"] for tier in terms["tiers"]] == ["0.00123456789012", "0.03"]


def test_other_terms_under_the_same_id_are_a_version(pool: ConnectionPool) -> None:
    """The first holds from when Stripe made the price, the next from when it was seen, also when it says `again`."""
    document: dict[str, Any] = {"id": "price_1", "currency": "usd", "unit_amount": 2}
    seen = []
    for hours, unit in ((0, 2), (1, 2), (2, 3), (3, 2)):
        document["unit_amount"] = unit
        price = StripePrice(
            price_id="price_1",
            currency="usd",
            is_active=True,
            stripe_meter_id="mtr_1",
            created_at=NOW - timedelta(days=300),
            document=document,
        )
        version = stripe_price_version(price, stripe_account_id="acct_1", now=NOW + timedelta(hours=hours))
        with transaction(pool) as tx:
            seen.append(record_price(tx, version))
    with transaction(pool) as tx:
        found = list_prices(tx, tenant_id="acme", stripe_prices=[("acct_1", "price_1")])
        assert list_prices(tx, tenant_id="acme", stripe_prices=[("acct_2", "price_1")]) == []
    assert seen == [True, False, True, True]
    held_from = [NOW - timedelta(days=300), NOW + timedelta(hours=2), NOW + timedelta(hours=3)]
    assert [version.effective_from for version in found] == held_from
    assert [quote(terms_of(version), Decimal(10)).total_minor for version in found] == [20, 30, 20]


def test_terms_that_cannot_be_computed_are_shown_as_such() -> None:
    """The price is written down as it is: usage can be pushed, and who asks what it costs is told why not."""
    price = StripePrice(
        price_id="price_1",
        currency="ugx",
        is_active=True,
        stripe_meter_id=None,
        created_at=NOW,
        document={"id": "price_1", "currency": "ugx", "unit_amount": 2},
    )
    version = stripe_price_version(price, stripe_account_id="acct_1", now=NOW)
    assert describe_terms(version).startswith("cannot be computed: currency: ")


def test_a_price_of_ones_own(runner: CliRunner, tmp_path: Path) -> None:
    """As priceConfig or as Stripe's Price; said twice is once; what cannot be right is refused by member."""
    file = tmp_path / "price.yaml"
    file.write_text("model: flat\ncurrency: usd\nunitPrice: 0.01\n")
    words = ("prices", "set", "seats", str(file), "--tenant", "acme", "--from", "2026-01-01T00:00:00Z")
    assert command(runner, *words) == ["seats: priced"]
    assert command(runner, *words) == ["seats: unchanged"]
    file.write_text('{"currency": "usd", "billing_scheme": "per_unit", "unit_amount": 1}')
    assert command(runner, *words) == ["seats: unchanged"]
    file.write_text("model: flat\ncurrency: usd\nunitPrice: -1\n")
    with pytest.raises(InvalidInput) as refused:
        command(runner, *words)
    assert refused.value.field == "unitPrice"


def test_a_window_is_priced_by_the_version_of_its_last_instant(pool: ConnectionPool) -> None:
    """A version that starts with the window's end is the next window's; before the first nothing is known."""
    first, second = NOW - timedelta(days=60), NOW - timedelta(days=30)
    for start, unit in ((first, "0.01"), (second, "0.02")):
        assert say_price(
            pool, FLAT | {"unitPrice": unit}, tenant_id="acme", meter="seats", effective_from=start, now=NOW
        )
    versions = list_known_prices(pool, tenant_id="acme")
    charged = [
        found and quote(terms_of(found), Decimal(100)).total_minor
        for end in (first, first + timedelta(microseconds=1), second, second + timedelta(microseconds=1))
        for found in [version_in_force(versions, end)]
    ]
    assert charged == [None, 100, 100, 200]


def test_a_price_is_never_changed(pool: ConnectionPool) -> None:
    """A row is not updated or deleted, and a version does not slip before the newest."""
    for unit in ("0.01", "0.02"):
        version = own_price_version(
            FLAT | {"unitPrice": unit}, tenant_id="acme", meter="seats", effective_from=NOW, now=NOW
        )
        with transaction(pool) as tx:
            if unit == "0.01":
                assert record_price(tx, version)
            else:
                with pytest.raises(Conflict, match="must hold from later"):
                    record_price(tx, version)
    for change in ("update prices set effective_from = now()", "delete from prices"):
        with pytest.raises(psycopg.DatabaseError), transaction(pool) as tx:
            tx.execute(change)
