"""Late events: beyond the window exactly one adjustment each, counted once, absorbed without moving any total."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.pipeline.fold import fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger
from stripemeter.pipeline.recount import recount_day
from stripemeter.store.counter_days import dirty_days
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW, Fact, ingest_into, stored_counters

PUNCTUAL = NOW
LATE = NOW - timedelta(days=5)  # the same month: its segment is open
CLOSED = NOW - timedelta(days=60)
WINDOW = timedelta(hours=48)


def send(database_url: str, *facts: Fact) -> None:
    """One request."""
    with ingest_into(database_url) as ingest:
        ingest.accept(facts)


def adjustments(pool: ConnectionPool) -> list[tuple[str, Decimal | None, str]]:
    """(event key, delta, status) of every late adjustment, in ledger order."""
    with transaction(pool) as tx:
        return tx.execute(
            "select event_key, delta, status from adjustments where reason = 'late_event' order by event_seq"
        ).fetchall()


def lanes(pool: ConnectionPool, day: date) -> dict[bool, Decimal]:
    """The sum of each lane on a day."""
    with transaction(pool) as tx:
        rows = tx.execute(
            "select is_late, sum(quantity_sum) from counters where day = %(day)s and meter <> '' group by is_late",
            {"day": day},
        ).fetchall()
    return {is_late: total.normalize() for is_late, total in rows}


def set_policy(pool: ConnectionPool, approval: str) -> None:
    """What the tenant says of late events."""
    with transaction(pool) as tx:
        tx.execute(
            "insert into tenant_policies (tenant_id, late_approval, updated_at) values ('acme', %(approval)s, now())",
            {"approval": approval},
        )


def holds(pool: ConnectionPool, *days: date) -> bool:
    """Laws 2 and 4."""
    return all(row.holds for row in conservation(pool)) and counters_equal_ledger(pool, days) == ()


def test_a_late_event_is_one_adjustment_and_counts_once(pool: ConnectionPool, database_url: str) -> None:
    """Beyond the window: one approved adjustment, linked by key, in the late lane; folding again adds nothing."""
    send(database_url, Fact(key="now", ts=PUNCTUAL, quantity="3"))
    fold(pool, now=NOW)
    send(database_url, Fact(key="late", ts=LATE, quantity="7"))
    fold(pool, now=NOW)
    fold(pool, now=NOW)
    assert adjustments(pool) == [("late", Decimal(7), "approved")]
    assert lanes(pool, LATE.date()) == {True: Decimal(7)}
    assert holds(pool, LATE.date(), PUNCTUAL.date())


def test_within_the_window_it_simply_folds(pool: ConnectionPool, database_url: str) -> None:
    """Exactly at watermark - window an event is punctual; a microsecond before, it is late."""
    send(database_url, Fact(key="now", ts=PUNCTUAL))
    fold(pool, now=NOW)
    edge = PUNCTUAL - WINDOW
    send(database_url, Fact(key="edge", ts=edge), Fact(key="beyond", ts=edge - timedelta(microseconds=1)))
    fold(pool, now=NOW)
    assert [key for key, *_ in adjustments(pool)] == ["beyond"]


def test_a_fresh_customer_has_no_watermark(pool: ConnectionPool, database_url: str) -> None:
    """The first events of a (customer, metric) fold however old and in whatever order one fold sees them."""
    send(database_url, Fact(key="new", ts=PUNCTUAL), Fact(key="old", ts=CLOSED))
    send(database_url, Fact(key="other", ts=CLOSED, customer="c2"), Fact(key="m", ts=CLOSED, metric="other"))
    fold(pool, now=NOW)
    assert adjustments(pool) == []


@pytest.mark.parametrize("source", ["import", "etl"])
def test_imported_history_is_never_late(pool: ConnectionPool, database_url: str, source: str) -> None:
    """Whoever says that events are history loads them in any order without an adjustment."""
    send(database_url, Fact(key="now", ts=PUNCTUAL))
    fold(pool, now=NOW)
    with transaction(pool) as tx:
        tx.execute("select ensure_events_month('2026-09-01')")
        tx.execute(
            "insert into events (ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key, source)"
            " values (%(ts)s, now(), 1, 'acme', 'api_calls', 'cust_1', 'h', %(source)s)",
            {"ts": CLOSED, "source": source},
        )
    fold(pool, now=NOW)
    assert adjustments(pool) == []
    assert stored_counters(pool, ["acme"])["acme", "cust_1", "api_calls", CLOSED.date()].count == 1


def test_after_its_segment_closed_it_waits_and_counts_nowhere(pool: ConnectionPool, database_url: str) -> None:
    """A closed month: pending, in no lane; the law of conservation calls it withheld, a recount leaves it out."""
    send(database_url, Fact(key="now", ts=PUNCTUAL))
    fold(pool, now=NOW)
    send(database_url, Fact(key="late", ts=CLOSED, quantity="7"))
    fold(pool, now=NOW)
    assert adjustments(pool) == [("late", Decimal(7), "pending")]
    (tenant,) = conservation(pool)
    assert (tenant.counted, tenant.withheld, tenant.pending) == (1, 1, 0)
    assert recount_day(pool, CLOSED.date()).absorbed == 0
    assert adjustments(pool) == [("late", Decimal(7), "pending")]
    assert lanes(pool, CLOSED.date()) == {}
    assert holds(pool, CLOSED.date())


@pytest.mark.parametrize(
    ("approval", "ts", "status"),
    [("always", CLOSED, "approved"), ("never", LATE, "pending"), ("while_open", LATE, "approved")],
)
def test_the_tenants_policy_decides_who_approves(
    pool: ConnectionPool, database_url: str, approval: str, ts: datetime, status: str
) -> None:
    """always: at once, closed or not; never: a person; while_open: at once while the segment is open."""
    set_policy(pool, approval)
    send(database_url, Fact(key="now", ts=PUNCTUAL))
    fold(pool, now=NOW)
    send(database_url, Fact(key="late", ts=ts))
    fold(pool, now=NOW)
    assert adjustments(pool) == [("late", Decimal(1), status)]


def test_a_segment_is_open_for_its_grace(pool: ConnectionPool, database_url: str) -> None:
    """Until 48 h after its end, by the clock of the fold."""
    end = datetime(2026, 11, 1, tzinfo=UTC)
    send(database_url, Fact(key="now", ts=end + timedelta(hours=1)))
    fold(pool, now=end)
    send(database_url, Fact(key="in", ts=end - timedelta(days=3)))
    fold(pool, now=end + WINDOW - timedelta(microseconds=1))
    send(database_url, Fact(key="out", ts=end - timedelta(days=3)))
    fold(pool, now=end + WINDOW)
    assert [(key, status) for key, _, status in adjustments(pool)] == [("in", "approved"), ("out", "pending")]


def test_a_metrics_own_window(pool: ConnectionPool, database_url: str) -> None:
    """Settable per metric: an hour for one, the default for the other."""
    with transaction(pool) as tx:
        tx.execute("insert into lateness_windows values ('acme', 'api_calls', 3600, now())")
    send(database_url, Fact(key="a", ts=PUNCTUAL), Fact(key="b", ts=PUNCTUAL, metric="other"))
    fold(pool, now=NOW)
    two_hours_ago = PUNCTUAL - timedelta(hours=2)
    send(database_url, Fact(key="late", ts=two_hours_ago), Fact(key="fine", ts=two_hours_ago, metric="other"))
    fold(pool, now=NOW)
    assert [key for key, *_ in adjustments(pool)] == ["late"]


def test_a_recount_absorbs_without_moving_a_total(pool: ConnectionPool, database_url: str) -> None:
    """The late lane empties into the counters; each transition is one audit row; a second recount finds nothing."""
    send(database_url, Fact(key="now", ts=PUNCTUAL), Fact(key="day", ts=LATE, quantity="2"))
    fold(pool, now=NOW)
    send(database_url, Fact(key="late", ts=LATE, quantity="7"), Fact(key="later", ts=LATE, quantity="0.5"))
    fold(pool, now=NOW)
    before = stored_counters(pool, ["acme"])
    assert lanes(pool, LATE.date()) == {False: Decimal(2), True: Decimal("7.5")}
    with transaction(pool) as tx:
        dirty = dirty_days(tx, quiet_seconds=0, max_failures=3, limit=9)
    # When rows arrived is the server's clock, by which the punctual day may be long over.
    assert set(dirty) - {PUNCTUAL.date()} == {LATE.date()}
    assert recount_day(pool, LATE.date(), now=NOW).absorbed == 2
    assert stored_counters(pool, ["acme"]) == before
    assert lanes(pool, LATE.date()) == {False: Decimal("9.5")}
    assert [status for *_, status in adjustments(pool)] == ["absorbed", "absorbed"]
    assert recount_day(pool, LATE.date(), now=NOW).changed == 0
    with transaction(pool) as tx:
        audit = tx.execute("select action, count(*) from adjustment_transitions group by action order by 1").fetchall()
    assert audit == [("absorbed", 2), ("created", 2)]
    assert holds(pool, LATE.date())


@pytest.mark.parametrize(
    ("aggregation", "deltas"),
    [
        ("sum", ["9", "1", "5"]),
        ("count", ["1", "1", "1"]),
        ("max", ["4", "0", "0"]),
        ("min", ["0", "-4", "0"]),
        ("last", ["0", "0", "0"]),
    ],
)
def test_the_delta_follows_the_aggregation(
    pool: ConnectionPool, database_url: str, aggregation: str, deltas: list[str]
) -> None:
    """On a day that stands at 5: a late 9, 1 and 5 change a sum, a count, a maximum, a minimum and a last by this."""
    with transaction(pool) as tx:
        tx.execute(
            "insert into price_mappings (id, tenant_id, meter, aggregation, stripe_account_id, stripe_event_name,"
            " stripe_meter_id, mode, created_at)"
            " values (gen_random_uuid(), 'acme', 'api_calls', %(aggregation)s, 'acct', 'e', 'm', 'off', now())",
            {"aggregation": aggregation},
        )
    send(database_url, Fact(key="now", ts=PUNCTUAL), Fact(key="day", ts=LATE, quantity="5"))
    fold(pool, now=NOW)
    send(
        database_url,
        *[Fact(key=q, ts=LATE - timedelta(minutes=1), quantity=q) for q in ("9", "1", "5")],
    )
    fold(pool, now=NOW)
    assert [delta for _, delta, _ in adjustments(pool)] == [Decimal(delta) for delta in deltas]


def test_a_fold_that_dies_leaves_no_adjustment(
    pool: ConnectionPool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counter, adjustment and cursor are one transaction: exactly once, whoever crashes when."""
    send(database_url, Fact(key="now", ts=PUNCTUAL))
    fold(pool, now=NOW)
    send(database_url, Fact(key="late", ts=LATE))
    with monkeypatch.context() as patched:

        def die(*_: object, **__: object) -> None:
            raise RuntimeError("power cut")

        patched.setattr("stripemeter.pipeline.fold.append_late_events", die)
        with pytest.raises(RuntimeError, match="power cut"):
            fold(pool, now=NOW)
    assert adjustments(pool) == []
    assert lanes(pool, LATE.date()) == {}
    fold(pool, now=NOW)
    assert adjustments(pool) == [("late", Decimal(1), "approved")]
