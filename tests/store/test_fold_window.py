"""The fold's window: everything committed once, nothing in flight, whole transactions, in the right cluster only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import pytest
from psycopg_pool import ConnectionPool

from stripemeter.errors import InvariantBroken
from stripemeter.pipeline.fold import NOTHING, fold
from stripemeter.pipeline.prove import conservation, counters_equal_ledger, fold_state
from stripemeter.pipeline.recount import recount_day
from stripemeter.store import ledger
from stripemeter.store.postgres import Tx, connect, transaction
from tests.laws.worlds import Fact, ingest_into, stored_counters

DAY = date(2026, 11, 23)
INSERT = """
insert into events (ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key, source)
select '2026-11-23T10:00:00Z', now(), 1, 'acme', 'api_calls', 'c', %(key)s || n, 'http'
from generate_series(1, %(events)s) as n
"""


@contextmanager
def writing(database_url: str, key: str, events: int = 1) -> Iterator[Tx]:
    """A transaction that has written events and is still open; commits at the end of the block."""
    connection = connect(database_url)
    with connection:
        connection.execute(INSERT, {"key": key, "events": events})
        yield connection


@pytest.fixture
def month(pool: ConnectionPool) -> None:
    """The ledger partition of DAY."""
    with transaction(pool) as tx:
        ledger.ensure_month(tx, DAY)


def write(database_url: str, key: str, events: int = 1) -> None:
    """One committed transaction of so many events."""
    with writing(database_url, key, events):
        pass


def counted(pool: ConnectionPool) -> int:
    """Events in the counters."""
    return sum(state.count for state in stored_counters(pool, ["acme"]).values())


def test_a_slow_committer_between_two_folds_loses_nothing(pool: ConnectionPool, database_url: str, month: None) -> None:
    """Rows that commit after later rows were readable are folded too; a reader of `seq > last` would have lost them."""
    with writing(database_url, "slow", 3):
        write(database_url, "quick", 2)
        assert fold(pool).events == 0, "nothing above the oldest open transaction may be folded"
        with transaction(pool) as tx:
            naive_last = tx.execute("select max(seq) from events").fetchone()
    write(database_url, "after")
    assert fold(pool).events == 6
    assert counted(pool) == 6
    with transaction(pool) as tx:
        assert naive_last is not None
        lost = tx.execute("select count(*) from events where seq <= %(last)s", {"last": naive_last[0]}).fetchone()
    assert lost == (5,), "of these the naive reader saw 2: it would have lost 3 for ever"
    assert counters_equal_ledger(pool, [DAY]) == ()


def test_what_committed_before_the_slow_one_began_is_folded_at_once(
    pool: ConnectionPool, database_url: str, month: None
) -> None:
    """An open transaction delays only what is younger than itself."""
    write(database_url, "early", 4)
    with writing(database_url, "slow"):
        write(database_url, "late", 2)
        assert fold(pool).events == 4
        assert fold(pool) == NOTHING
        assert fold_state(pool).pending_count == 2
    assert fold(pool).events == 3
    assert counted(pool) == 7


def test_a_rolled_back_transaction_leaves_no_trace(pool: ConnectionPool, database_url: str, month: None) -> None:
    """Its xid lies inside the window, its rows do not."""
    connection = connect(database_url)
    connection.execute(INSERT, {"key": "doomed", "events": 5})
    write(database_url, "good")
    connection.rollback()
    connection.close()
    assert fold(pool).events == 1
    assert counted(pool) == 1


def test_a_fold_that_dies_changes_nothing(
    pool: ConnectionPool, database_url: str, month: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters and cursor move together: a crash after the merge and before the commit is as if it never ran."""
    write(database_url, "k", 3)
    with monkeypatch.context() as patched:

        def die(tx: Tx, folded_below: int) -> None:
            raise RuntimeError("power cut")

        patched.setattr(ledger, "advance_cursor", die)
        with pytest.raises(RuntimeError, match="power cut"):
            fold(pool)
    assert counted(pool) == 0
    assert fold(pool).events == 3
    assert counted(pool) == 3


