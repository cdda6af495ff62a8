"""What must hold of forecasts, whatever the days were."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stripemeter.pricing.forecasts import History, backcasts, error_pct, forecast, history_of

TODAY = date(2026, 11, 23)  # a Monday
MIDNIGHT = datetime.combine(TODAY, time(), UTC)
DAY = timedelta(days=1)
quantities = st.decimals(min_value=0, max_value=10**9, places=6)
pasts = st.lists(quantities, min_size=1, max_size=60)
instants = st.integers(0, 86_400 * 40).map(lambda seconds: MIDNIGHT + timedelta(seconds=seconds))


def past(days: list[Decimal]) -> History:
    """The last of them is yesterday."""
    return history_of({TODAY - DAY * (len(days) - n): quantity for n, quantity in enumerate(days)}, TODAY - DAY)


@given(pasts, quantities, instants, instants)
def test_nothing_left_adds_nothing_and_time_only_adds(
    days: list[Decimal], to_date: Decimal, one: datetime, other: datetime
) -> None:
    """At the end the forecast is what was used; the further the end, the more; never less than to date."""
    near, far = sorted((one, other))
    history = past(days)
    made = [forecast(history, to_date, MIDNIGHT, end) for end in (MIDNIGHT, near, far)]
    if not any(days):
        assert made == [None, None, None]
        return
    amounts = [each.quantity for each in made if each is not None]
    assert len(amounts) == 3
    assert amounts[0] == to_date
    assert amounts == sorted(amounts)


@given(pasts, instants, instants)
def test_a_rest_cut_in_two_is_the_same_rest(days: list[Decimal], one: datetime, other: datetime) -> None:
    """From now to the middle and on to the end is from now to the end, but for the roundings."""
    middle, end = sorted((one, other))
    history = past(days)
    whole = forecast(history, Decimal(0), MIDNIGHT, end)
    first, second = forecast(history, Decimal(0), MIDNIGHT, middle), forecast(history, Decimal(0), middle, end)
    if whole is None:
        assert (first, second) == (None, None)
        return
    assert first is not None
    assert second is not None
    assert abs(whole.quantity - first.quantity - second.quantity) <= Decimal("0.000000000002")


@given(quantities.filter(bool), st.integers(1, 90), st.integers(0, 60))
def test_the_same_every_day_goes_on(quantity: Decimal, known: int, ahead: int) -> None:
    """A steady customer is forecast exactly, and every backcast is right."""
    history = past([quantity] * known)
    made = forecast(history, Decimal(7), MIDNIGHT, MIDNIGHT + DAY * ahead)
    assert made is not None
    assert made.quantity == 7 + quantity * ahead
    assert made.method == ("weekday_rates" if known >= 28 else "daily_rate")
    for each in backcasts(history, 3, 4):
        assert each.forecast == each.actual == 7 * quantity


@given(st.lists(quantities, min_size=7, max_size=7).filter(any), st.integers(4, 12), st.integers(0, 30))
def test_weeks_repeat_themselves(week: list[Decimal], weeks: int, ahead: int) -> None:
    """With four weeks alike and more, each day to come is its weekday's: a weekend without usage costs nothing."""
    days = week * weeks  # MIDNIGHT is a Monday, and so was the first of them
    made = forecast(past(days), Decimal(0), MIDNIGHT, MIDNIGHT + DAY * ahead)
    assert made is not None
    leading = next(n for n, quantity in enumerate(days) if quantity)
    if len(days) - leading < 28:
        return
    assert made.quantity == sum((week[n % 7] for n in range(ahead)), Decimal(0))
    for each in backcasts(past(days), 2, 5):
        if weeks > 8:
            assert each.actual == sum(week, Decimal(0))


@given(st.lists(quantities, min_size=1, max_size=120), st.integers(0, 30), st.integers(1, 31))
def test_a_backcast_knows_only_what_was_known(days: list[Decimal], elapsed: int, remaining: int) -> None:
    """Another present changes what came, never what was forecast before it."""
    made = backcasts(past(days), elapsed, remaining)
    assert len(made) <= 3
    for back, each in enumerate(made, start=1):
        begun = len(days) - back * (elapsed + remaining)
        changed = days[:begun] + [quantity + 1 for quantity in days[begun:]]
        again = backcasts(past(changed), elapsed, remaining)[back - 1]
        assert again.forecast == each.forecast
        assert again.actual == each.actual + remaining
        assert each.actual == sum(days[begun - elapsed : begun + remaining], Decimal(0))


@given(st.lists(st.tuples(quantities, quantities), max_size=5))
def test_an_error_is_a_percentage_of_what_came(pairs: list[tuple[Decimal, Decimal]]) -> None:
    """The mean of each pair's; none where nothing came and nothing was expected."""
    found = error_pct(pairs)
    told = [(ahead, came) for ahead, came in pairs if ahead or came]
    if not told:
        assert found is None
        return
    errors = [Fraction(abs(ahead - came)) / Fraction(came) if came else Fraction(1) for ahead, came in told]
    assert found is not None
    assert abs(Fraction(found) - 100 * sum(errors, Fraction(0)) / len(errors)) <= Fraction(1, 200)


@pytest.mark.parametrize(("days", "method"), [(1, "daily_rate"), (27, "daily_rate"), (28, "weekday_rates")])
def test_the_method_is_what_the_history_allows(days: int, method: str) -> None:
    """A weekday has a rate of its own from four of it on; days before the first usage are no history."""
    history = history_of({TODAY - DAY * days: Decimal(5), TODAY - DAY * 80: Decimal(0)}, TODAY - DAY)
    made = forecast(history, Decimal(0), MIDNIGHT, MIDNIGHT + DAY)
    assert made is not None
    assert (len(history.quantities), made.method) == (days, method)


def test_a_day_is_shared_by_its_seconds() -> None:
    """From noon on half a day's usage is to come, and a period that ends at six gets a quarter of its last day."""
    history = past([Decimal(8)] * 7)
    made = forecast(history, Decimal(1), MIDNIGHT + DAY / 2, MIDNIGHT + DAY + DAY / 4)
    assert made is not None
    assert made.quantity == 1 + 4 + 2
