"""Generated events: how many, when they happen, when they arrive."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stripemeter.simulation.traffic import Delivery, parse_generator

_START = datetime(2026, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def _deliveries(**members: Any) -> list[Delivery]:  # noqa: ANN401 - members of a document
    document = {"metric": "calls", "until": "2026-01-03", **members}
    return list(parse_generator(document, _START, ["acme"], "generate").deliveries(7, _START))


def _happened(deliveries: list[Delivery]) -> list[timedelta]:
    return [datetime.fromisoformat(json.loads(each.document)["ts"]) - _START for each in deliveries]


def test_a_rate_makes_so_many_in_so_much_time() -> None:
    """30 an hour for two days; evenly spaced they are two minutes apart."""
    happened = _happened(_deliveries(rate={"count": 30, "per": "PT1H"}))
    assert happened == [timedelta(minutes=2) * number for number in range(48 * 30)]


@pytest.mark.parametrize(
    ("pattern", "low", "high"),
    [
        ("burst", 1.0, 1.0),  # of what falls in the first six minutes of an hour
        ("steady", 0.1, 0.1),
        ("random", 0.05, 0.2),
        ("peak", 0.05, 0.2),
    ],
)
def test_a_burst_is_in_the_first_minutes_of_its_hour(pattern: str, low: float, high: float) -> None:
    """The others spread over it."""
    happened = _happened(_deliveries(count=960, pattern=pattern))
    assert len(happened) == 960
    assert all(timedelta() <= each < 2 * _DAY for each in happened)
    share = sum(each % _HOUR < timedelta(minutes=6) for each in happened) / 960
    assert low <= share <= high


@pytest.mark.parametrize(("pattern", "low", "high"), [("peak", 0.7, 0.8), ("random", 0.45, 0.55)])
def test_a_peak_gathers_about_the_middle_of_its_day(pattern: str, low: float, high: float) -> None:
    """Three quarters of a triangle lie in its middle half."""
    happened = _happened(_deliveries(count=960, pattern=pattern))
    share = sum(_DAY / 4 <= each % _DAY < _DAY * 3 / 4 for each in happened) / 960
    assert low <= share <= high


def test_late_and_duplicate_ones_arrive_when_they_should() -> None:
    """Every second an hour late, every third once more ten minutes after it arrived."""
    deliveries = _deliveries(count=6, late={"every": 2, "by": "PT1H"}, duplicate={"every": 3, "after": "PT10M"})
    eighth = 8 * _HOUR  # six in two days
    again = timedelta(minutes=10)
    assert [each.at - _START for each in deliveries] == [
        0 * eighth,
        1 * eighth + _HOUR,
        2 * eighth,
        2 * eighth + again,
        3 * eighth + _HOUR,
        4 * eighth,
        5 * eighth + _HOUR,
        5 * eighth + _HOUR + again,
    ]
    assert deliveries[3].document == deliveries[2].document


def test_quantities_are_drawn_between_their_bounds() -> None:
    """With the bounds' own decimals; both bounds are reached."""
    quantities = {
        json.loads(each.document)["quantity"] for each in _deliveries(count=300, quantity={"least": "0.8", "most": 1.2})
    }
    assert quantities == {0.8, 0.9, 1, 1.1, 1.2}
