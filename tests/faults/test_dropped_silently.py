"""C19: Stripe acknowledges a delta and drops it without a word: a day is short, an operator has its rows read back."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvalidInput
from stripemeter.pipeline.push_doubts import recheck_day
from stripemeter.pipeline.reconcile import reconcile_usage
from stripemeter.store.postgres import transaction
from stripemeter.store.push_doubts import DayRows
from tests.emulator import RunningEmulator
from tests.faults.dropping import DROP, FIRST, SECOND, YESTERDAY, bindings, doubts, push, recheck, settle
from tests.stripe_bench import NOW, TODAY, StripeBench, open_bench


@pytest.fixture
def bench(pool: ConnectionPool, emulator: RunningEmulator) -> StripeBench:
    """`ada` has used 5 yesterday."""
    opened = open_bench(pool, emulator)
    opened.bind()
    opened.count("5", YESTERDAY)
    return opened


def test_c19_a_silent_drop_is_found_and_sent_once_more(bench: StripeBench) -> None:
    """C19: nobody says anything; the day is short, an operator has its rows read back, the absent one is sent again."""
    push(bench, NOW)
    bench.count("9", YESTERDAY)
    push(bench, NOW + timedelta(minutes=1), fault=DROP)
    bench.emulator.freeze(NOW + timedelta(minutes=30))
    (row,) = reconcile_usage(bench.pool, bench.sink, now=NOW + timedelta(minutes=30)).rows
    assert (row.cause, row.local, row.stripe) == ("rejected", 9, 5)
    assert "stripemeter stripe recheck" in row.plan
    assert push(bench, NOW + timedelta(minutes=31)).customers == 0

    rows = DayRows(tenant_id=bench.tenant, day=YESTERDAY)
    assert recheck(bench, rows) == 2
    assert recheck(bench, rows) == 0
    first = settle(bench, FIRST + timedelta(minutes=1))
    assert sorted(row.outcome for row in first.rows) == ["again", "present"]
    assert settle(bench, SECOND + timedelta(minutes=1)).absent == 1
    assert bench.states() == ["accepted", "rejected_async"]
    assert "seen short on the dashboard" in bench.entries()[1]["error_message"]
    # The operator has spoken: nobody needs to release it.
    report = push(bench, SECOND + timedelta(minutes=2))
    assert (report.accepted, report.blocked) == (1, 0)
    assert bench.at_stripe(YESTERDAY) == 9
    assert [entry["delta"] for entry in bench.entries()] == [Decimal(5), Decimal(4), Decimal(4)]
    assert reconcile_usage(bench.pool, bench.sink, now=SECOND + timedelta(hours=1)).ok == 1


def test_c19_only_the_chosen_rows_are_doubted(bench: StripeBench) -> None:
    """C19: another day, customer, meter or tenant stays out of it, and so does what was confirmed."""
    bench.bind("bob")
    bench.count("1", YESTERDAY, "bob")
    bench.count("1", YESTERDAY - timedelta(days=1))
    push(bench, NOW)
    for rows, expected in (
        (DayRows(tenant_id="other", day=YESTERDAY), 0),
        (DayRows(tenant_id=bench.tenant, day=TODAY), 0),
        (DayRows(tenant_id=bench.tenant, day=YESTERDAY, meter="other"), 0),
        (DayRows(tenant_id=bench.tenant, day=YESTERDAY, customer_ref="bob"), 1),
        (DayRows(tenant_id=bench.tenant, day=YESTERDAY), 1),
    ):
        assert recheck(bench, rows) == expected
    bench.emulator.freeze(NOW + timedelta(hours=1))
    reconcile_usage(bench.pool, bench.sink, now=NOW + timedelta(hours=1))
    assert bench.states() == ["confirmed"] * 3
    assert recheck(bench, DayRows(tenant_id=bench.tenant, day=YESTERDAY - timedelta(days=1))) == 0
    report = settle(bench, FIRST)
    assert (report.rows, report.waiting) == ((), 0)


def test_c19_a_mapping_that_leads_elsewhere_by_now(bench: StripeBench) -> None:
    """C19: an empty minute of another meter proves nothing: the row stays accepted, and the doubt ends."""
    push(bench, NOW)
    other = bench.sink.ensure_meter(event_name="other", display_name="Other")
    recheck(bench, DayRows(tenant_id=bench.tenant, day=YESTERDAY))
    with transaction(bench.pool) as tx:
        tx.execute(
            "update price_mappings set stripe_event_name = 'other', stripe_meter_id = %s", (other.stripe_meter_id,)
        )
    for now in (FIRST, SECOND):
        report = settle(bench, now)
        assert (report.rows, report.waiting) == ((), 0)
    assert bench.states() == ["accepted"]
    assert [verdict for _, verdict in doubts(bench)] == ["otherwise"]


def test_c19_needs_a_reason(bench: StripeBench) -> None:
    """C19: sending usage again is on record with who let it and why."""
    for reason in ("", " ", "x" * 501):
        with pytest.raises(InvalidInput, match="reason"):
            recheck_day(
                bench.pool,
                bench.sink,
                DayRows(tenant_id=bench.tenant, day=YESTERDAY),
                actor="ops",
                reason=reason,
                now=NOW,
            )


def test_c19_a_minute_that_holds_something_else_is_left_alone(bench: StripeBench) -> None:
    """C19: neither our delta nor nothing: sending it again would count something twice."""
    push(bench, NOW, fault=DROP)
    (entry,) = bench.entries()
    (customer,) = {row[0] for row in bindings(bench)}
    bench.emulator.control(
        "POST",
        "/foreign_event",
        {
            "account": bench.sink.account_id(),
            "event_name": "calls",
            "payload": {"stripe_customer_id": customer, "value": "2"},
            "timestamp": int(entry["stamped_at"].timestamp()),
        },
    )
    recheck(bench, DayRows(tenant_id=bench.tenant, day=YESTERDAY))
    settle(bench, FIRST)
    assert settle(bench, SECOND).otherwise == 1
    assert bench.states() == ["accepted"]
    assert push(bench, SECOND).customers == 0


def test_c18_a_row_that_shows_up_between_two_readings_counts(bench: StripeBench) -> None:
    """C18 and C19: absent at the first reading, there at the second: it was only late."""
    bench.emulator.control("POST", "/ingest_lag", {"seconds": 65 * 60})
    push(bench, NOW)
    recheck(bench, DayRows(tenant_id=bench.tenant, day=YESTERDAY))
    assert [row.outcome for row in settle(bench, FIRST).rows] == ["again"]
    assert settle(bench, SECOND).present == 1
    assert bench.states() == ["accepted"]
