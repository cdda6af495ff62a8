"""`stripemeter demo`: the whole of it, on the real flights."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx2
import psycopg
import pytest

from stripemeter.demo.flights import DEPARTURES
from tests.stacks import Stack

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("stack"), pytest.mark.timeout(1800)]


def test_the_demo_proves_equality_adds_nothing_twice_and_sees_a_stranger(stack: Stack) -> None:
    """A million events come out equal everywhere; a second run adds nothing; a stranger's unit at Stripe is named."""
    first = stack.cli("demo", timeout_seconds=1200)
    assert "1,000,898 accepted, 50,044 duplicates. Source = counters = Stripe, difference 0." in first.stdout
    for carrier, departures in DEPARTURES.items():
        assert any(carrier in line and f"{departures:,}" in line for line in first.stdout.splitlines())
    again = stack.cli("demo", timeout_seconds=1200)
    assert " 0 accepted, 1,050,942 duplicates. Source = counters = Stripe, difference 0." in again.stdout
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with psycopg.connect(stack.database_url) as connection:
        bound = connection.execute(
            "select stripe_customer_id from customer_bindings where tenant_id = %s and customer_ref = 'HA'",
            (f"nycflights-{yesterday.date()}",),
        ).fetchone()
    assert bound is not None, "the demo before this one bound every carrier"

    def send(value: str) -> None:
        answer = httpx2.post(
            f"{stack.status()['urls']['emulator']}/v1/billing/meter_events",
            headers={"authorization": "Bearer sk_test_emulator"},
            data={
                "event_name": f"nycflights-{yesterday.date()}-departures",
                "payload[stripe_customer_id]": bound[0],
                "payload[value]": value,
                "timestamp": str(int(yesterday.timestamp())),
                "identifier": f"stranger {value}",
            },
        )
        assert answer.status_code == 200, answer.text
        # Stripe takes events of customers it does not know, and drops them silently: this one must count.
        ledger = httpx2.get(f"{stack.status()['urls']['emulator']}/_emu/ledger").json()
        assert str(ledger).count(f"stranger {value}") == 1

    send("1")
    failed = stack.cli("demo", check=False, timeout_seconds=1200)
    send("-1")
    assert failed.returncode == 1, failed.stdout
    assert f"DIFFERENT HA: departures: counters and Stripe on {yesterday.date()}" in failed.stdout
