"""The pure rules of the push: minutes, identifiers, digits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripemeter.metering.days import day_bounds, month_bounds
from stripemeter.metering.deltas import (
    MINUTE,
    RETRY_WINDOW,
    STAMP_WINDOW,
    Delta,
    choose_minute,
    current_minute,
    first_open_day,
    fixed_point,
    idempotency_key,
    push_identifier,
    sendable,
    whole_minutes,
)

NOW = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)
TODAY = NOW.date()
YESTERDAY = TODAY - timedelta(days=1)
MONTH, MONTH_END = month_bounds(TODAY)
ENTRY = UUID("12345678-1234-5678-1234-567812345678")
DELTA = Delta(
    stripe_account_id="acct_1",
    stripe_event_name="calls",
    stripe_customer_id="cus_1",
    segment_start=MONTH,
    day=TODAY,
    seq=1,
    stamped_at=NOW.replace(second=0),
    quantity=Decimal("1.50"),
)


def choose(
    *,
    day: date,
    now: datetime,
    used: Collection[datetime],
    segment_start: datetime = MONTH,
    end: datetime | None = None,
) -> datetime | None:
    """choose_minute in the month of the day, unless its segment says otherwise."""
    start = segment_start if segment_start != MONTH else month_bounds(day)[0]
    return choose_minute(day=day, segment_start=start, segment_end=end or month_bounds(day)[1], now=now, used=used)


def at(hour: int, minute: int, day: date = TODAY, second: int = 0) -> datetime:
    """An instant of a day."""
    return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given_quantity", "sent"),
    [
        ("0.1", "0.1"),
        ("-0.1", "-0.1"),
        ("123456789012345", "123456789012345"),
        ("1234567890123456", "1234567890123450"),
        ("-1.2345678901234567", "-1.23456789012345"),
        ("100000000000000000000", "100000000000000000000"),
        ("1E+3", "1000"),
    ],
)
def test_only_fifteen_digits_are_sent(given_quantity: str, sent: str) -> None:
    """What does not fit is cut toward zero, so that it is still lacking and follows; never an exponent."""
    assert fixed_point(sendable(Decimal(given_quantity))) == sent


@given(st.decimals(min_value=-(10**20), max_value=10**20, places=12).filter(bool))
def test_cutting_converges(lacking: Decimal) -> None:
    """Sending what fits, again and again, ends at exactly what was lacking."""
    for _ in range(4):
        part = sendable(lacking)
        assert abs(part) <= abs(lacking)
        assert len(fixed_point(part).lstrip("-").replace(".", "").strip("0")) <= 15
        lacking -= part
    assert lacking == 0


def test_the_open_day_offers_its_current_minute_only() -> None:
    """Today: the latest whole minute, every fourth left free; taken or reserved means wait."""
    assert current_minute(at(12, 0, second=59)) == at(12, 0)
    assert current_minute(at(12, 3, second=59)) == at(12, 2)
    assert choose(day=TODAY, now=NOW, used=()) == at(12, 0)
    assert choose(day=TODAY, now=NOW, used={at(12, 0)}) is None
    assert choose(day=TODAY, segment_start=at(12, 0, second=1), now=NOW, used=()) is None


def test_a_closed_day_counts_back_from_its_end() -> None:
    """Yesterday: the last unused minute of the day."""
    assert choose(day=YESTERDAY, now=NOW, used=()) == at(23, 59, YESTERDAY)
    used = {at(23, 59, YESTERDAY), at(23, 57, YESTERDAY)}
    assert choose(day=YESTERDAY, now=NOW, used=used) == at(23, 58, YESTERDAY)
    every = {day_bounds(YESTERDAY)[0] + MINUTE * number for number in range(1440)}
    assert choose(day=YESTERDAY, now=NOW, used=every) is None


def test_a_whole_day_of_pushes_leaves_minutes_for_what_is_late() -> None:
    """A customer with usage every second takes three minutes of four: 360 remain after midnight."""
    start = day_bounds(YESTERDAY)[0]
    used: set[datetime] = set()
    for number in range(1440 * 2):
        minute = choose(day=YESTERDAY, now=start + timedelta(seconds=30 * number), used=used)
        if minute is not None:
            used.add(minute)
    assert len(used) == 1080
    assert choose(day=YESTERDAY, now=NOW, used=used) == at(23, 59, YESTERDAY)


def test_the_window_leaves_room_for_the_retries() -> None:
    """A minute chosen at the last moment is still inside Stripe's 35 days when the last blind retry goes out."""
    assert timedelta(days=35) > STAMP_WINDOW + RETRY_WINDOW
    oldest = first_open_day(NOW)
    chosen = choose(day=oldest, now=NOW, used=())
    assert chosen is not None
    assert chosen >= NOW - STAMP_WINDOW
    before = oldest - timedelta(days=1)
    assert choose(day=before, now=NOW, used=()) is None


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (MONTH, (12, 0, 0), (11, 59)),
        (MONTH, (12, 0, 59), (11, 59)),
        (MONTH, (0, 1, 0), (0, 0)),
        (MONTH, (0, 0, 59), None),
        ((23, 59, 0), None, (23, 59)),
        ((23, 59, 1), None, None),
        ((12, 0, 1), (12, 2, 0), (12, 1)),
        ((12, 0, 1), (12, 1, 59), None),
    ],
)
def test_a_minute_that_a_boundary_cuts_belongs_to_neither_side(
    start: datetime | tuple[int, int, int], end: tuple[int, int, int] | None, expected: tuple[int, int] | None
) -> None:
    """On a day with two segments each is stamped strictly inside itself; half a minute of a day has none at all."""
    start_at = start if isinstance(start, datetime) else at(*start[:2], YESTERDAY, second=start[2])
    end_at = MONTH_END if end is None else at(*end[:2], YESTERDAY, second=end[2])
    found = choose_minute(day=YESTERDAY, segment_start=start_at, segment_end=end_at, now=NOW, used=())
    assert found == (None if expected is None else at(*expected, YESTERDAY))
    first, beyond = whole_minutes(day=YESTERDAY, segment_start=start_at, segment_end=end_at)
    assert (first < beyond) is (expected is not None)


