"""Recounts: a day is made again from its ledger, late days ask for it until it succeeded, broken ones are given up."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvariantBroken
from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.counter_days import StuckDay, dirty_days, settle_day, stuck_days
from stripemeter.store.postgres import transaction
from tests.laws.worlds import Fact, ingest_into, stored_counters

LATE_DAY = date(2020, 2, 29)
LATE = datetime(2020, 2, 29, 12, tzinfo=UTC)
DAMAGES = {
    "count": "update counters set event_count = event_count + 1",
    "sum": "update counters set quantity_sum = quantity_sum + 0.000000000001",
    "last": "update counters set quantity_last = quantity_min where customer_ref = 'x'",
    "last_seq": "update counters set last_seq = last_seq + 1",
    "gone": "delete from counters where customer_ref = 'x'",
    "surplus": "insert into counters select 'ghost', customer_ref, meter, day, segment_start, event_count,"
    " quantity_sum, quantity_min, quantity_max, quantity_last, last_ts, last_seq from counters limit 1",
    "other segment": "update counters set segment_start = segment_start + interval '1 day' where customer_ref = 'x'",
}


def dirty(pool: ConnectionPool, *, quiet_seconds: int = 0, max_failures: int = 3) -> list[date]:
    """The days that ask for a recount."""
    with transaction(pool) as tx:
        return dirty_days(tx, quiet_seconds=quiet_seconds, max_failures=max_failures, limit=100)


def send(database_url: str, *facts: Fact) -> None:
    """One request."""
    with ingest_into(database_url) as ingest:
        ingest.accept(facts)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_recount_repairs_whatever_was_done_to_a_day(pool: ConnectionPool, database_url: str, damage: str) -> None:
    """Law 4: the proof names the damage, the recount undoes exactly it, and a second one finds nothing to do."""
    send(database_url, *[Fact(customer=c, quantity=q, ts=LATE, key=c + q) for c in "xy" for q in ["1", "3", "2.5"]])
    fold(pool)
    before = stored_counters(pool, ["acme", "ghost"])
    with transaction(pool) as tx:
        tx.execute(damage)
    mismatches = counters_equal_ledger(pool, [LATE_DAY])
    assert mismatches
    assert all(mismatch.day == LATE_DAY and mismatch.counted != mismatch.ledger for mismatch in mismatches)
    assert recount_day(pool, LATE_DAY).changed > 0
    assert stored_counters(pool, ["acme", "ghost"]) == before
    assert counters_equal_ledger(pool, [LATE_DAY]) == ()
    assert recount_day(pool, LATE_DAY).changed == 0


def test_a_recount_touches_its_own_day_only(pool: ConnectionPool, database_url: str) -> None:
    """The last microsecond of a day and the first of the next belong to different counters and recounts."""
    midnight = datetime(2020, 3, 1, tzinfo=UTC)
    send(database_url, Fact(ts=midnight, key="1"), Fact(ts=midnight - timedelta(microseconds=1), key="2"))
    fold(pool)
    with transaction(pool) as tx:
        tx.execute("update counters set event_count = 7")
    assert recount_day(pool, LATE_DAY).events == 1
    assert [m.day for m in counters_equal_ledger(pool, [LATE_DAY, date(2020, 3, 1)])] == [date(2020, 3, 1)]


def test_the_report_of_a_recount(pool: ConnectionPool, database_url: str) -> None:
    """Events, counters, changes and the day's totals per meter, most events first."""
    send(
        database_url,
        *[Fact(metric="a", quantity="0.5", ts=LATE, key=str(n)) for n in range(2)],
        *[Fact(metric="b", quantity="2", ts=LATE, customer=str(n), key=f"b{n}") for n in range(3)],
    )
    fold(pool)
    recounted = recount_day(pool, LATE_DAY)
    assert (recounted.events, recounted.counters, recounted.changed) == (5, 4, 0)
    assert [(m.meter, m.events, m.counters, m.quantity) for m in recounted.meters] == [
        ("b", 3, 3, Decimal(6)),
        ("a", 2, 1, Decimal(1)),
    ]


def test_a_day_without_events_recounts_to_nothing(pool: ConnectionPool) -> None:
    """Also before the first fold ever."""
    recounted = recount_day(pool, LATE_DAY)
    assert (recounted.events, recounted.counters, recounted.changed, recounted.meters) == (0, 0, 0, ())


