"""What is to be pushed of a gauge: how much each day changed its number of the segment."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.metering.segments import parse_phase
from stripemeter.pipeline.push_segments import open_segments
from stripemeter.store.customers import CustomerPhase, replace_phases
from stripemeter.store.postgres import transaction
from tests.adjusting import adjust

NOW = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


def map_gauge(pool: ConnectionPool, aggregation: str) -> None:
    """The meter `seats` of c1, billed by this aggregation."""
    with pool.connection() as connection:
        connection.execute(
            "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, "
            "stripe_meter_id, mode, created_at) values (gen_random_uuid(), 'acme', 'seats', %s, 'acct_1', "
            "'seats', 'mtr_1', 'live', now())",
            (aggregation,),
        )
        connection.execute("insert into customer_bindings values ('acme', 'c1', 'acct_1', 'cus_1', now())")


def count(  # noqa: PLR0913 - what a counter is
    pool: ConnectionPool,
    day: date,
    quantity: str,
    *,
    least: str | None = None,
    greatest: str | None = None,
    segment: datetime | None = None,
    at: time = time(12),
    dimensions: str = "",
    is_late: bool = False,
) -> None:
    """One counter whose last value is this."""
    with pool.connection() as connection:
        connection.execute(
            "insert into counters (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, "
            "event_count, quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq) "
            "values ('acme', 'c1', 'seats', %s, %s, %s, %s, 1, 0, %s, %s, %s, %s, 1)",
            (
                day,
                segment or datetime.combine(day.replace(day=1), time(), UTC),
                dimensions,
                is_late,
                least or quantity,
                greatest or quantity,
                quantity,
                datetime.combine(day, at, UTC),
            ),
        )


def saw(pool: ConnectionPool, day: date, *items: str) -> None:
    """These distinct values on the day, of a counter of the day's month."""
    count(pool, day, "1")
    with pool.connection() as connection:
        for item in items:
            connection.execute(
                "insert into counter_items values ('acme', 'c1', 'seats', %s, %s, '', false, %s, 1)",
                (day, datetime.combine(day.replace(day=1), time(), UTC), item),
            )


def sent(pool: ConnectionPool, day: date, delta: str, segment: datetime) -> None:
    """A row of the outbox that Stripe acknowledged."""
    with pool.connection() as connection:
        connection.execute(
            "insert into push_entries (id, mapping_id, tenant_id, meter, customer_ref, stripe_account_id, "
            "stripe_event_name, stripe_customer_id, segment_start, day, seq, delta, total_before, total_after, "
            "stamped_at, identifier, planned_at, state, settled_at) select %s, id, 'acme', 'seats', 'c1', 'acct_1', "
            "'seats', 'cus_1', %s, %s, 1, %s, 0, %s, %s, %s, now(), 'accepted', now() from price_mappings",
            (uuid.uuid4(), segment, day, delta, delta, datetime.combine(day, time(12), UTC), uuid.uuid4().hex),
        )


def days(pool: ConnectionPool, now: datetime = NOW) -> dict[tuple[datetime, date], Decimal]:
    """What each day changed, days without a change left out, once a push at `now` has looked."""
    with transaction(pool) as tx:
        open_segments(tx, now=now)
    with pool.connection() as connection:
        rows = connection.execute("select segment_start, day, counted from push_days where counted <> 0").fetchall()
    return {(row[0], row[1]): row[2] for row in rows}


def lacking(pool: ConnectionPool) -> dict[date, Decimal]:
    """What each day lacks at Stripe."""
    with pool.connection() as connection:
        rows = connection.execute("select day, counted - planned from push_days where counted <> planned").fetchall()
    return {row[0]: row[1] for row in rows}


def november(day: int) -> date:
    """A day of the segment."""
    return date(2026, 11, day)


def test_a_maximum_grows_on_the_days_that_raise_it(pool: ConnectionPool) -> None:
    """A day below the greatest so far changes nothing; every lane and combination is the customer's."""
    map_gauge(pool, "max")
    count(pool, november(2), "5")
    count(pool, november(4), "3")
    count(pool, november(6), "6", dimensions='{"meta.region":"eu"}')
    count(pool, november(6), "8", is_late=True)
    assert days(pool) == {(NOVEMBER, november(2)): 5, (NOVEMBER, november(6)): 3}


