"""Windows are what a wall clock shows, and a partition of time whatever the clock does."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stripemeter.errors import InvalidInput
from stripemeter.metering.windows import EARLIEST, LATEST, Window, parse_time_zone, window_edges

HOUR = timedelta(hours=1)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Pacific/Apia",
    "America/Havana",
    "Africa/Monrovia",
]
WINDOWS: list[Window] = ["minute", "hour", "day", "week", "month"]


def cut(zone: str, start: str, end: str, window: Window) -> list[tuple[str, timedelta]]:
    """(local start, length) of each window between two local times of the zone."""
    clock = ZoneInfo(zone)
    ends = [datetime.fromisoformat(text).replace(tzinfo=clock) for text in (start, end)]
    edges = window_edges(ends[0], ends[1], window=window, zone=clock, most=10_000)
    return [(f"{first.astimezone(clock):%Y-%m-%dT%H:%M%z}", last - first) for first, last in pairwise(edges)]


@pytest.mark.parametrize(
    ("zone", "day", "following", "hours"),
    [
        ("Europe/Berlin", "2026-10-25", "2026-10-26", 25),
        ("Europe/Berlin", "2026-03-29", "2026-03-30", 23),
        ("America/New_York", "2026-11-01", "2026-11-02", 25),
        ("America/New_York", "2026-03-08", "2026-03-09", 23),
        ("Australia/Lord_Howe", "2026-04-05", "2026-04-06", 24.5),
        ("Australia/Lord_Howe", "2026-10-04", "2026-10-05", 23.5),
        ("Asia/Kathmandu", "2026-10-25", "2026-10-26", 24),
        ("UTC", "2026-10-25", "2026-10-26", 24),
    ],
)
def test_a_day_is_as_long_as_its_clock_makes_it(zone: str, day: str, following: str, hours: float) -> None:
    """Daylight saving makes days of 23, 23.5, 24.5 and 25 hours."""
    ((_, length),) = cut(zone, day, following, "day")
    assert length == hours * HOUR


def test_the_hour_an_autumn_night_repeats_is_two_windows() -> None:
    """Berlin shows two o'clock twice, an hour apart; both are windows, told apart by their offset."""
    assert cut("Europe/Berlin", "2026-10-25T01:00", "2026-10-25T04:00", "hour") == [
        ("2026-10-25T01:00+0200", HOUR),
        ("2026-10-25T02:00+0200", HOUR),
        ("2026-10-25T02:00+0100", HOUR),
        ("2026-10-25T03:00+0100", HOUR),
    ]


def test_the_hour_a_spring_night_skips_is_no_window() -> None:
    """New York shows no two o'clock on that night."""
    assert [start for start, _ in cut("America/New_York", "2026-03-08T01:00", "2026-03-08T05:00", "hour")] == [
        "2026-03-08T01:00-0500",
        "2026-03-08T03:00-0400",
        "2026-03-08T04:00-0400",
    ]


def test_half_an_hour_of_daylight_saving_makes_half_windows() -> None:
    """Lord Howe goes from two o'clock back to half past one, and from two on to half past two."""
    assert cut("Australia/Lord_Howe", "2026-04-05T01:00", "2026-04-05T03:00", "hour") == [
        ("2026-04-05T01:00+1100", HOUR),
        ("2026-04-05T01:30+1030", HOUR / 2),
        ("2026-04-05T02:00+1030", HOUR),
    ]
    assert cut("Australia/Lord_Howe", "2026-10-04T01:00", "2026-10-04T04:00", "hour") == [
        ("2026-10-04T01:00+1030", HOUR),
        ("2026-10-04T02:30+1100", HOUR / 2),
        ("2026-10-04T03:00+1100", HOUR),
    ]


def test_hours_and_days_of_kathmandu_begin_at_a_quarter_past_in_utc() -> None:
    """An offset of 5:45 moves every window, not only days."""
    edges = window_edges(
        datetime(2026, 10, 24, 18, 15, tzinfo=UTC),
        datetime(2026, 10, 24, 20, 15, tzinfo=UTC),
        window="hour",
        zone=ZoneInfo("Asia/Kathmandu"),
        most=10,
    )
    assert [edge.minute for edge in edges] == [15, 15, 15]
    assert edges[0].astimezone(ZoneInfo("Asia/Kathmandu")).hour == 0


def test_a_day_whose_midnight_is_skipped_begins_after_it() -> None:
    """São Paulo went from 23:59 to 1:00; Apia had no 30 December 2011 at all."""
    assert cut("America/Sao_Paulo", "2018-11-03", "2018-11-05", "day") == [
        ("2018-11-03T00:00-0300", 24 * HOUR),
        ("2018-11-04T01:00-0200", 23 * HOUR),
    ]
    assert cut("Pacific/Apia", "2011-12-29", "2012-01-01", "day") == [
        ("2011-12-29T00:00-1000", 24 * HOUR),
        ("2011-12-31T00:00+1400", 24 * HOUR),
    ]