def test_nothing_to_fold_writes_nothing(pool: ConnectionPool, database_url: str, month: None) -> None:
    """Idle ticks, on an empty ledger and behind a finished fold, do not even lock the cursor."""
    assert fold(pool) == NOTHING
    with transaction(pool) as tx:
        assert tx.execute("select count(*) from fold_cursors").fetchone() == (0,)
    write(database_url, "k")
    fold(pool)
    before = _cursor_row(pool)
    for _ in range(5):
        assert fold(pool) == NOTHING
    assert _cursor_row(pool) == before


def test_a_giant_transaction_is_folded_whole(pool: ConnectionPool, database_url: str, month: None) -> None:
    """A transaction larger than `max_events` is one window; every fold that has more to do folds something."""
    write(database_url, "giant", 50)
    write(database_url, "next", 3)
    first = fold(pool, max_events=10)
    assert (first.events, first.has_more) == (50, True)
    second = fold(pool, max_events=10)
    assert (second.events, second.has_more) == (3, False)
    assert fold(pool) == NOTHING


def test_windows_are_whole_transactions_near_the_bound(pool: ConnectionPool, database_url: str, month: None) -> None:
    """Transactions of 4 under a bound of 10: two by two, has_more until the last, each event once."""
    for index in range(5):
        write(database_url, f"t{index}-", 4)
    reports = [fold(pool, max_events=10) for _ in range(3)]
    assert [(report.events, report.has_more) for report in reports] == [(8, True), (8, True), (4, False)]
    assert counted(pool) == 20


def test_a_bound_of_one_still_makes_progress(pool: ConnectionPool, database_url: str, month: None) -> None:
    """The least bound folds one transaction at a time."""
    for index in range(3):
        write(database_url, f"t{index}-", 2)
    reports = [fold(pool, max_events=1) for _ in range(3)]
    assert [(report.events, report.has_more) for report in reports] == [(2, True), (2, True), (2, False)]


def test_the_report_says_what_happened_to_each_day(pool: ConnectionPool, database_url: str, month: None) -> None:
    """Days ascending, with their events, those that arrived more than 48 h after the day, and their counters."""
    rows = [("x", DAY, 0), ("y", DAY, 48), ("x", DAY, 49), ("x", date(2020, 2, 29), 1000)]
    with connect(database_url) as connection:
        connection.execute("select ensure_events_month('2020-02-01')")
        for number, (customer, day, hours) in enumerate(rows):
            connection.execute(
                """
                insert into events (ts, received_at, quantity, tenant_id, metric, customer_ref, idempotency_key, source)
                select at, date_trunc('day', at, 'UTC') + interval '1 day' + make_interval(hours => %(hours)s),
                    1, 'acme', 'api_calls', %(customer)s, %(key)s, 'http'
                from (select %(day)s::date::timestamp at time zone 'UTC' + interval '1 hour' as at) as event
                """,
                {"customer": customer, "day": day, "hours": hours, "key": str(number)},
            )
    report = fold(pool)
    assert [(day.day, day.events, day.late_events, day.counters) for day in report.days] == [
        (date(2020, 2, 29), 1, 1, 1),
        (DAY, 3, 1, 2),
    ]


def test_lag_names_what_waits(pool: ConnectionPool, database_url: str, month: None) -> None:
    """Pending events before a fold, none after; the age of the oldest writer while one is open."""
    write(database_url, "k", 3)
    assert fold_state(pool).pending_count == 3
    assert fold_state(pool).advanced_at is None
    fold(pool)
    assert fold_state(pool).pending_count == 0
    assert fold_state(pool).advanced_at is not None


def _pretend_restored(pool: ConnectionPool) -> None:
    """As after a restore: xids of a cluster that had counted a million further, and its identity on the cursor."""
    with transaction(pool) as tx:
        tx.execute("update events set xid = (xid::text::numeric + 1000000)::text::xid8")
        tx.execute(
            "update fold_cursors set folded_below = (folded_below::text::numeric + 1000000)::text::xid8,"
            " system_identifier = 1"
        )