def test_the_second_in_which_two_segments_meet_is_left_alone() -> None:
    """Not documented whose it is at Stripe: a first minute waits, a day is full without it; an only one is used."""
    assert choose(day=TODAY, segment_start=at(12, 0), end=MONTH_END, now=at(12, 0, second=30), used=()) is None
    assert choose(day=TODAY, segment_start=at(12, 0), end=MONTH_END, now=at(12, 1), used=()) == at(12, 1)
    used = {at(23, minute, YESTERDAY) for minute in range(51, 60)}
    assert choose(day=YESTERDAY, segment_start=at(23, 50, YESTERDAY), end=MONTH_END, now=NOW, used=used) is None
    assert choose(day=YESTERDAY, segment_start=at(23, 59, YESTERDAY), end=MONTH_END, now=NOW, used=()) == at(
        23, 59, YESTERDAY
    )


def test_a_segment_that_ended_today_counts_back_from_its_end() -> None:
    """Its part of the day is closed, though the day is not: no delta of it goes into the segment after it."""
    boundary = at(11, 30, second=20)
    assert choose(day=TODAY, end=boundary, now=NOW, used=()) == at(11, 29)
    assert choose(day=TODAY, end=boundary, now=NOW, used={at(11, 29)}) == at(11, 28)
    assert choose(day=TODAY, segment_start=boundary, end=MONTH_END, now=NOW, used=()) == at(12, 0)


@given(
    age=st.integers(min_value=0, max_value=40),
    offset=st.integers(min_value=0, max_value=86_399),
    anchor=st.one_of(st.none(), st.integers(min_value=-100, max_value=86_399)),
    length=st.integers(min_value=1, max_value=100_000),
    used=st.sets(st.integers(min_value=0, max_value=1439), max_size=50),
)
def test_a_minute_is_always_whole_unused_inside_and_past(
    age: int, offset: int, anchor: int | None, length: int, used: set[int]
) -> None:
    """Whatever the day, the clock and the segment: inside both, not in the future, not too old, nobody else's."""
    now = day_bounds(TODAY)[0] + timedelta(seconds=offset)
    day = TODAY - timedelta(days=age)
    start, end = day_bounds(day)
    segment, segment_end = month_bounds(day)
    if anchor is not None:
        segment = start + timedelta(seconds=anchor)
        segment_end = segment + timedelta(seconds=length)
    taken = {start + MINUTE * number for number in used}
    minute = choose_minute(day=day, segment_start=segment, segment_end=segment_end, now=now, used=taken)
    if minute is not None:
        assert minute.second == 0
        assert max(start, segment) <= minute
        assert minute + MINUTE <= min(end, segment_end)
        assert now - STAMP_WINDOW <= minute <= now
        assert minute not in taken


def test_an_identifier_is_the_content() -> None:
    """Same content, same identifier; any other content, another; opaque, and short enough for Stripe."""
    identifier = push_identifier(DELTA, entry_id=ENTRY)
    assert identifier == push_identifier(replace(DELTA, quantity=Decimal("1.5")), entry_id=ENTRY)
    assert (len(identifier), identifier[:4]) == (52, "um1_")
    changes = [
        {"stripe_account_id": "acct_2"},
        {"stripe_event_name": "other"},
        {"stripe_customer_id": "cus_2"},
        {"segment_start": MONTH + MINUTE},
        {"day": YESTERDAY},
        {"seq": 2},
        {"stamped_at": NOW},
        {"quantity": Decimal("1.51")},
    ]
    others = {push_identifier(replace(DELTA, **change), entry_id=ENTRY) for change in changes}  # type: ignore[arg-type]
    others.add(push_identifier(DELTA, entry_id=UUID(int=1)))
    assert len(others | {identifier}) == len(changes) + 2
    assert idempotency_key(identifier, 3) == f"{identifier}.3"
