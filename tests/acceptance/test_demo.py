"""`stripemeter demo`: the whole of it, on the real flights."""

from __future__ import annotations

import psycopg
import pytest

from stripemeter.demo.flights import DEPARTURES
from tests.stacks import Stack

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("stack"), pytest.mark.timeout(1800)]


def test_the_demo_ends_with_difference_zero_and_again_with_only_duplicates(stack: Stack) -> None:
    """A million events come out equal at the source, in usage and at Stripe; a second run adds nothing."""
    first = stack.cli("demo", timeout_seconds=1200)
    assert "1,000,898 accepted, 50,044 duplicates. Source = counters = Stripe, difference 0." in first.stdout
    for carrier, departures in DEPARTURES.items():
        assert any(carrier in line and f"{departures:,}" in line for line in first.stdout.splitlines())
    again = stack.cli("demo", timeout_seconds=1200)
    assert " 0 accepted, 1,050,942 duplicates. Source = counters = Stripe, difference 0." in again.stdout


def test_the_demo_fails_when_a_counter_is_wrong(stack: Stack) -> None:
    """One counter changed behind the system's back: the demo names the carrier and exits with 1."""
    change = """
        update counters set quantity_sum = quantity_sum + %s, quantity_max = quantity_max
        where (tenant_id, customer_ref, meter, day) = (
            select tenant_id, customer_ref, meter, day from counters
            where tenant_id like 'nycflights-%%' and customer_ref = 'HA' and meter = 'departures' order by day limit 1
        )
    """
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute(change, (1,))
        try:
            failed = stack.cli("demo", check=False, timeout_seconds=1200)
        finally:
            connection.execute(change, (-1,))
    assert failed.returncode == 1
    assert "DIFFERENT HA: departures: source and counters" in failed.stdout
