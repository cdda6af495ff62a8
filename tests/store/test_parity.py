"""Comparing an export: everything that can be told of a difference is named, and nothing is left out silently."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from random import Random

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import month_bounds
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.parity import ParityReport
from stripemeter.pipeline.parity_report import CSV_HEADER, report_csv, report_document, report_html, report_table
from stripemeter.store.customers import add_alias
from stripemeter.store.postgres import transaction
from stripemeter.store.usage import load_current_usage
from tests.adjusting import adjust
from tests.parity import (
    NOW,
    OCTOBER,
    bind,
    compare,
    count,
    event,
    map_meter,
    only,
    shown,
)


def test_usage_is_compared_to_the_last_digit(pool: ConnectionPool) -> None:
    """Equal is equal; a trillionth is within epsilon and listed; more is drift; each side's own is named."""
    count(pool, "calls", 1000)
    count(pool, "disk", "0.5")
    count(pool, "calls", 7, customer="bob")
    text = "customer,metric,period,quantity\nada,calls,2026-10,{}\nada,disk,2026-10,0.5\nbob,calls,2026-10,7\n"
    equal = compare(pool, text.format(1000))
    assert (equal.verdict, shown(equal), equal.row_count) == ("equal", [], 3)
    near = compare(pool, text.format("1000.000000000001"))
    assert (near.verdict, shown(near)) == ("within_epsilon", [("ada/calls", "both", "within_epsilon", ("unknown",))])
    assert only(item for item in near.items if item.status != "ok").lines == (2,)
    assert compare(pool, text.format(900)).verdict == "different"
    lacking = compare(pool, "customer,metric,period,quantity\nada,calls,2026-10,1000\nada,disk,2026-09,3\n")
    assert shown(lacking) == [
        ("ada/disk", "only_there", "drift", ("missing_here",)),
        ("ada/disk", "only_here", "drift", ("missing_there",)),
        ("bob/calls", "only_here", "drift", ("missing_there",)),
    ]
    with pytest.raises(InvalidInput, match="3 items of ours would have to be compared, at most 2"):
        compare(pool, text.format(1000), most_items=2)
    of_calls = compare(pool, text.format(1000), metrics=("calls",), most_items=2)
    assert (of_calls.verdict, of_calls.left_out, len(of_calls.items)) == ("equal", 1, 2)


@pytest.mark.parametrize("seed", range(3))
def test_an_export_of_our_own_numbers_is_equal(pool: ConnectionPool, seed: int) -> None:
    """In any order of rows; the smallest change of any one of them is found by its line, a row less by its item."""
    random = Random(seed)
    for customer in ("ada", "bob", "cy"):
        for meter in random.sample(["calls", "disk", "seats"], 2):
            for day in random.sample(range(20), 3):
                quantity = Decimal(random.randrange(10**14)).scaleb(-random.randrange(13))
                count(pool, meter, quantity, OCTOBER + day * timedelta(days=1), customer)
    lines = [
        (customer, metric, usage.quantity)
        for customer in ("ada", "bob", "cy")
        for metric, usage in load_current_usage(
            pool, tenant_id="acme", customer_ref=customer, at=OCTOBER, now=NOW
        ).metrics.items()
    ]
    assert len(lines) == 6
    random.shuffle(lines)

    def compared(rows: Iterable[tuple[str, str, Decimal]]) -> ParityReport:
        text = "".join(f"{customer},{metric},2026-10,{quantity:f}\n" for customer, metric, quantity in rows)
        return compare(pool, f"customer,metric,period,quantity\n{text}")

    equal = compared(lines)
    assert (equal.verdict, shown(equal)) == ("equal", [])
    in_order = compared(sorted(lines)).items
    assert [replace(item, lines=()) for item in in_order] == [replace(item, lines=()) for item in equal.items]
    place = random.randrange(6)
    customer, metric, quantity = lines[place]
    changed = compared([*lines[:place], (customer, metric, quantity + Decimal("1e-12")), *lines[place + 1 :]])
    found = only(item for item in changed.items if item.status != "ok")
    assert (found.key[:2], found.lines) == ((customer, metric), (place + 2,))
    lacking = compared([*lines[:place], *lines[place + 1 :]])
    assert shown(lacking) == [(f"{customer}/{metric}", "only_here", "drift", ("missing_there",))]


