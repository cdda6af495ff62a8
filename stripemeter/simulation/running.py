"""Running: what comes of a scenario, and whether that is what was expected.

Belongs here: the run and its record. Does not: comparing (`comparisons`), files (`cli`), storing runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from stripemeter.errors import InvalidInput, ScenarioError
from stripemeter.pricing import price_invoice
from stripemeter.pricing.reading import instant_text
from stripemeter.simulation.comparisons import Assertion, Shape, compare
from stripemeter.simulation.entries import Expect
from stripemeter.simulation.expectations import INVOICE, STATE
from stripemeter.simulation.observing import bills_of, observe
from stripemeter.simulation.playing import Play
from stripemeter.simulation.scenarios import Scenario, fingerprint

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
        fingerprint: of what it depends on (`scenarios.fingerprint`).
        seed: of what was drawn.
        assertions: each expected value, in the scenario's order.
        invoices: JSON-able, in the order they were made.
        observations: what was seen where something is expected.
    """

    scenario: str
    fingerprint: str
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
            "fingerprint": self.fingerprint,
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
    seed = scenario.seed if seed is None else seed
    try:
        invoices, observations = _run(scenario, seed, progress)
    except ScenarioError as error:
        if scenario.expected_refusal is None:
            raise
        invoices, observations = [], [_refusal(error)]
    return ScenarioRun(
        scenario=scenario.name,
        fingerprint=fingerprint(scenario, seed),
        seed=seed,
        assertions=tuple(judge(scenario, observations)),
        invoices=invoices,
        observations=observations,
    )


def judge(scenario: Scenario, observations: Sequence[Observation]) -> Iterator[Assertion]:
    """Everything the scenario expects now, against what was seen.

    Args:
        scenario: as it is now.
        observations: of a run with the same fingerprint.
    """
    seen = {each.path: each for each in observations}
    for path, (expected, shape) in _expectations(scenario).items():
        found = seen.get(path)
        actual, instant = (None, None) if found is None else (found.seen, found.instant)
        yield from compare(actual, expected, shape, scenario.tolerances, path, instant)


def _expectations(scenario: Scenario) -> dict[str, tuple[Mapping[str, Any], Shape]]:
    if scenario.expected_refusal is not None:
        return {"expected": ({"refused": scenario.expected_refusal}, {"refused": "text"})}
    if scenario.story is None:
        return {"expected": (scenario.expected or {}, INVOICE)}
    found: dict[str, tuple[Mapping[str, Any], Shape]] = {
        entry.path: (entry.action.expected, STATE)
        for entry in scenario.story.entries
        if isinstance(entry.action, Expect)
    }
    if scenario.story.at_end is not None:
        found["expected"] = (scenario.story.at_end.expected, STATE)
    return found


def _run(scenario: Scenario, seed: int, progress: Progress | None) -> tuple[list[Mapping[str, Any]], list[Observation]]:
    if scenario.story is not None:
        return _play(Play(scenario.story, scenario.rounding, seed), progress)
    if progress is not None:
        progress(1, 1)
    if scenario.refusal is not None:
        return [], [_refusal(scenario.refusal)]
    assert scenario.inputs is not None  # one of the three
    invoice = price_invoice(scenario.inputs, scenario.rounding).to_dict()
    return [invoice], [Observation(path="expected", instant=None, seen=invoice)]


def _play(play: Play, progress: Progress | None) -> tuple[list[Mapping[str, Any]], list[Observation]]:
    observations = []
    entries = play.story.entries
    for number, entry in enumerate(entries):
        try:
            play.move(entry.at, entry.path)
            if isinstance(entry.action, Expect):
                seen = observe(play, entry.action)
                observations.append(Observation(path=entry.path, instant=play.now, seen=seen))
            elif entry.action is not None:
                play.act(entry.action, entry.path)
            if number == len(entries) - 1:
                play.finish()
        except InvalidInput as error:
            is_located = error.field.startswith("timeline")
            message = str(error) if is_located else f"{entry.path}: {error}"
            raise ScenarioError(message, field=error.field if is_located else entry.path) from error
        if progress is not None:
            progress(number + 1, len(entries))
    if play.story.at_end is not None:
        seen = observe(play, play.story.at_end)
        observations.append(Observation(path="expected", instant=play.now, seen=seen))
    invoices: list[Mapping[str, Any]] = [bill for account in play.accounts.values() for bill in bills_of(play, account)]
    return invoices, observations


def _refusal(error: InvalidInput) -> Observation:
    return Observation(path="expected", instant=None, seen={"refused": error.field, "reason": str(error)})
