"""`stripemeter reconcile` and `stripemeter repair`: a difference is found, explained, approved and gone."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.errors import InvalidInput, StripeMeterError
from stripemeter.metering.days import month_bounds
from stripemeter.pipeline.push import push_usage
from stripemeter.store.mappings import CustomerBinding, PriceMapping, bind_customer, create_mapping
from stripemeter.store.postgres import transaction
from tests.emulator import RunningEmulator
from tests.stripe_bench import shadow_sink

NOW = datetime.now(UTC)
AN_HOUR_AGO = NOW - timedelta(hours=1)
USED_ON = (NOW - timedelta(days=1)).date()


@pytest.fixture
def customer(pool: ConnectionPool, emulator: RunningEmulator) -> str:
    """`ada` of tenant `acme`, whose 1000 of yesterday reached Stripe an hour ago; her Stripe id."""
    emulator.freeze(AN_HOUR_AGO)
    sink = shadow_sink(emulator)
    account = sink.account_id()
    meter = sink.ensure_meter(event_name="calls", display_name="Calls")
    stripe_customer = sink.create_customer(name="ada", idempotency_key=uuid.uuid4().hex)
    mapping = PriceMapping(
        id=uuid.uuid4(),
        tenant_id="acme",
        meter="calls",
        aggregation="sum",
        stripe_account_id=account,
        stripe_event_name="calls",
        stripe_meter_id=meter.stripe_meter_id,
        mode="shadow",
        created_at=NOW,
    )
    binding = CustomerBinding(
        tenant_id="acme",
        customer_ref="ada",
        stripe_account_id=account,
        stripe_customer_id=stripe_customer,
        created_at=NOW,
    )
    with transaction(pool) as tx:
        create_mapping(tx, mapping)
        bind_customer(tx, binding)
        tx.execute(
            "insert into counters (tenant_id, customer_ref, meter, day, segment_start, event_count, quantity_sum, "
            "quantity_min, quantity_max, quantity_last, last_ts, last_seq) "
            "values ('acme', 'ada', 'calls', %s, %s, 1, 1000, 0, 0, 0, now(), 1)",
            (USED_ON, month_bounds(USED_ON)[0]),
        )
    assert push_usage(pool, sink, now=AN_HOUR_AGO).accepted == 1
    emulator.freeze(NOW)
    return stripe_customer


@pytest.fixture
def runner(
    monkeypatch: pytest.MonkeyPatch, database_url: str, emulator: RunningEmulator, customer: str, tmp_path: Path
) -> CliRunner:
    """Types commands at this test's database and account."""
    assert customer
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("STRIPEMETER_HOME", str(tmp_path))
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", emulator.key)
    monkeypatch.setenv("STRIPEMETER_STRIPE_API_BASE", emulator.url)
    return CliRunner()


def run(runner: CliRunner, *words: str, status: int = 0) -> Any:  # noqa: ANN401 - any JSON
    """What `stripemeter ... --json` prints."""
    answer = runner.invoke(app, [*words, "--json"])
    if isinstance(answer.exception, StripeMeterError):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return json.loads(answer.stdout)


def test_a_surplus_is_found_approved_and_taken_back(
    runner: CliRunner, emulator: RunningEmulator, customer: str
) -> None:
    """Another writer reports 7: exit 1 until a person approves; then Stripe holds what we counted, also repeated."""
    assert run(runner, "reconcile", "run")["unexplained"] == 0
    assert run(runner, "repair", "plan")["steps"] == []
    emulator.client().v1.billing.meter_events.create(
        {
            "event_name": "calls",
            "timestamp": int(datetime.combine(USED_ON, datetime.min.time(), UTC).timestamp()) + 43_200,
            "payload": {"stripe_customer_id": customer, "value": "7"},
        }
    )
    assert run(runner, "reconcile", "run", status=1)["unexplained"] == 1
    (step,) = run(runner, "repair", "plan", "--tenant", "acme")["steps"]
    assert (step["cause"], step["customer_ref"], step["drift"]) == ("foreign_writer", "ada", "-7")
    assert run(runner, "repair", "plan", "--tenant", "other")["steps"] == []
    with pytest.raises(InvalidInput, match="needs a --reason"):
        run(runner, "repair", "apply", "--approve", step["correction"])
    assert run(runner, "repair", "apply", status=1)["accepted"] == 0
    approve = ("repair", "apply", "--approve", step["correction"], "--reason", "a script of ours")
    applied = run(runner, *approve)
    assert (applied["approvals"][0]["outcome"], applied["accepted"], applied["differences"]) == ("applied", 1, [])
    again = run(runner, *approve)
    assert (again["approvals"][0]["outcome"], again["accepted"], again["differences"]) == ("already", 0, [])
    (month,) = run(runner, "reconcile", "show", "--tenant", "acme", "--period", f"{USED_ON:%Y-%m}")["months"]
    assert (month["meter"], month["local"], month["stripe"]) == ("calls", "1000", "1000")


def test_an_unknown_suggestion_fails_and_says_so(runner: CliRunner) -> None:
    """Exit 1, and nothing is sent."""
    words = ("repair", "apply", "--approve", str(uuid.uuid4()), "--reason", "a typing error")
    applied = run(runner, *words, status=1)
    assert (applied["approvals"][0]["outcome"], applied["accepted"]) == ("failed", 0)