def test_days_and_the_gaps_of_a_month_are_looked_into(pool: ConnectionPool) -> None:
    """A day nobody has a row of is missed with a period alone; a customer of no row is looked for in everybody's."""
    count(pool, "calls", 1)
    count(pool, "calls", 2, OCTOBER + timedelta(days=1))
    count(pool, "calls", 4, OCTOBER + timedelta(days=9))
    count(pool, "calls", 3, customer="bob")
    text = "customer,metric,day,quantity\nada,calls,2026-10-05,1\nada,calls,2026-10-06,2\n"
    without = compare(pool, text)
    assert [(item.key.customer_ref, item.key.start.day, item.quantity) for item in without.items] == [
        ("ada", 5, 1),
        ("ada", 6, 2),
        ("bob", 5, 3),
    ]
    within = compare(pool, text, period=month_bounds(OCTOBER.date()))
    assert [
        (item.key.customer_ref, item.key.start.day, item.key.end.day, item.side)
        for item in within.items
        if item.status != "ok"
    ] == [("ada", 7, 1, "only_here"), ("bob", 5, 6, "only_here")]
    nothing = compare(pool, "customer,metric,quantity\n", period=month_bounds(OCTOBER.date()))
    assert [(item.key.customer_ref, item.quantity) for item in nothing.items] == [("ada", 7), ("bob", 3)]
    with pytest.raises(InvalidInput, match="no rows"):
        compare(pool, "customer,metric,period,quantity\n")


def test_names_of_customers_and_metrics(pool: ConnectionPool) -> None:
    """Other references, Stripe customers, prices and event names; strangers are told apart; nothing is added up."""
    count(pool, "calls", 5)
    map_meter(pool, "calls", "price_1")
    bind(pool, "ada", "cus_ada")
    with transaction(pool) as tx:
        add_alias(tx, "acme", "ada", "ada-old", now=NOW)
    for customer in ("ada", "ada-old", "cus_ada"):
        for metric in ("calls", "price_1", "calls_event"):
            found = compare(pool, f"customer,metric,period,quantity\n{customer},{metric},2026-10,5\n")
            assert (found.verdict, found.items[0].key[:2]) == ("equal", ("ada", "calls"))
    assert compare(pool, "customer,price,period,quantity\nada,price_1,2026-10,5\n").verdict == "equal"
    strangers = compare(
        pool,
        "customer,metric,period,quantity\nada,calls,2026-10,5\nada,tea,2026-10,1\nzoe,calls,2026-10,1\n"
        "cus_zoe,calls,2026-10,1\n",
    )
    assert shown(strangers) == [
        ("ada/tea", "only_there", "drift", ("unmapped_metric",)),
        ("cus_zoe/calls", "only_there", "drift", ("not_bound",)),
        ("zoe/calls", "only_there", "drift", ("unknown_customer",)),
    ]
    bind(pool, "bob", "cus_ada", account="acct_2")
    ambiguous = compare(pool, "customer,metric,period,quantity\ncus_ada,calls,2026-10,5\n")
    assert (ambiguous.verdict, [(row.line, row.code) for row in ambiguous.unusable]) == (
        "incomplete",
        [(2, "ambiguous")],
    )


def test_rows_that_cannot_be_used_make_it_incomplete(pool: ConnectionPool) -> None:
    """They are named by line and field and counted; the others are compared; another tenant's row is one of them."""
    count(pool, "calls", 5)
    found = compare(
        pool,
        'tenantId,customer,metric,period,quantity\nacme,ada,calls,2026-10,5\nacme,ada,calls,2026-10,"5,0"\n'
        "zeta,ada,calls,2026-10,5\nacme,ada\n\nacme,ada,calls,2026-10,x\n",
    )
    assert found.verdict == "incomplete"
    assert [(row.line, row.field) for row in found.unusable] == [
        (3, "quantity"),
        (4, "tenant"),
        (5, ""),
        (7, "quantity"),
    ]
    assert (found.rows.matched, found.row_count) == (1, 5)


