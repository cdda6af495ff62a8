"""What nobody knows of Stripe must not matter: push and reconcile under every setting of the knobs of metering."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.reconcile import reconcile_usage
from tests.emulator import RunningEmulator
from tests.stripe_bench import NOW, TODAY, open_bench

SETTINGS: list[dict[str, Any]] = [
    {"identifier_scope": "meter"},
    {"identifier_scope": "customer"},
    {"unknown_customer": "refused"},
    {"empty_windows": "zero"},
    {"summary_end": "included"},
    {"concurrent_events": "refused"},
    {"taken_jitter_seconds": 7_200},
    {"event_window_clock": "wall"},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: "-".join(map(str, *setting.items())))
def test_push_and_reconcile_agree(pool: ConnectionPool, emulator: RunningEmulator, setting: dict[str, Any]) -> None:
    """Three days, two customers, a correction: every day is equal and every row confirmed."""
    emulator.control("POST", "/metering", setting)
    bench = open_bench(pool, emulator)
    for customer in ("ada", "bob"):
        bench.bind(customer)
        for days in range(3):
            bench.count(str(5 + days), TODAY - timedelta(days=days), customer)
    push_usage(bench.pool, bench.sink, now=NOW)
    bench.count("3", TODAY - timedelta(days=1))
    push_usage(bench.pool, bench.sink, now=NOW)
    report = reconcile_usage(bench.pool, bench.sink, now=NOW)
    assert (report.days, report.ok, report.rows) == (6, 6, ())
    assert set(bench.states()) == {"confirmed"}


def test_a_summary_that_lags_is_in_flight_and_then_equal(pool: ConnectionPool, emulator: RunningEmulator) -> None:
    """Accepted is not counted: while Stripe's summaries lag nothing is sent again, and afterwards all agrees."""
    emulator.control("POST", "/ingest_lag", {"seconds": 600})
    bench = open_bench(pool, emulator)
    bench.bind()
    bench.count("5", TODAY - timedelta(days=1))
    push_usage(bench.pool, bench.sink, now=NOW)
    (row,) = reconcile_usage(bench.pool, bench.sink, now=NOW).rows
    assert row.cause == "in_flight"
    push_usage(bench.pool, bench.sink, now=NOW)
    emulator.freeze(NOW + timedelta(seconds=600))
    assert reconcile_usage(bench.pool, bench.sink, now=NOW + timedelta(seconds=600)).ok == 1
    assert len(emulator.ledger()) == 1


@pytest.mark.parametrize("owner", ["beginning_period", "ending_period", "both"])
def test_nobodys_usage_is_in_the_second_between_two_periods(
    pool: ConnectionPool, emulator: RunningEmulator, owner: str
) -> None:
    """P5: the last day of a period and the first of the next are each billed once, whosever that second is."""
    emulator.control("POST", "/billing", {"boundary_second": owner})
    bench = open_bench(pool, emulator)
    customer, client = bench.bind(), emulator.client()
    emulator.freeze(datetime(2026, 10, 25, tzinfo=UTC))
    product = client.v1.products.create({"name": "Calls"}).id
    price: Any = {"currency": "usd", "product": product, "unit_amount": 2}
    price |= {"recurring": {"interval": "month", "usage_type": "metered", "meter": bench.meter_id}}
    subscription = client.v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": client.v1.prices.create(price).id}],
            "billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0},
        }
    ).id
    midnight = datetime(2026, 11, 1, tzinfo=UTC)
    emulator.freeze(midnight)
    (draft,) = client.v1.invoices.list({"customer": customer}).data
    client.v1.invoices.update(draft.id or "", {"auto_advance": False})
    bench.count("5", date(2026, 10, 31))
    bench.count("7", date(2026, 11, 1))
    for now in (midnight, midnight + timedelta(seconds=59), midnight + timedelta(seconds=60)):
        emulator.freeze(now)
        push_usage(bench.pool, bench.sink, now=now)
    assert client.v1.invoices.finalize_invoice(draft.id or "").total == 10
    assert client.v1.invoices.create_preview({"subscription": subscription}).total == 14
