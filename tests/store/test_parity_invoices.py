"""Comparing invoice exports: amounts by the price in force, and whatever explains another one."""

from __future__ import annotations

from datetime import UTC, datetime

from psycopg_pool import ConnectionPool

from stripemeter.metering.days import month_bounds
from stripemeter.metering.segments import parse_phase
from stripemeter.pipeline.prices import say_price
from stripemeter.store.customers import CustomerPhase, replace_phases
from stripemeter.store.mappings import create_mapping
from stripemeter.store.postgres import transaction
from tests.parity import (
    GRADUATED,
    LONG_AGO,
    NOW,
    OCTOBER,
    bind,
    compare,
    count,
    invoices,
    map_meter,
    mapping,
    only,
    record_stripe_price,
    shown,
)


def test_invoices_are_compared_by_quantity_and_amount(pool: ConnectionPool) -> None:
    """Lines of an item are added up; what the price makes of another quantity is no further difference."""
    say_price(pool, GRADUATED, tenant_id="acme", meter="calls", effective_from=LONG_AGO, now=NOW)
    count(pool, "calls", 13)
    head = "customer,metric,period,quantity,amount,currency\n"
    lines = "ada,calls,2026-10,10,500,usd\nada,calls,2026-10,0,900,usd\nada,calls,2026-10,3,5,usd\n"
    equal = invoices(pool, head + lines)
    assert (equal.verdict, equal.rows.matched, shown(equal)) == ("equal", 3, [])
    assert compare(
        pool, "customer,metric,period,quantity,amount_major,currency\nada,calls,2026-10,13,14.05,USD\n", kind="invoice"
    ).verdict == ("equal")
    more = invoices(pool, head + lines + "ada,calls,2026-10,7,10,usd\n")
    item = only(more.items)
    assert (item.status, item.causes, item.detail) == (
        "drift",
        ("unknown",),
        "the amount is what this price makes of the export's quantity",
    )
    assert (item.quantity, item.their_quantity, item.amount_minor, item.their_amount_minor) == (13, 20, 1405, 1415)
    rounded = invoices(pool, head + "ada,calls,2026-10,13,1404.5,usd\n")
    assert shown(rounded) == [("ada/calls", "both", "within_epsilon", ("rounding",))]
    euros = invoices(pool, head + "ada,calls,2026-10,13,1405,eur\n")
    assert shown(euros) == [("ada/calls", "both", "drift", ("other_currency",))]
    assert invoices(pool, head + lines, rounding="half_even").items[0].causes == ("rounding",)


def test_prices_of_shadow_mappings_and_their_versions(pool: ConnectionPool) -> None:
    """The mapping in shadow prices; another version, another price and no price are told apart."""
    map_meter(pool, "calls", "price_1", unit=2)
    bind(pool, "ada", "cus_ada")
    count(pool, "calls", 100)
    head = "customer id,price id,period start,period end,quantity,amount,currency\n"
    line = "cus_ada,{},2026-10-01,2026-11-01,100,{},usd\n"
    assert invoices(pool, head + line.format("price_1", 200)).verdict == "equal"
    record_stripe_price(pool, "price_1", 3, seen_at=datetime(2026, 11, 20, tzinfo=UTC))
    older = invoices(pool, head + line.format("price_1", 300))
    assert shown(older) == [("ada/calls", "both", "drift", ("price_version",))]
    other = invoices(pool, f"metric,{head}calls,{line.format('price_9', 777)}")
    assert shown(other) == [("ada/calls", "both", "drift", ("other_price",))]
    assert "price_9" in other.items[0].detail
    count(pool, "disk", 1)
    unpriced = invoices(pool, head + line.format("price_1", 200) + line.format("disk", 5).replace("100", "1"))
    assert (unpriced.verdict, shown(unpriced)) == ("incomplete", [("ada/disk", "both", "unknown", ("unpriced",))])
    assert "no mapping names a price" in unpriced.items[1].detail
    assert invoices(pool, head + line.format("price_1", 200)).not_billed == ("disk",)


def test_what_an_invoice_export_lacks(pool: ConnectionPool) -> None:
    """Customers with usage and those who pay without, in billing periods that end among the export's."""
    map_meter(pool, "calls", "price_1", unit=2)
    say_price(pool, GRADUATED, tenant_id="acme", meter="disk", effective_from=LONG_AGO, now=NOW)
    count(pool, "calls", 100)
    count(pool, "disk", 1)
    count(pool, "calls", 50, customer="bob")
    count(pool, "calls", 1, datetime(2026, 9, 3, tzinfo=UTC), customer="bob")
    line = "customer,metric,period,quantity,amount,currency\nada,calls,2026-10,100,200,usd\n"
    found = invoices(pool, line)
    assert [(item.key.customer_ref, item.key.metric, item.amount_minor) for item in found.items] == [
        ("ada", "calls", 200),
        ("ada", "disk", 950),
        ("bob", "calls", 100),
    ]
    with transaction(pool) as tx:
        tenth = parse_phase(cadence="month", anchor_at=datetime(2026, 1, 4, tzinfo=UTC))
        replace_phases(tx, "acme", "bob", [CustomerPhase(meter="", phase=tenth, reason="test")], now=NOW)
    assert {item.key.customer_ref for item in invoices(pool, line).items} == {"ada"}
    asked = invoices(pool, line, period=month_bounds(OCTOBER.date()))
    (bobs,) = [item for item in asked.items if item.key.customer_ref == "bob"]
    assert (bobs.key.start.day, bobs.key.end.day, bobs.quantity) == (4, 4, 50)


def test_a_value_in_force_is_billed_without_an_event(pool: ConnectionPool) -> None:
    """Of a `last` metric the value reported before its billing window is what the window has."""
    with transaction(pool) as tx:
        create_mapping(tx, mapping("seats", "price_seats", "acct_1", aggregation="last"))
    record_stripe_price(pool, "price_seats", 100)
    count(pool, "seats", 6, datetime(2026, 9, 3, tzinfo=UTC))
    text = "customer,metric,period,quantity,amount,currency\nada,seats,2026-10,6,600,usd\n"
    assert invoices(pool, text).verdict == "equal"
