"""Laws 3 and 10 on the pure code: counting is exact, and no order or cutting of the events shows in the totals."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal

from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg_pool import ConnectionPool

from stripemeter.metering.aggregation import Counted
from stripemeter.metering.days import day_of
from stripemeter.store.counters import lock_days, merge_counters
from stripemeter.store.postgres import transaction
from tests.laws.worlds import Counter, State, count, pencil, states_of, stored_counters

LEAST = Decimal("0.000000000001")
GREATEST = Decimal("99999999999999999999999999.999999999999")
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
Row = tuple[Counter, datetime, int, Decimal]

QUANTITIES = st.one_of(
    st.sampled_from([Decimal(0), LEAST, GREATEST, Decimal(1), Decimal("0.1"), Decimal(9007199254740993)]),
    st.integers(0, 10**38 - 1).map(lambda scaled: Decimal(scaled).scaleb(-12, Context(prec=38))),
)
# Few instants, so that ties on ts and events on both sides of midnight are common.
INSTANTS = st.one_of(
    st.sampled_from([MIDNIGHT, MIDNIGHT - timedelta(microseconds=1), MIDNIGHT + timedelta(microseconds=1)]),
    st.datetimes(datetime(1, 1, 1), datetime(2026, 11, 23), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds of the zone
)


@st.composite
def ledgers(draw: st.DrawFn) -> list[Row]:
    """Ledger rows of few counters; every seq once, in no order."""
    drawn = draw(
        st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), INSTANTS, QUANTITIES), max_size=30)
    )
    seqs = draw(st.permutations(range(len(drawn))))
    return [
        ((tenant, "c", meter, day_of(ts)), ts, seq, quantity)
        for seq, (tenant, meter, ts, quantity) in zip(seqs, drawn, strict=True)
    ]


@given(rows=ledgers())
@settings(max_examples=150)
@example(rows=[(("a", "c", "x", date(2026, 11, 23)), MIDNIGHT, seq, GREATEST) for seq in range(1000)])
@example(rows=[(("a", "c", "x", date(2026, 11, 23)), MIDNIGHT, seq, LEAST) for seq in range(1000)])
@example(rows=[])
def test_every_total_is_exactly_what_a_pencil_finds(rows: list[Row]) -> None:
    """Law 10: count, sum, min, max and last equal naive exact arithmetic, up to 26 digits and 12 decimals."""
    assert states_of(count(rows).counters) == pencil(rows)


@given(rows=ledgers(), data=st.data())
@settings(max_examples=100)
def test_the_order_of_events_never_shows(rows: list[Row], data: st.DataObject) -> None:
    """Law 3: every permutation of the same ledger rows makes the same counters, in the same order."""
    shuffled = data.draw(st.permutations(rows))
    assert count(rows).counters.equals(count(shuffled).counters)


def test_a_tie_on_event_time_goes_to_the_later_ledger_row() -> None:
    """`last` is that of the greatest (ts, seq), whichever row stands first in the frame."""
    key = ("a", "c", "x", date(2026, 11, 23))
    rows = [(key, MIDNIGHT, 7, Decimal(70)), (key, MIDNIGHT, 9, Decimal(90)), (key, MIDNIGHT, 8, Decimal(80))]
    (state,) = states_of(count(rows).counters).values()
    assert (state.last, state.last_seq) == (Decimal(90), 9)


def test_merging_any_partition_gives_the_whole(pool: ConnectionPool) -> None:
    """Laws 1 and 3: aggregated in any pieces and merged by Postgres, the counters are those of all rows."""

    @given(rows=ledgers(), data=st.data())
    @settings(max_examples=40)
    def law(rows: list[Row], data: st.DataObject) -> None:
        pieces: list[list[Row]] = [[], [], []]
        for row in rows:
            pieces[data.draw(st.integers(0, 2))].append(row)
        _clear(pool)
        for piece in pieces:
            _merge(pool, count(piece))
        assert stored_counters(pool, ["a", "b"]) == pencil(rows)

    law()


def test_merging_the_extremes_neither_wraps_nor_rounds(pool: ConnectionPool) -> None:
    """Two merges of the greatest and the least quantity keep every digit."""
    key = ("a", "c", "x", date(2026, 11, 23))
    for seq, quantity in enumerate([GREATEST, GREATEST, LEAST, LEAST]):
        _merge(pool, count([(key, MIDNIGHT, seq, quantity)]))
    assert stored_counters(pool, ["a"]) == {
        key: State(4, Decimal(200000000000000000000000000), LEAST, GREATEST, LEAST, MIDNIGHT, 3)
    }


def _merge(pool: ConnectionPool, counted: Counted) -> None:
    with transaction(pool) as tx:
        lock_days(tx, counted.counters["day"].unique().to_list())
        assert merge_counters(tx, counted, {}) == set()


def _clear(pool: ConnectionPool) -> None:
    with transaction(pool) as tx:
        tx.execute("delete from counters")
