"""Days and months: half-open, UTC, whatever the zone an instant is written in."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.metering.days import day_bounds, day_of, days_between, month_bounds, month_start, next_month, parse_day

TONGA = timezone(timedelta(hours=14))


@pytest.mark.parametrize(
    ("ts", "day"),
    [
        (datetime(2026, 11, 23, tzinfo=UTC), date(2026, 11, 23)),
        (datetime(2026, 11, 22, 23, 59, 59, 999999, tzinfo=UTC), date(2026, 11, 22)),
        (datetime(2026, 11, 23, 13, 59, tzinfo=TONGA), date(2026, 11, 22)),
        (datetime(2026, 11, 23, 14, tzinfo=TONGA), date(2026, 11, 23)),
        (datetime(1, 1, 1, tzinfo=UTC), date(1, 1, 1)),
    ],
)
def test_an_instant_lies_in_one_utc_day(ts: datetime, day: date) -> None:
    """Midnight begins a day; the zone an instant is written in does not matter."""
    assert day_of(ts) == day
    start, end = day_bounds(day)
    assert start <= ts < end


@pytest.mark.parametrize(
    ("day", "start", "following"),
    [
        (date(2026, 12, 31), date(2026, 12, 1), date(2027, 1, 1)),
        (date(2024, 2, 29), date(2024, 2, 1), date(2024, 3, 1)),
        (date(2023, 2, 28), date(2023, 2, 1), date(2023, 3, 1)),
        (date(2026, 1, 1), date(2026, 1, 1), date(2026, 2, 1)),
        (date(1, 1, 31), date(1, 1, 1), date(1, 2, 1)),
    ],
)
def test_months_meet_without_gap_or_overlap(day: date, start: date, following: date) -> None:
    """A month ends where the next begins; leap days and year ends included."""
    assert (month_start(day), next_month(day)) == (start, following)
    assert month_bounds(day)[1] == month_bounds(following)[0] == day_bounds(following)[0]
    assert day_bounds(start)[0] == month_bounds(day)[0]


def test_days_between_has_both_ends() -> None:
    """Both included, across a leap day; one for a single day; none when reversed."""
    assert days_between(date(2024, 2, 28), date(2024, 3, 1)) == [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1)]
    assert days_between(date(2024, 2, 28), date(2024, 2, 28)) == [date(2024, 2, 28)]
    assert days_between(date(2024, 2, 28), date(2024, 2, 27)) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11",
        "2026-1-1",
        "20261123",
        "2026-W47-1",
        "2026-11-31",
        "23.11.2026",
        "2026-11-23T00:00:00Z",
        " 2026-11-2",
    ],
)
def test_only_plain_dates_are_days(text: str) -> None:
    """`YYYY-MM-DD` of the calendar; the error names the parameter."""
    with pytest.raises(InvalidInput) as refused:
        parse_day(text, field="from")
    assert refused.value.field == "from"


def test_a_plain_date_is_a_day() -> None:
    """The first and the last there are."""
    assert parse_day("0001-01-01") == date(1, 1, 1)
    assert parse_day("9999-12-31") == date(9999, 12, 31)
