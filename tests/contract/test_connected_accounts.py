"""Several Stripe accounts with one key: a platform's own and those connected to it, none with another's usage."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from psycopg_pool import ConnectionPool
from pydantic import SecretStr
from typer.testing import CliRunner

from stripemeter.billing import BillingSink, open_sink, open_sinks
from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, NotAllowed, StripeRejected
from stripemeter.metering.days import month_bounds
from stripemeter.pipeline.push import PushReport, push_usage
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.runtime.settings import load_settings
from stripemeter.store.mappings import CustomerBinding, PriceMapping, bind_customer, create_mapping
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, TODAY, SinkSettings

CONNECTED = "acct_connected"


@pytest.fixture
def settings(emulator: RunningEmulator) -> SinkSettings:
    """A platform's key, and one account connected to it."""
    emulator.freeze(NOW)
    platform = emulator.client().v1.accounts.retrieve_current().id
    emulator.control("POST", "/connected_accounts", {"platform": platform, "account": CONNECTED})
    return SinkSettings(
        stripe_test_secret_key=SecretStr(emulator.key),
        stripe_api_base=emulator.url,
        connected_accounts=(CONNECTED,),
    )


@pytest.fixture
def sinks(settings: SinkSettings) -> list[BillingSink]:
    """Every account they allow."""
    return open_sinks(settings)


def test_each_account_is_a_sink_of_its_own(sinks: list[BillingSink], settings: SinkSettings) -> None:
    """The key's own account first; each by its name, and opened when it is asked for."""
    own, connected = sinks
    assert (own.name, connected.name) == ("shadow", f"shadow/{CONNECTED}")
    assert connected.account_id() == CONNECTED != own.account_id()
    assert open_sink(settings, account=CONNECTED).account_id() == CONNECTED
    assert open_sink(settings, account="acct_somebody").account_id() == own.account_id()


def test_usage_goes_to_the_account_it_is_mapped_to(pool: ConnectionPool, sinks: list[BillingSink]) -> None:
    """Two tenants, two accounts: each holds its tenant's usage, and each reconciliation compares its own."""
    for number, sink in enumerate(sinks):
        use(pool, sink, tenant=f"t{number}", quantity=5 + number)
    assert [push(pool, sink).accepted for sink in sinks] == [1, 1]
    for number, sink in enumerate(sinks):
        report = reconcile_usage(pool, sink, now=NOW)
        assert (report.stripe_account_id, report.days, report.ok) == (sink.account_id(), 1, 1)
        assert held(pool, sink, tenant=f"t{number}") == 5 + number


def test_an_account_without_mappings_is_no_mixed_up_key(pool: ConnectionPool, sinks: list[BillingSink]) -> None:
    """What is mapped to a connected account does not keep the platform's own push from its turn; another's key does."""
    own, connected = sinks
    use(pool, connected, tenant="t", quantity=5)
    assert push(pool, own).customers == 0
    with pytest.raises(NotAllowed, match="usage is mapped to acct_connected"):
        push_usage(pool, own, now=NOW)
    assert push(pool, connected).accepted == 1


def test_an_account_that_was_disconnected_is_refused(emulator: RunningEmulator) -> None:
    """403, in Stripe's words; nothing falls back to the platform's own account."""
    settings = SinkSettings(
        stripe_test_secret_key=SecretStr(emulator.key),
        stripe_api_base=emulator.url,
        connected_accounts=("acct_gone",),
    )
    with pytest.raises(StripeRejected, match="does not have access to account 'acct_gone'"):
        open_sinks(settings)[1].account_id()


def test_the_account_of_a_command(
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    emulator: RunningEmulator,
    settings: SinkSettings,
    tmp_path: Path,
) -> None:
    """`--account` opens a connected account and refuses one that is not named in the settings."""
    assert settings.connected_accounts
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    monkeypatch.setenv("STRIPEMETER_STRIPE_CONNECTED_ACCOUNTS", f" {CONNECTED} ,")
    mapped = CliRunner().invoke(app, ["stripe", "map", "calls", "--tenant", "t", "--account", CONNECTED])
    assert mapped.exit_code == 0, mapped.output
    assert CONNECTED in mapped.stdout
    refused = CliRunner().invoke(app, ["stripe", "map", "calls", "--tenant", "t", "--account", "acct_other"])
    assert isinstance(refused.exception, NotAllowed)
    assert "STRIPEMETER_STRIPE_CONNECTED_ACCOUNTS" in str(refused.exception)


def test_what_is_no_account_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting says what it wants."""
    monkeypatch.setenv("STRIPEMETER_STRIPE_CONNECTED_ACCOUNTS", "acct_1,cus_2")
    with pytest.raises(InvalidInput, match=r"'cus_2' is not acct_\.\.\."):
        load_settings()


def use(pool: ConnectionPool, sink: BillingSink, *, tenant: str, quantity: int) -> None:
    """A tenant's `calls`, mapped to the account, of which `ada` used so much today."""
    meter = sink.ensure_meter(event_name="calls", display_name="Calls")
    customer = sink.create_customer(name="ada", idempotency_key=uuid.uuid4().hex)
    with transaction(pool) as tx:
        create_mapping(
            tx,
            PriceMapping(
                id=uuid.uuid4(),
                tenant_id=tenant,
                meter="calls",
                aggregation="sum",
                stripe_account_id=sink.account_id(),
                stripe_event_name="calls",
                stripe_meter_id=meter.stripe_meter_id,
                mode="shadow",
                created_at=NOW,
            ),
        )
        bind_customer(
            tx,
            CustomerBinding(
                tenant_id=tenant,
                customer_ref="ada",
                stripe_account_id=sink.account_id(),
                stripe_customer_id=customer,
                created_at=NOW,
            ),
        )
        tx.execute(
            "insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum, "
            "quantity_min, quantity_max, quantity_last, last_ts, last_seq) "
            "values (%s, 'ada', 'calls', %s, %s, 1, %s, 0, 0, 0, now(), 1)",
            (tenant, TODAY, month_bounds(TODAY)[0], quantity),
        )


def push(pool: ConnectionPool, sink: BillingSink) -> PushReport:
    """A push beside those of the other accounts."""
    return push_usage(pool, sink, now=NOW, connected_accounts=(CONNECTED,))


def held(pool: ConnectionPool, sink: BillingSink, *, tenant: str) -> int:
    """What the account holds of the tenant's customer today."""
    with transaction(pool) as tx:
        row = tx.execute(
            "select m.stripe_meter_id, b.stripe_customer_id from price_mappings as m "
            "inner join customer_bindings as b on m.tenant_id = b.tenant_id where m.tenant_id = %s",
            (tenant,),
        ).fetchone()
    assert row is not None
    daily = sink.read_daily_quantities(stripe_meter_id=row[0], stripe_customer_id=row[1], first=TODAY, last=TODAY)
    return int(daily[TODAY])