def test_a_maximum_begins_anew_with_its_segment(pool: ConnectionPool) -> None:
    """What was reached before the segment is not in its number, as nothing of it is in its usage."""
    map_gauge(pool, "max")
    count(pool, date(2026, 10, 30), "9")
    count(pool, november(4), "3")
    assert days(pool) == {(OCTOBER, date(2026, 10, 30)): 9, (NOVEMBER, november(4)): 3}


def test_a_minimum_falls_on_the_days_that_lower_it(pool: ConnectionPool) -> None:
    """The first day says what there is, later ones take back."""
    map_gauge(pool, "min")
    count(pool, november(4), "7", least="5")
    count(pool, november(6), "9")
    count(pool, november(9), "2")
    assert days(pool) == {(NOVEMBER, november(4)): 5, (NOVEMBER, november(9)): -3}


def test_the_last_value_is_owed_from_the_segments_first_day(pool: ConnectionPool) -> None:
    """Seats of October are seats of November, though nobody reports them again; then every change is a delta."""
    map_gauge(pool, "last")
    count(pool, date(2026, 10, 20), "10")
    opened = {(OCTOBER, date(2026, 10, 20)): Decimal(10), (NOVEMBER, november(1)): Decimal(10)}
    assert days(pool) == opened
    count(pool, november(5), "7")
    count(pool, november(9), "12")
    assert days(pool) == opened | {(NOVEMBER, november(5)): -3, (NOVEMBER, november(9)): 5}


def test_a_value_is_in_force_over_silent_segments(pool: ConnectionPool) -> None:
    """Every segment since the last report owes it, until it is reported to be nothing."""
    map_gauge(pool, "last")
    count(pool, date(2026, 8, 20), "4")
    assert {start.month: change for (start, _), change in days(pool).items()} == {8: 4, 9: 4, 10: 4, 11: 4}
    count(pool, date(2026, 9, 3), "0")
    assert {start.month: change for (start, _), change in days(pool).items()} == {8: 4}


def test_the_last_of_a_day_is_the_latest_of_its_lanes(pool: ConnectionPool) -> None:
    """And on a day that a boundary cuts, each segment has its own; the first one's is carried into the second."""
    map_gauge(pool, "last")
    noon = datetime(2026, 11, 20, 12, 0, 17, tzinfo=UTC)
    cut(pool, OCTOBER, noon)
    count(pool, november(20), "3", segment=NOVEMBER, at=time(9))
    count(pool, november(20), "8", segment=NOVEMBER, at=time(8), is_late=True)
    assert days(pool) == {(NOVEMBER, november(20)): 3, (noon, november(20)): 3}
    count(pool, november(20), "5", segment=noon, at=time(13))
    assert days(pool) == {(NOVEMBER, november(20)): 3, (noon, november(20)): 5}


def test_a_distinct_value_counts_on_its_first_day(pool: ConnectionPool) -> None:
    """And again in the next segment that sees it."""
    map_gauge(pool, "unique")
    saw(pool, date(2026, 10, 30), "ann")
    saw(pool, november(2), "ann", "bob")
    saw(pool, november(3), "bob", "cid")
    assert days(pool) == {
        (OCTOBER, date(2026, 10, 30)): 1,
        (NOVEMBER, november(2)): 2,
        (NOVEMBER, november(3)): 1,
    }


def test_an_adjustment_changes_the_number_of_its_segment(pool: ConnectionPool) -> None:
    """On its day, with the segment it takes effect in; it is not carried into the next one."""
    map_gauge(pool, "last")
    count(pool, date(2026, 10, 20), "10")
    adjust(pool, "acme", "-2", datetime(2026, 10, 25, tzinfo=UTC), metric="seats")
    assert days(pool) == {
        (OCTOBER, date(2026, 10, 20)): 10,
        (OCTOBER, date(2026, 10, 25)): -2,
        (NOVEMBER, november(1)): 10,
    }


