"""What a measurement is: series of samples, a limit beside a system, a budget, a verdict.

Belongs here: samples, medians, spreads, ratios, and the interleaving of slots. Does not: what is measured, printing.

The machine is noisy and shared, so absolute numbers swing by a third between two minutes. Slots of the limit and of the
system alternate, a ratio is taken within each round, and the median of those ratios is what a budget is held against.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Samples of one quantity, at least one, in the order measured."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle sample."""
        return statistics.median(self.samples)

    @property
    def lowest(self) -> float:
        """The smallest sample."""
        return min(self.samples)

    @property
    def highest(self) -> float:
        """The greatest sample."""
        return max(self.samples)


class Verdict(Enum):
    """What came of a budget."""

    MET = "met"
    MISSED = "MISSED"
    NONE = ""


class Rule(Enum):
    """How a budget bounds a row."""

    RATIO_AT_LEAST = "ratio >="
    RATIO_AT_MOST = "ratio <="
    VALUE_AT_MOST = "<="


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A bound of the design's section 8."""

    rule: Rule
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        bench: which bench measured it.
        what: what was measured, in words.
        unit: of both series.
        system: our samples.
        limit: what they are held against; sample i was measured next to sample i of the system. None without one.
        limit_name: what the limit is.
        budget: the bound; None for a figure that only explains.
        note: conditions a reader needs.
    """

    bench: str
    what: str
    unit: str
    system: Series
    limit: Series | None = None
    limit_name: str = ""
    budget: Budget | None = None
    note: str = ""

    @property
    def ratio(self) -> Series | None:
        """System over limit, per round where both have as many rounds, else of the medians."""
        if self.limit is None:
            return None
        if len(self.limit.samples) != len(self.system.samples):
            return series([self.system.median / self.limit.median])
        return series([ours / theirs for ours, theirs in zip(self.system.samples, self.limit.samples, strict=True)])

    @property
    def verdict(self) -> Verdict:
        """Whether the median keeps the budget."""
        if self.budget is None:
            return Verdict.NONE
        measured = self.system.median
        if self.budget.rule is not Rule.VALUE_AT_MOST:
            if self.ratio is None:
                raise ValueError(f"{self.bench}, {self.what}: a budget on a ratio without a limit")
            measured = self.ratio.median
        if self.budget.rule is Rule.RATIO_AT_LEAST:
            kept = measured >= self.budget.bound
        else:
            kept = measured <= self.budget.bound
        return Verdict.MET if kept else Verdict.MISSED


def series(samples: Sequence[float]) -> Series:
    """The samples as a series.

    Raises:
        ValueError: there are none.
    """
    if not samples:
        raise ValueError("a series needs a sample")
    return Series(samples=tuple(samples))


def at_least(bound: float) -> Budget:
    """The ratio must not be smaller."""
    return Budget(rule=Rule.RATIO_AT_LEAST, bound=bound)


def at_most(bound: float) -> Budget:
    """The ratio must not be greater."""
    return Budget(rule=Rule.RATIO_AT_MOST, bound=bound)


def value_at_most(bound: float) -> Budget:
    """The measured value itself must not be greater."""
    return Budget(rule=Rule.VALUE_AT_MOST, bound=bound)


def interleave(rounds: int, *slots: Callable[[], T]) -> list[list[T]]:
    """Run every slot once per round, in turn; one list of results per slot."""
    results: list[list[T]] = [[] for _ in slots]
    for _ in range(rounds):
        for result, slot in zip(results, slots, strict=True):
            result.append(slot())
    return results


def seconds_of(work: Callable[[], object]) -> float:
    """How long one call takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def percentile(samples: Sequence[float], pct: float) -> float:
    """The sample below which `pct` percent lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(pct / 100 * len(ordered)) - 1)]
