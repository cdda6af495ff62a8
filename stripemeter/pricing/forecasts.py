"""Forecasts: what a quantity will be at a period's end, by what each day brought so far, and how wrong that was before.

Belongs here: rates of days, what is left of a period, the same question asked of the past. Does not: reading usage, its
price (`quotes`), quantities that days do not add up to: a peak or a last value is what it is until it changes.

The past is complete UTC days. With four weeks of them each weekday has a rate of its own, the mean of its last four;
with less there is one rate, the mean of the last whole weeks, or of what days there are. Fractions are exact; a
quantity is rounded once, to 12 decimals, half to even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from stripemeter.pricing.currencies import EXACT
from stripemeter.pricing.prices import DECIMALS, UNIT

Method = Literal["weekday_rates", "daily_rate"]
SEASON = 7
SEASONS = 4
"""Weeks that a weekday's rate is the mean of: enough that one holiday is a quarter of it, and still recent."""
MOST_BACKCASTS = 3
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What each complete UTC day brought.

    Args:
        last_on: the last of them.
        quantities: one a day, ascending, the last of `last_on`; none below 0. Days before the first usage are no
            history: the first is not 0.
    """

    last_on: date
    quantities: tuple[Decimal, ...]

    def until(self, day: date) -> History:
        """As it was when this day began."""
        kept = len(self.quantities) - (self.last_on - day).days - 1
        return History(last_on=day - _DAY, quantities=self.quantities[: max(kept, 0)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A quantity at a period's end, and by which rates what is still to come was added."""

    quantity: Decimal
    method: Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Backcast:
    """The same forecast made in the past, and what came."""

    forecast: Decimal
    actual: Decimal


def history_of(days: Mapping[date, Decimal], last_on: date) -> History:
    """The history of days up to `last_on`; a day that is absent brought nothing."""
    used = [day for day, quantity in days.items() if quantity > 0 and day <= last_on]
    if not used:
        return History(last_on=last_on, quantities=())
    count = (last_on - min(used)).days + 1
    every = [last_on - _DAY * back for back in reversed(range(count))]
    return History(last_on=last_on, quantities=tuple(max(days.get(day, Decimal(0)), Decimal(0)) for day in every))


def forecast(history: History, to_date: Decimal, now: datetime, end: datetime) -> Forecast | None:
    """What a period brings that ends then; None without a complete day to go by.

    Args:
        history: the days before today's.
        to_date: what it brought up to now.
        now: an instant of the period: what comes from then on is forecast.
        end: the instant after it.
    """
    rates = _rates(history)
    if rates is None:
        return None
    method, by_weekday = rates
    rest = Fraction(0)
    day = now.astimezone(UTC).date()
    while (start := datetime.combine(day, time(), UTC)) < end:
        overlap = min(end, start + _DAY) - max(now, start)
        rest += by_weekday[day.weekday()] * Fraction(
            overlap // timedelta(microseconds=1), _DAY // timedelta(microseconds=1)
        )
        day += _DAY
    return Forecast(quantity=EXACT.add(to_date, _rounded(rest)), method=method)


def backcasts(history: History, elapsed_days: int, remaining_days: int) -> tuple[Backcast, ...]:
    """The same question asked one, two and three periods ago, of those that lie within the history.

    Whole days: that day began when `elapsed_days` of the period were over and `remaining_days` to come, and only what
    was known then is used, which must be a week at least.

    Args:
        history: the days before today's.
        elapsed_days: of the period, over.
        remaining_days: of the period, to come, at least 1.
    """
    found = []
    today = history.last_on + _DAY
    for back in range(1, MOST_BACKCASTS + 1):
        day = today - _DAY * (back * (elapsed_days + remaining_days))
        known = history.until(day)
        if len(known.quantities) < max(SEASON, elapsed_days):
            break
        rates = _rates(known)
        assert rates is not None  # a week is known
        rest = sum((rates[1][(day + _DAY * ahead).weekday()] for ahead in range(remaining_days)), Fraction(0))
        begun = len(known.quantities)
        to_date = _sum(history.quantities[begun - elapsed_days : begun])
        came = _sum(history.quantities[begun : begun + remaining_days])
        found.append(Backcast(forecast=EXACT.add(to_date, _rounded(rest)), actual=EXACT.add(to_date, came)))
    return tuple(found)


def error_pct(pairs: Sequence[tuple[Decimal, Decimal]]) -> Decimal | None:
    """Mean absolute error of (forecast, actual), in percent of what came, 2 decimals; None where nothing came.

    Pairs of which nothing came are left out, unless something was forecast: those count as 100 percent.
    """
    errors = [
        Fraction(abs(ahead - came)) / Fraction(came) if came else Fraction(1) for ahead, came in pairs if came or ahead
    ]
    if not errors:
        return None
    mean = sum(errors, Fraction(0)) / len(errors)
    return Decimal(round(mean * 10_000)).scaleb(-2, EXACT)


def _rates(history: History) -> tuple[Method, Sequence[Fraction]] | None:
    """Units a day by weekday, Monday first."""
    count = len(history.quantities)
    if count == 0:
        return None
    if count >= SEASON * SEASONS:
        recent = history.quantities[-SEASON * SEASONS :]
        first = (history.last_on - _DAY * (len(recent) - 1)).weekday()
        sums = [Fraction(_sum(recent[(weekday - first) % SEASON :: SEASON])) for weekday in range(SEASON)]
        return "weekday_rates", [total / SEASONS for total in sums]
    whole = count - count % SEASON or count
    rate = Fraction(_sum(history.quantities[-whole:])) / whole
    return "daily_rate", [rate] * SEASON


def _sum(quantities: Sequence[Decimal]) -> Decimal:
    total = Decimal(0)
    for quantity in quantities:
        total = EXACT.add(total, quantity)
    return total


def _rounded(fraction: Fraction) -> Decimal:
    return Decimal(round(fraction * UNIT)).scaleb(-DECIMALS, EXACT)
