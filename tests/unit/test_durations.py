"""Durations before an instant: what is read, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from stripemeter.metering.durations import before

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("-PT24H", timedelta(hours=24)),
        ("-P7D", timedelta(days=7)),
        ("-P1DT2H3M4S", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("-PT90M", timedelta(minutes=90)),
        ("-PT0S", timedelta()),
    ],
)
def test_a_duration_is_exact(text: str, span: timedelta) -> None:
    """Days are 24 hours: the days are UTC's."""
    assert NOW - before(text, NOW) == span


@pytest.mark.parametrize(
    "text",
    ["", "-P", "-P1DT", "P1D", "-P1M", "-P1Y", "-P1W", "-PT1.5H", "-PT1H2H", "-PT1M1H", "-p1d", "-P\u0663D", "-P1D "],
)
def test_anything_else_is_refused(text: str) -> None:
    """No sign, no unit, no fraction, an order of its own, other digits: refused, never guessed."""
    with pytest.raises(ValueError, match="must be"):
        before(text, NOW)


def test_before_the_first_year_is_refused() -> None:
    """An instant that no calendar here has."""
    with pytest.raises(ValueError, match="0001"):
        before("-P99999D", NOW.replace(year=2))
