"""Running: what comes of a scenario, and whether that is what was expected.

Belongs here: the run and its record. Does not: comparing (`comparisons`), files (`cli`), storing runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stripemeter.pricing import price_invoice
from stripemeter.pricing.reading import instant_text
from stripemeter.simulation.comparisons import Assertion, compare
from stripemeter.simulation.expectations import INVOICE
from stripemeter.simulation.scenarios import Scenario

Progress = Callable[[int, int], None]
"""Called with how many steps are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen where a scenario expects something.

    Args:
        path: of the expectation.
        instant: on the scenario's clock; None: of an invoice without one.
        seen: JSON-able.
    """

    path: str
    instant: datetime | None
    seen: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        at = None if self.instant is None else instant_text(self.instant)
        return {"path": self.path, "instant": at, "seen": self.seen}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioRun:
    """What came of a scenario; the same scenario and seed make the same.

    Args:
        scenario: its name.
        seed: of what was drawn.
        assertions: each expected value, in the scenario's order.
        invoices: JSON-able, in the order they were made.
        observations: what was seen where something is expected.
    """

    scenario: str
    seed: int
    assertions: Sequence[Assertion]
    invoices: Sequence[Mapping[str, Any]]
    observations: Sequence[Observation]

    @property
    def passed(self) -> bool:
        """Whether everything is as expected."""
        return all(assertion.passed for assertion in self.assertions)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; decimals as strings."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "passed": self.passed,
            "assertions": [assertion.to_dict() for assertion in self.assertions],
            "invoices": list(self.invoices),
            "observations": [observation.to_dict() for observation in self.observations],
        }


def run_scenario(scenario: Scenario, seed: int | None = None, progress: Progress | None = None) -> ScenarioRun:
    """What comes of a scenario; never raises for an expectation that is not met.

    Args:
        scenario: of `read_scenario`.
        seed: of what is drawn; None: the scenario's own.
        progress: called after each step.

    Raises:
        ScenarioError: it cannot be run; `field` is the path of what is wrong.
    """
    observations: list[Observation] = []
    invoices: list[Mapping[str, Any]] = []
    if scenario.inputs is not None:
        invoices.append(price_invoice(scenario.inputs, scenario.rounding).to_dict())
        observations.append(Observation(path="expected", instant=None, seen=invoices[-1]))
    if scenario.refusal is not None:
        seen = {"refused": scenario.refusal.field, "reason": str(scenario.refusal)}
        observations = [Observation(path="expected", instant=None, seen=seen)]
    if progress is not None:
        progress(1, 1)
    return ScenarioRun(
        scenario=scenario.name,
        seed=scenario.seed if seed is None else seed,
        assertions=tuple(judge(scenario, observations)),
        invoices=invoices,
        observations=observations,
    )


def judge(scenario: Scenario, observations: Sequence[Observation]) -> Iterator[Assertion]:
    """Everything the scenario expects now, against what was seen."""
    for seen in observations:
        if scenario.expected_refusal is not None:
            shape, expected = {"refused": "text"}, {"refused": scenario.expected_refusal}
            yield from compare(seen.seen, expected, shape, scenario.tolerances, seen.path)
        elif scenario.expected is not None:
            yield from compare(seen.seen, scenario.expected, INVOICE, scenario.tolerances, seen.path)
