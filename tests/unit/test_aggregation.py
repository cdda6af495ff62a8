"""The counting of frames: shapes, segments and the sums that would wrap around."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pandera.errors
import polars as pl
import pytest

from stripemeter.metering.frames import COUNTERS, GROUP, LEDGER_EVENTS
from stripemeter.metering.readings import read_meters
from stripemeter.metering.rulebook import Rulebook
from tests.laws.worlds import Counter, count, frame_of

KEY: Counter = ("acme", "c", "m", date(2026, 11, 23))
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
GREATEST = Decimal("99999999999999999999999999.999999999999")


def test_no_events_make_no_counters() -> None:
    """Empty in, empty out, with the columns of counters."""
    counters = count([]).counters
    assert counters.height == 0
    assert counters.columns == list(COUNTERS.columns)


def test_a_counter_belongs_to_one_day_and_one_month() -> None:
    """The last microsecond of a month and the first instant of the next: two days, two segments."""
    last = datetime(2026, 10, 31, 23, 59, 59, 999999, tzinfo=UTC)
    first = datetime(2026, 11, 1, tzinfo=UTC)
    counters = count([(KEY, last, 1, Decimal(1)), (KEY, first, 2, Decimal(2))]).counters
    assert counters.select("day", "segment_start").rows() == [
        (date(2026, 10, 31), datetime(2026, 10, 1, tzinfo=UTC)),
        (date(2026, 11, 1), first),
    ]


def test_rows_are_sorted_by_their_key() -> None:
    """Whoever writes counters takes their row locks in this order."""
    rows = [((tenant, customer, "m", NOON.date()), NOON, 1, Decimal(1)) for tenant in "ba" for customer in "yx"]
    counters = count(rows).counters
    assert counters.equals(counters.sort(GROUP))


def test_sums_do_not_wrap_where_128_bits_end() -> None:
    """Two events of 26 digits already exceed a 128-bit decimal of 12 places; a hundred thousand stay exact."""
    rows = [(KEY, NOON, seq, GREATEST) for seq in range(100_000)]
    (row,) = count(rows).counters.iter_rows(named=True)
    assert row["sum_whole"] == Decimal(99999999999999999999999999) * 100_000
    assert row["sum_fraction"] == Decimal("0.999999999999") * 100_000


@pytest.mark.parametrize("column", list(LEDGER_EVENTS.columns))
def test_a_frame_of_another_shape_is_refused(column: str) -> None:
    """A missing or renamed column, or one of another type, is an error and never a wrong count."""
    frame = frame_of([(KEY, NOON, 1, Decimal(1))])
    with pytest.raises(pandera.errors.SchemaError):
        read_meters(frame.drop(column), Rulebook())
    with pytest.raises(pandera.errors.SchemaError):
        read_meters(frame.with_columns(pl.lit(None, pl.Binary).alias(column)), Rulebook())


def test_a_null_is_refused() -> None:
    """A quantity that is not there must not be counted as an event of nothing."""
    frame = frame_of([(KEY, NOON, 1, Decimal(1))])
    with pytest.raises(pandera.errors.SchemaError):
        read_meters(frame.with_columns(quantity=pl.lit(None, frame.schema["quantity"])), Rulebook())
