"""What is to be pushed of a day: every lane and dimension of its counters, and the adjustments of its segment."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from tests.adjusting import adjust, alias

DAY = date(2026, 11, 20)
START = datetime(2026, 11, 20, tzinfo=UTC)
MONTH = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _mapped(pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        connection.execute(
            "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name, "
            "stripe_meter_id, mode, created_at) values (gen_random_uuid(), 'acme', 'api_calls', 'sum', 'acct_1', "
            "'calls', 'mtr_1', 'live', now())"
        )
        connection.execute("insert into customer_bindings values ('acme', 'c1', 'acct_1', 'cus_1', now())")


def count(
    pool: ConnectionPool, quantity: str, *, segment: datetime = MONTH, dimensions: str = "", is_late: bool = False
) -> None:
    """One counter of the day."""
    with pool.connection() as connection:
        connection.execute(
            "insert into counters (tenant_id, customer_ref, meter, day, segment_start, dimensions, is_late, "
            "event_count, primary_count, quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq) "
            "values ('acme', 'c1', 'api_calls', %(day)s, %(segment)s, %(dimensions)s, %(is_late)s, 1, 1, %(q)s, %(q)s, "
            "%(q)s, %(q)s, %(at)s, 1)",
            {
                "day": DAY,
                "segment": segment,
                "dimensions": dimensions,
                "is_late": is_late,
                "q": quantity,
                "at": START + timedelta(hours=23),
            },
        )


def days(pool: ConnectionPool) -> list[tuple[datetime, date, Decimal]]:
    """What the view says is counted, by segment."""
    with pool.connection() as connection:
        return connection.execute(
            "select segment_start, day, counted from push_days where tenant_id = 'acme' order by day, segment_start"
        ).fetchall()


def test_lanes_and_dimensions_are_one_day(pool: ConnectionPool) -> None:
    """One row per segment and day: an outbox with one row per lane would send each of them as the whole."""
    count(pool, "1")
    count(pool, "2", is_late=True)
    count(pool, "4", dimensions='{"meta.region":"eu"}')
    assert days(pool) == [(MONTH, DAY, 7)]


def test_adjustments_are_pushed_with_the_segment_they_take_effect_in(pool: ConnectionPool) -> None:
    """A day cut by a segment's end has two rows; only approved manual adjustments are in either."""
    noon = START + timedelta(hours=12)
    count(pool, "1")
    count(pool, "2", segment=noon)
    adjust(pool, "acme", "10", START)
    adjust(pool, "acme", "-0.5", noon)
    adjust(pool, "acme", "1000", START, status="pending")
    assert days(pool) == [(MONTH, DAY, 11), (noon, DAY, Decimal("1.5"))]


def test_a_day_of_adjustments_alone_counts(pool: ConnectionPool) -> None:
    """Without counters it lies in the UTC month; under another name of the customer it is the customer's."""
    alias(pool, "acme", "old", "c1")
    adjust(pool, "acme", "3", START)
    adjust(pool, "acme", "4", START, customer_ref="old")
    assert days(pool) == [(MONTH, DAY, 7)]
