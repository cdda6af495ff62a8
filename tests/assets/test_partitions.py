"""Which days a run is about, and how many runs many days become."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripemeter.cli.dagster_runs import FIRST_DAY
from stripemeter.metering.days import days_between
from stripemeter_assets.partitions import (
    DAYS,
    MAX_RANGES,
    NEARBY_DAYS,
    covering_ranges,
    days_of,
    has_partition,
    tags_for,
)

SOME_DAYS = st.sets(st.dates(date(2020, 1, 1), date(2026, 12, 31)), max_size=60)


def test_today_is_a_partition_and_tomorrow_is_not() -> None:
    """The day in progress can be recounted from the UI."""
    today = datetime.now(UTC).date()
    assert has_partition(today)
    assert not has_partition(today + timedelta(days=1))


def test_history_begins_with_the_ledgers_partitions() -> None:
    """What an import may bring has a partition back to 2000; older days live in one heap and have none."""
    assert DAYS.get_first_partition_key() == FIRST_DAY.isoformat() == "2000-01-01"
    assert not has_partition(date(1999, 12, 31))


@pytest.mark.parametrize("last", [date(2026, 1, 1), date(2026, 1, 2), date(2026, 12, 31)])
def test_tags_say_which_days_a_run_is_about(last: date) -> None:
    """What is written into a run's tags is read back from them."""
    first = date(2026, 1, 1)
    assert days_of(tags_for((first, last))) == days_between(first, last)


def test_a_run_without_partitions_is_about_no_day() -> None:
    """A push or a reconciliation holds no day."""
    assert days_of({"stripemeter/why": "scheduled"}) == []


def test_a_dirty_year_is_one_run() -> None:
    """An import of a year must not become hundreds of runs."""
    year = days_between(date(2025, 1, 1), date(2025, 12, 31))
    assert covering_ranges(year) == [(year[0], year[-1])]


def test_weekdays_only_is_still_one_run() -> None:
    """A few clean days in between cost less than a run of their own would."""
    year = [day for day in days_between(date(2025, 1, 1), date(2025, 12, 31)) if day.weekday() < 5]
    assert covering_ranges(year) == [(year[0], year[-1])]


def test_days_years_apart_do_not_recount_the_years_between() -> None:
    """Two dirty days far apart are two runs."""
    days = {date(2016, 5, 1), date(2026, 5, 1)}
    assert covering_ranges(days) == [(date(2016, 5, 1),) * 2, (date(2026, 5, 1),) * 2]


def test_a_range_goes_around_a_day_that_must_not_be_touched() -> None:
    """A poisoned day in the middle of a dirty month would fail the run of all the others."""
    month = [day for day in days_between(date(2026, 3, 1), date(2026, 3, 31)) if day.day != 15]
    assert covering_ranges(month, avoiding={date(2026, 3, 15)}) == [
        (date(2026, 3, 1), date(2026, 3, 14)),
        (date(2026, 3, 16), date(2026, 3, 31)),
    ]


@given(days=SOME_DAYS)
def test_ranges_cover_every_day_and_stay_few(days: set[date]) -> None:
    """Whatever is dirty: at most MAX_RANGES runs, in order, apart, that start and end with a dirty day."""
    ranges = covering_ranges(days)
    assert len(ranges) <= MAX_RANGES
    assert days <= {day for first, last in ranges for day in days_between(first, last)}
    assert all(first in days and last in days for first, last in ranges)
    assert all((right[0] - left[1]).days > NEARBY_DAYS for left, right in pairwise(ranges))


@given(days=SOME_DAYS, avoided=SOME_DAYS)
def test_no_range_holds_an_avoided_day(days: set[date], avoided: set[date]) -> None:
    """Days to avoid break ranges, and what is left is still covered."""
    wanted = days - avoided
    covered = {day for first, last in covering_ranges(wanted, avoiding=avoided) for day in days_between(first, last)}
    assert wanted <= covered
    assert not covered & avoided