def test_a_cursor_of_another_cluster_stops_fold_recount_and_proof(
    pool: ConnectionPool, database_url: str, month: None
) -> None:
    """After a restore stored xids mean nothing: refuse to count rather than guess."""
    write(database_url, "k")
    fold(pool)
    write(database_url, "m")
    _pretend_restored(pool)
    for verb in (lambda: fold(pool), lambda: recount_day(pool, DAY), lambda: counters_equal_ledger(pool, [DAY])):
        with pytest.raises(InvariantBroken, match="restored from another cluster"):
            verb()
    assert counted(pool) == 1


def test_restamp_after_a_restore_loses_nothing_and_counts_nothing_twice(
    pool: ConnectionPool, database_url: str
) -> None:
    """Folded stays folded, pending stays pending, whether this cluster's xids are below or above the old ones."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key=str(n)) for n in range(5)])
        fold(pool)
        ingest.accept([Fact(key=str(n)) for n in range(5, 8)])
        _pretend_restored(pool)
        with transaction(pool) as tx:
            ledger.restamp(tx)
        (row,) = conservation(pool)
        assert (row.counted, row.pending, row.holds) == (5, 3, True)
        assert counters_equal_ledger(pool, [DAY]) == ()
        ingest.accept([Fact(key=str(n)) for n in range(8, 10)])
    assert fold(pool).events == 5
    assert sum(state.count for state in stored_counters(pool, ["acme"]).values()) == 10
    assert recount_day(pool, DAY).changed == 0
    with transaction(pool) as tx:  # a second time, with nothing wrong, changes nothing
        ledger.restamp(tx)
    assert fold(pool).events == 0
    assert counters_equal_ledger(pool, [DAY]) == ()


def test_restamp_before_the_first_fold_leaves_everything_pending(pool: ConnectionPool, database_url: str) -> None:
    """A restored ledger that was never folded is folded whole."""
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(key=str(n)) for n in range(4)])
    with transaction(pool) as tx:
        ledger.restamp(tx)
    assert fold(pool).events == 4


def test_text_a_csv_would_trip_over_is_counted_as_it_is(pool: ConnectionPool, database_url: str) -> None:
    """Quotes, commas, newlines, COPY's end marker, spaces and emptiness keep customers apart."""
    names = ['"', '""', "a,b", "a\nb", "a\r\nb", "a\n\\.\nb", "\\.", "\\N", " ", "  ", "NULL", "ü\u2028😀", "'", "a\tb"]
    with ingest_into(database_url) as ingest:
        ingest.accept([Fact(customer=name, tenant="acme", metric=name, key=name) for name in names])
    fold(pool)
    assert {key[1] for key in stored_counters(pool, ["acme"])} == set(names)
    assert counters_equal_ledger(pool, [DAY]) == ()


def test_the_longest_names_fit_every_index(pool: ConnectionPool, database_url: str) -> None:
    """255 and 100 characters of four bytes each, hardly compressible, are ingested, quarantined and counted."""
    wide = "".join(chr(0x1F300 + (n * 7919) % 0x3FF) for n in range(255))
    fact = Fact(tenant=wide, customer=wide, metric=wide[:100], key=wide, resource=wide)
    with ingest_into(database_url) as ingest:
        ingest.accept([fact, Fact(tenant=wide, customer=wide, metric=wide[:100], key=wide, quantity="2")])
    fold(pool)
    (row,) = conservation(pool)
    assert (row.tenant_id, row.counted, row.conflicts, row.holds) == (wide, 1, 1, True)


def _cursor_row(pool: ConnectionPool) -> tuple[object, ...] | None:
    """The physical row: an update or a lock shows in it."""
    with transaction(pool) as tx:
        return tx.execute("select ctid::text, xmin::text, xmax::text, advanced_at from fold_cursors").fetchone()