def test_a_change_within_an_hour_or_across_midnight_cuts_where_it_happens() -> None:
    """St. John's went back an hour at one minute past midnight; Toronto once went on an hour at half past eleven."""
    assert cut("America/St_Johns", "2006-10-29T00:00", "2006-10-29T01:00", "hour") == [
        ("2006-10-29T00:00-0230", HOUR / 60),
        ("2006-10-28T23:01-0330", HOUR * 59 / 60),
        ("2006-10-29T00:00-0330", HOUR),
    ]
    assert cut("America/Toronto", "1919-03-30", "1919-04-01", "day") == [
        ("1919-03-30T00:00-0500", 23.5 * HOUR),
        ("1919-03-31T00:30-0400", 23.5 * HOUR),
    ]


@pytest.mark.parametrize(
    ("start", "end", "window", "starts"),
    [
        ("2024-02-28", "2024-03-02", "day", ["2024-02-28", "2024-02-29", "2024-03-01"]),
        ("2023-02-28", "2023-03-02", "day", ["2023-02-28", "2023-03-01"]),
        ("2024-01-31", "2024-04-01", "month", ["2024-01-31", "2024-02-01", "2024-03-01"]),
        ("2025-12-29", "2026-01-12", "week", ["2025-12-29", "2026-01-05"]),
        ("2026-01-01", "2026-01-06", "week", ["2026-01-01", "2026-01-05"]),
    ],
)
def test_the_calendar_is_that_of_the_zone(start: str, end: str, window: Window, starts: list[str]) -> None:
    """Leap days, month ends, weeks across the year; the first and the last window are cut short by the range."""
    assert [text[:10] for text, _ in cut("Europe/Berlin", start, end, window)] == starts


@given(
    zone=st.sampled_from(ZONES),
    window=st.sampled_from(WINDOWS),
    start=st.datetimes(datetime(1900, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
    minutes=st.integers(1, 200_000),
)
@settings(max_examples=150)
def test_windows_are_a_partition_and_each_is_one_reading_of_the_clock(
    zone: str, window: Window, start: datetime, minutes: int
) -> None:
    """No gap, no overlap, no empty window; a new window exactly where the clock's reading (or its offset) changes."""
    clock = ZoneInfo(zone)
    end = start + timedelta(minutes=minutes if window != "minute" else minutes % 3000 + 1)
    edges = window_edges(start, end, window=window, zone=clock, most=300_000)
    assert (edges[0], edges[-1]) == (start, end)
    assert all(first < last for first, last in pairwise(edges))
    for first, last in pairwise(edges):
        readings = {_reading(at, window, clock) for at in (first, last - timedelta(microseconds=1))}
        assert len(readings) == 1 or window not in ("minute", "hour")
        if last != end and window in ("minute", "hour"):
            assert _reading(last, window, clock) not in readings
    if window == "day":
        starts = [edge.astimezone(clock).date() for edge in edges[1:-1]]
        days = {start.astimezone(clock).date() + timedelta(days=offset) for offset in range(minutes // 1440 + 3)}
        skipped = {date(2011, 12, 30)} if zone == "Pacific/Apia" else set()
        last_on = (end - timedelta(microseconds=1)).astimezone(clock).date()
        assert {start.astimezone(clock).date(), *starts, last_on} == {day for day in days if day <= last_on} - skipped


def _reading(at: datetime, window: Window, clock: ZoneInfo) -> tuple[object, ...]:
    local = at.astimezone(clock)
    return local.utcoffset(), local.date(), local.hour, local.minute if window == "minute" else None


@pytest.mark.parametrize(
    ("start", "end", "window", "field"),
    [
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), "day", "to"),
        (EARLIEST - timedelta(days=1), LATEST, "month", "from"),
        (EARLIEST, LATEST + timedelta(days=1), "month", "to"),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 11, tzinfo=UTC), "minute", "to"),
        (EARLIEST, LATEST, "minute", "to"),
    ],
)
def test_a_range_that_cannot_be_cut_is_refused(start: datetime, end: datetime, window: Window, field: str) -> None:
    """Empty, outside the calendar or more windows than allowed: the parameter is named, and nothing runs for ever."""
    with pytest.raises(InvalidInput) as refused:
        window_edges(start, end, window=window, zone=ZoneInfo("UTC"), most=10)
    assert refused.value.field == field


def test_the_whole_calendar_can_be_cut_in_every_zone() -> None:
    """The bounds leave room for local time and the next month at both ends."""
    for zone in ZONES:
        for bound in ((EARLIEST, EARLIEST + timedelta(days=40)), (LATEST - timedelta(days=40), LATEST)):
            for window in WINDOWS:
                assert window_edges(*bound, window=window, zone=ZoneInfo(zone), most=100_000)[-1] == bound[1]


@pytest.mark.parametrize("name", ["Berlin", "europe/berlin", "+01:00", "", "../etc/passwd", "posix/UTC"])
def test_a_name_that_is_no_zone_is_refused(name: str) -> None:
    """Offsets have no calendar, and a file name is no zone."""
    with pytest.raises(InvalidInput, match="IANA"):
        parse_time_zone(name)
