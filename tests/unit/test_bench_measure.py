"""The bench's arithmetic: ratios are taken per round, budgets are held against medians."""

from __future__ import annotations

import pytest

from bench.measure import Budget, Row, Verdict, at_least, at_most, interleave, percentile, series, value_at_most


def row(system: list[float], limit: list[float] | None, budget: Budget | None) -> Row:
    """A row of these samples."""
    return Row(
        bench="b",
        what="w",
        unit="u",
        system=series(system),
        limit=series(limit) if limit is not None else None,
        budget=budget,
    )


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """A machine that slows down between rounds moves both sides of a round, not its ratio."""
    ratio = row([90, 45, 9], [100, 50, 10], None).ratio
    assert ratio is not None
    assert (ratio.lowest, ratio.median, ratio.highest) == pytest.approx((0.9, 0.9, 0.9))


def test_series_of_different_length_are_compared_by_their_medians() -> None:
    """One figure against several has no rounds to pair."""
    ratio = row([30], [10, 20, 60], None).ratio
    assert ratio is not None
    assert ratio.samples == (1.5,)


@pytest.mark.parametrize(
    ("budget", "system", "verdict"),
    [
        (at_least(0.8), 80, Verdict.MET),
        (at_least(0.8), 79, Verdict.MISSED),
        (at_most(0.5), 50, Verdict.MET),
        (at_most(0.5), 51, Verdict.MISSED),
        (value_at_most(5), 5, Verdict.MET),
        (value_at_most(5), 5.1, Verdict.MISSED),
        (None, 1, Verdict.NONE),
    ],
)
def test_a_bound_itself_keeps_the_budget(budget: Budget | None, system: float, verdict: Verdict) -> None:
    """At least and at most include the bound."""
    assert row([system], [100], budget).verdict is verdict


def test_a_ratio_budget_needs_a_limit() -> None:
    """A missing limit is an error of the bench, never a budget met."""
    with pytest.raises(ValueError, match="without a limit"):
        _ = row([1], None, at_least(0.8)).verdict


def test_slots_alternate() -> None:
    """Limit, system, limit, system: never all of one first."""
    order: list[str] = []
    interleave(3, lambda: order.append("limit"), lambda: order.append("system"))
    assert order == ["limit", "system"] * 3


def test_percentile_is_the_nearest_rank() -> None:
    """p95 of a hundred samples is the 95th, p50 of one is that one."""
    samples = [float(number) for number in range(1, 101)]
    assert percentile(samples, 95) == 95
    assert percentile(samples, 50) == 50
    assert percentile([7.0], 50) == 7
    assert percentile(samples, 100) == 100