def test_causes_of_other_quantities(pool: ConnectionPool) -> None:
    """Repeated rows and adjustments are recognised by their numbers."""
    count(pool, "calls", 5)
    adjust(pool, "acme", "-2", OCTOBER, metric="calls", customer_ref="ada")
    head = "id,customer,metric,period,quantity\n"
    equal = compare(pool, head + "a,ada,calls,2026-10,1\nb,ada,calls,2026-10,2\n")
    assert (equal.verdict, equal.items[0].lines) == ("equal", (2, 3))
    twice = compare(pool, head + "a,ada,calls,2026-10,1\nb,ada,calls,2026-10,2\na,ada,calls,2026-10,1\n")
    assert shown(twice) == [("ada/calls", "both", "drift", ("duplicate_rows",))]
    wrong = compare(pool, head + "a,ada,calls,2026-10,4\na,ada,calls,2026-10,4\n")
    assert shown(wrong) == [("ada/calls", "both", "drift", ("unknown",))], "without the repetition it is not equal"
    assert shown(compare(pool, head + "a,ada,calls,2026-10,5\n")) == [("ada/calls", "both", "drift", ("adjustments",))]


def test_what_waits_for_approval(pool: ConnectionPool) -> None:
    """An export that counts it already differs by that, be it a late event or an adjustment of its window."""
    event(pool, "counted", 4, OCTOBER)
    event(pool, "newest", 1, NOW, at=NOW - timedelta(hours=1))
    fold(pool, now=NOW)
    event(pool, "late", 3, NOW)
    fold(pool, now=NOW)
    adjust(pool, "acme", "5", OCTOBER, status="pending", metric="calls", customer_ref="ada")
    adjust(pool, "acme", "9", OCTOBER + 40 * timedelta(days=1), status="pending", metric="calls", customer_ref="ada")
    text = "customer,metric,period,quantity\nada,calls,2026-10,{}\nada,calls,2026-11,1\n"
    assert compare(pool, text.format(4)).verdict == "equal"
    for quantity, cause in ((7, "late_events"), (9, "adjustments"), (13, "unknown")):
        assert shown(compare(pool, text.format(quantity))) == [("ada/calls", "both", "drift", (cause,))]


def test_what_was_known_then(pool: ConnectionPool) -> None:
    """As of an instant, what came later is no difference; an export that has it differs by that."""
    for number, received in ((3, OCTOBER), (4, OCTOBER + timedelta(days=10))):
        event(pool, f"k{number}", number, received)
    text = "customer,metric,period,quantity\nada,calls,2026-10,{}\n"
    assert compare(pool, text.format(7)).verdict == "equal"
    then = OCTOBER + timedelta(days=1)
    assert compare(pool, text.format(3), as_of=then).verdict == "equal"
    late = compare(pool, text.format(7), as_of=then)
    assert shown(late) == [("ada/calls", "both", "drift", ("late_events",))]
    with pytest.raises(InvalidInput, match="future"):
        compare(pool, text.format(3), as_of=NOW + timedelta(days=1))


def test_reports_say_the_same(pool: ConnectionPool) -> None:
    """Document, CSV, page and table; a page loads nothing, and texts of an export are no markup."""
    count(pool, "calls", 1000)
    found = compare(
        pool, "customer,metric,period,quantity\nada,calls,2026-10,990\n<b>,calls,2026-10,1\nada,calls,2026-10,x\n"
    )
    document = report_document(found)
    assert document["rows"] == {
        "total": 3,
        "matched": 0,
        "differing": 1,
        "onlyThere": 1,
        "unusable": 1,
        "leftOut": 0,
    }
    difference = document["differences"][1]
    assert difference["quantity"] == {"ours": "1000", "theirs": "990", "difference": "10"}
    assert document["perMetric"][0]["quantity"] == {"ours": "1000", "theirs": "991", "drift": "11"}
    rows = list(csv.DictReader(io.StringIO(report_csv(found))))
    assert tuple(rows[0]) == CSV_HEADER
    assert [(row["customer"], row["side"], row["lines"]) for row in rows] == [
        ("<b>", "only_there", "3"),
        ("ada", "both", "2"),
        ("", "unusable", "4"),
    ]
    page = report_html(found)
    assert "&lt;b&gt;" in page
    assert not [word for word in ("<b>", "<script", "http", "src=", "url(") if word in page]
    table = report_table(found, most=1)
    assert table.startswith("incomplete: 3 rows (0 matched, 1 differing, 1 only there, 1 unusable, 0 left out)")
    assert "and 1 more" in table
