"""States over windows, finished as numbers: each aggregation by an example a pencil can follow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from stripemeter.metering.answers import Part, answer, overlap
from stripemeter.metering.meters import Aggregation

DAY = datetime(2024, 2, 28, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = DAY + timedelta(days=30)


def part(
    *readings: tuple[datetime, str], items: Mapping[str, int] | None = None, dimensions: str = "", seq: int = 1
) -> Part:
    """The state of some readings of one day, ascending."""
    numbers = [Decimal(text) for _, text in readings]
    unit = sum(
        (
            level * ((until - at) // timedelta(microseconds=1))
            for (at, _), (until, _), level in zip(readings, readings[1:], numbers, strict=False)
        ),
        Decimal(0),
    )
    return Part(
        customer_ref="c1",
        meter="m",
        day=readings[0][0].date(),
        segment_start=DAY.replace(day=1),
        dimensions=dimensions,
        event_count=len(readings),
        quantity_sum=sum(numbers, Decimal(0)),
        quantity_min=min(numbers),
        quantity_max=max(numbers),
        quantity_last=numbers[-1],
        last_ts=readings[-1][0],
        last_seq=seq,
        first_ts=readings[0][0],
        unit_microseconds=unit,
        items=items or {},
    )


def numbers(parts: list[Part], edges: list[datetime], aggregation: Aggregation, now: datetime = LATER) -> list[str]:
    """The answers' numbers as text."""
    found = answer(parts, edges, aggregation=aggregation, percentile=Decimal(50), now=now)
    return [
        "none" if each.number is None else f"{each.number:f}".rstrip("0").rstrip(".") if each.number else "0"
        for each in found
    ]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sum", ["9", "0"]),
        ("count", ["4", "0"]),
        ("min", ["1", "none"]),
        ("max", ["4", "none"]),
        ("last", ["2", "none"]),
        ("avg", ["2.25", "none"]),
        ("unique", ["3", "0"]),
        ("percentile", ["2", "none"]),
    ],
)
def test_states_of_lanes_and_dimensions_are_one_number(aggregation: Aggregation, expected: list[str]) -> None:
    """Of equal times the later ledger row is last; a value seen in two states is one; the median of four the second."""
    parts = [
        part((DAY, "1"), (DAY + 3 * HOUR, "4"), items={"1": 1, "4": 1}),
        part((DAY + HOUR, "2"), (DAY + 3 * HOUR, "2"), items={"2": 2}, seq=9),
    ]
    assert numbers(parts, [DAY, DAY + 24 * HOUR, DAY + 48 * HOUR], aggregation) == expected


def test_a_percentile_is_the_nearest_rank() -> None:
    """Never a number nobody reported: the 95th of 1 to 20 is 19, of 1 to 21 it is 20; the 100th is the greatest."""
    for count, percentile, expected in ((20, "95", 19), (21, "95", 20), (21, "100", 21), (21, "0.000000000001", 1)):
        items = {str(value): 1 for value in range(1, count + 1)}
        (found,) = answer(
            [part((DAY, "1"), items=items)],
            [DAY, LATER],
            aggregation="percentile",
            percentile=Decimal(percentile),
            now=LATER,
        )
        assert found.number == expected


def test_a_level_holds_until_the_next_reading() -> None:
    """10 from 06:00, 4 from 18:00 of 28 February; the leap day keeps 4; 1 March ends it at noon."""
    parts = [
        part((DAY + 6 * HOUR, "10"), (DAY + 18 * HOUR, "4")),
        part((DAY + 60 * HOUR, "0")),
    ]
    edges = [DAY + 24 * HOUR * day for day in range(4)]
    hours = [10 * 12 + 4 * 6, 4 * 24, 4 * 12]
    assert numbers(parts, edges, "time_weighted") == [str(each * 3600) for each in hours]
    assert numbers(parts, [edges[0], edges[-1]], "time_weighted") == [str(sum(hours) * 3600)]


def test_a_level_before_the_window_is_carried_into_it() -> None:
    """The last reading before it counts from its first instant, each combination of dimensions by itself."""
    parts = [
        part((DAY - 30 * HOUR, "7")),
        part((DAY - 20 * HOUR, "2"), dimensions="a"),
        part((DAY - 10 * HOUR, "3"), dimensions="a"),
        part((DAY + 12 * HOUR, "5"), dimensions="a"),
    ]
    assert numbers(parts, [DAY, DAY + 24 * HOUR], "time_weighted") == [str((7 * 24 + 3 * 12 + 5 * 12) * 3600)]


def test_a_level_is_known_until_now() -> None:
    """What is still to come has not been used; a reading ahead of the clock was, until itself."""
    parts = [part((DAY, "2"))]
    edges = [DAY, DAY + 24 * HOUR, DAY + 48 * HOUR]
    assert numbers(parts, edges, "time_weighted", DAY + HOUR) == [str(2 * 3600), "0"]
    ahead = [*parts, part((DAY + 2 * HOUR, "9"))]
    assert numbers(ahead, edges, "time_weighted", DAY + HOUR) == [str(2 * 7200), "0"]


def test_a_night_of_25_hours_weighs_25() -> None:
    """Levels are weighted by elapsed time: Berlin's 25 October 2026 lasts from 22:00Z to 23:00Z of the next day."""
    start = datetime(2026, 10, 24, 22, tzinfo=UTC)
    parts = [part((start - HOUR, "1"))]
    edges = [start, start + 25 * HOUR]
    assert numbers(parts, edges, "time_weighted", start + 90 * HOUR) == [str(25 * 3600)]


def test_states_overlap_when_neither_ends_before_the_other_begins() -> None:
    """Touching is in order: a level of no duration."""
    whole = part((DAY, "1"), (DAY + 4 * HOUR, "1"))
    assert overlap(whole, part((DAY + HOUR, "1")))
    assert overlap(part((DAY + HOUR, "1"), (DAY + 9 * HOUR, "1")), whole)
    assert not overlap(whole, part((DAY + 4 * HOUR, "1")))
    assert not overlap(part((DAY - HOUR, "1")), whole)