def test_what_lies_in_a_cut_minute_goes_to_the_nearest_whole_one(pool: ConnectionPool) -> None:
    """Half a minute of a day in a segment cannot be stamped; the number of the segment holds it all the same."""
    map_gauge(pool, "max")
    start, end = datetime(2026, 11, 10, 23, 59, 40, tzinfo=UTC), datetime(2026, 11, 20, 0, 0, 20, tzinfo=UTC)
    cut(pool, start, end)
    count(pool, november(10), "3", segment=start, at=time(23, 59, 50))
    count(pool, november(20), "8", segment=start, at=time(0, 0, 10))
    assert days(pool) == {(start, november(11)): 3, (start, november(19)): 5}


@pytest.mark.parametrize(("aggregation", "late"), [("max", "40"), ("last", "5")])
def test_what_changes_on_days_stripe_no_longer_takes_is_owed_on_the_first_it_takes(
    pool: ConnectionPool, aggregation: str, late: str
) -> None:
    """The number of a long segment stays right: what is open takes what is closed lacks, and nothing more."""
    map_gauge(pool, aggregation)
    start = datetime(2026, 9, 1, tzinfo=UTC)
    cut(pool, start, cadence="quarter")
    count(pool, date(2026, 9, 10), "10", segment=start)
    count(pool, november(5), "30", segment=start)
    at_once = datetime(2026, 9, 11, tzinfo=UTC)
    assert days(pool, at_once) == {(start, date(2026, 9, 10)): 10, (start, november(5)): 20}
    sent(pool, date(2026, 9, 10), "10", start)
    sent(pool, november(5), "20", start)
    count(pool, date(2026, 9, 12), late, segment=start)
    days(pool)
    first_open = date(2026, 10, 20)
    expected = {"max": {first_open: Decimal(30), november(5): Decimal(-20)}, "last": {first_open: -5, november(5): 5}}
    assert lacking(pool) == expected[aggregation]


def test_a_segment_that_stripe_no_longer_takes_is_held_whole(pool: ConnectionPool) -> None:
    """One row says what it lacks, on its last day: the days before it stay as they were sent."""
    map_gauge(pool, "max")
    september = datetime(2026, 9, 1, tzinfo=UTC)
    count(pool, date(2026, 9, 10), "10")
    days(pool, datetime(2026, 9, 11, tzinfo=UTC))
    sent(pool, date(2026, 9, 10), "10", september)
    count(pool, date(2026, 9, 5), "25")
    days(pool)
    assert lacking(pool) == {date(2026, 9, 30): 15}


def test_a_segment_that_phases_no_longer_make_is_taken_back(pool: ConnectionPool) -> None:
    """Its rows go, so what was sent for it is lacking with the sign turned."""
    map_gauge(pool, "last")
    count(pool, date(2026, 10, 20), "10")
    days(pool)
    sent(pool, november(1), "10", NOVEMBER)
    sent(pool, date(2026, 10, 20), "10", OCTOBER)
    cut(pool, OCTOBER, cadence="quarter")
    days(pool)
    assert lacking(pool) == {november(1): -10}


def cut(pool: ConnectionPool, *starts: datetime, cadence: str = "month") -> None:
    """Phases that begin at these instants, one segment each until the next or for a cadence."""
    phases = [
        CustomerPhase(meter="", phase=parse_phase(cadence=cadence, starts_at=start, anchor_at=start), reason="")
        for start in starts
    ]
    with transaction(pool) as tx:
        replace_phases(tx, "acme", "c1", phases, now=NOW)


def test_opening_twice_writes_nothing(pool: ConnectionPool) -> None:
    """A push every minute leaves the table alone until a day passes."""
    map_gauge(pool, "last")
    count(pool, date(2026, 10, 20), "10")

    def written(now: datetime) -> list[tuple[object, ...]]:
        days(pool, now)
        with pool.connection() as connection:
            return connection.execute("select segment_start, xmin::text from push_segments order by 1").fetchall()

    first = written(NOW)
    assert len(first) == 2
    assert written(NOW + timedelta(minutes=1)) == first
    assert written(NOW + timedelta(days=1)) != first