def test_a_recount_before_the_first_fold_counts_nothing(pool: ConnectionPool, database_url: str) -> None:
    """What no fold has read is the fold's to add."""
    send(database_url, Fact(ts=LATE, key="1"))
    assert recount_day(pool, LATE_DAY).events == 0
    assert fold(pool).events == 1
    assert len(stored_counters(pool, ["acme"])) == 1


def test_late_days_are_dirty_until_a_recount_succeeds(pool: ConnectionPool, database_url: str) -> None:
    """Level-triggered: asked for again and again, settled once, dirty again with the next late event."""
    send(database_url, Fact(ts=LATE, key="1"), Fact(key="punctual", ts=datetime.now(UTC)))
    fold(pool)
    assert dirty(pool) == dirty(pool) == [LATE_DAY]
    recount_day(pool, LATE_DAY)
    assert dirty(pool) == []
    send(database_url, Fact(ts=LATE, key="2"))
    fold(pool)
    assert dirty(pool) == [LATE_DAY]


def test_a_day_still_being_written_is_left_alone(pool: ConnectionPool, database_url: str) -> None:
    """While an import runs its days are not quiet: one recount afterwards instead of one per fold."""
    send(database_url, Fact(ts=LATE, key="1"))
    fold(pool)
    assert dirty(pool, quiet_seconds=3600) == []
    assert dirty(pool, quiet_seconds=0) == [LATE_DAY]


def test_late_events_during_a_recount_keep_the_day_dirty(pool: ConnectionPool, database_url: str) -> None:
    """A recount settles the version it started from, not what came while it worked."""
    send(database_url, Fact(ts=LATE, key="1"))
    fold(pool)
    send(database_url, Fact(ts=LATE, key="2"))
    fold(pool)  # version 2
    with transaction(pool) as tx:
        settle_day(tx, LATE_DAY, 1)
    assert dirty(pool) == [LATE_DAY]
    recount_day(pool, LATE_DAY)
    with transaction(pool) as tx:
        settle_day(tx, LATE_DAY, 1)  # a slower recount that started earlier
    assert dirty(pool) == []


@pytest.mark.parametrize(
    ("age", "is_late"),
    [
        (timedelta(days=3), False),  # exactly 48 h after the day's end
        (timedelta(days=3, microseconds=1), True),
    ],
)
def test_late_means_more_than_48_hours_after_the_day(
    pool: ConnectionPool, database_url: str, age: timedelta, is_late: bool
) -> None:
    """The window is counted from the end of the event's day to its arrival."""
    send(database_url, Fact(ts=LATE, key="1"))
    with transaction(pool) as tx:
        tx.execute("update events set received_at = %(at)s", {"at": datetime(2020, 2, 29, tzinfo=UTC) + age})
    (day,) = fold(pool).days
    assert (day.late_events > 0) is is_late
    assert (dirty(pool) == [LATE_DAY]) is is_late


def test_a_day_that_keeps_failing_is_given_up_and_named(pool: ConnectionPool, database_url: str) -> None:
    """After the cap nobody retries by itself; the operator's successful recount clears it."""
    send(database_url, Fact(ts=LATE, key="1"))
    fold(pool)
    with transaction(pool) as tx:
        (identifier,) = tx.execute("select system_identifier from fold_cursors").fetchone() or (0,)
        tx.execute("update fold_cursors set system_identifier = 1")
    for failures in range(3):
        assert dirty(pool) == [LATE_DAY], f"still retried after {failures} failures"
        with pytest.raises(InvariantBroken):
            recount_day(pool, LATE_DAY)
    assert dirty(pool) == []
    with transaction(pool) as tx:
        (stuck,) = stuck_days(tx, max_failures=3)
        assert isinstance(stuck, StuckDay)
        assert (stuck.day, stuck.failed_recounts) == (LATE_DAY, 3)
        assert "restored from another cluster" in stuck.last_failure
        tx.execute("update fold_cursors set system_identifier = %(id)s", {"id": identifier})
    recount_day(pool, LATE_DAY)
    with transaction(pool) as tx:
        assert stuck_days(tx, max_failures=3) == []
    assert dirty(pool) == []


def test_a_failed_recount_leaves_the_counters_alone(pool: ConnectionPool, database_url: str) -> None:
    """Nothing of a refused recount is written but the failure itself."""
    send(database_url, Fact(ts=LATE, key="1"))
    fold(pool)
    before = stored_counters(pool, ["acme"])
    with transaction(pool) as tx:
        tx.execute("update fold_cursors set system_identifier = 1")
    with pytest.raises(InvariantBroken):
        recount_day(pool, LATE_DAY)
    assert stored_counters(pool, ["acme"]) == before
