"""Reports: recorded runs against what their scenarios expect now.

Belongs here: reading a record, judging it again, the report as JSON. Does not: pages (`report_pages`), files (`cli`).

A run is not its own judge: the record says what was seen, the scenario as it is now says what should have been.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stripemeter.errors import InvalidInput, ScenarioError
from stripemeter.pricing.reading import elements_of, parse_instant, parse_text, parse_whole, refused, required, within
from stripemeter.simulation.comparisons import Assertion
from stripemeter.simulation.running import Observation, judge
from stripemeter.simulation.scenarios import Scenario, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A scenario and what its recorded run is worth.

    Args:
        scenario: its name, or that of its file when it cannot be read.
        seed: of the run.
        assertions: of what it expects now.
        invoices: of the run.
        error: why it cannot be judged; None: it was.
    """

    scenario: str
    seed: int | None = None
    assertions: Sequence[Assertion] = ()
    invoices: Sequence[Mapping[str, Any]] = ()
    error: str | None = None

    @property
    def differences(self) -> list[Assertion]:
        """What is not as expected."""
        return [assertion for assertion in self.assertions if not assertion.passed]

    @property
    def is_ok(self) -> bool:
        """Whether it was judged, and is as expected."""
        return self.error is None and not self.differences


def judge_record(scenario: Scenario, record: object) -> Judged:
    """What a recorded run is worth.

    Args:
        scenario: as it is now.
        record: `ScenarioRun.to_dict`, decoded.

    Raises:
        ScenarioError: it is no record, or one of another story: run it again.
    """
    try:
        return _judge(scenario, record)
    except InvalidInput as error:
        raise ScenarioError(str(error), field=error.field) from error


def _judge(scenario: Scenario, record: object) -> Judged:
    if not isinstance(record, Mapping):
        raise refused("is no record of a run: an object", "result")
    seed = parse_whole(required(record, "seed", "result"), "result.seed")
    if required(record, "fingerprint", "result") != fingerprint(scenario, seed):
        raise refused("is of another story than the scenario tells now: run it again", "result.fingerprint")
    place = "result.observations"
    documents = elements_of(required(record, "observations", "result"), place)
    observations = [_observation(document, within(place, number)) for number, document in enumerate(documents)]
    return Judged(
        scenario=scenario.name,
        seed=seed,
        assertions=tuple(judge(scenario, observations)),
        invoices=tuple(elements_of(required(record, "invoices", "result"), "result.invoices")),
    )


def _observation(document: object, field: str) -> Observation:
    if not isinstance(document, Mapping) or not isinstance(document.get("seen"), Mapping):
        raise refused("must be an object with what was seen", field)
    instant = document.get("instant")
    return Observation(
        path=parse_text(required(document, "path", field), within(field, "path")),
        instant=None if instant is None else parse_instant(instant, within(field, "instant")),
        seen=document["seen"],
    )


def report_document(judged: Sequence[Judged]) -> dict[str, Any]:
    """The report, JSON-able: the original's, with each scenario's invoices."""
    return {
        "summary": summary_of(judged),
        "results": [
            {
                "scenario": each.scenario,
                "seed": each.seed,
                "error": each.error,
                "assertions": len(each.assertions),
                "diffs": [
                    {
                        "path": assertion.path,
                        "instant": assertion.to_dict()["instant"],
                        "actual": assertion.actual,
                        "expected": assertion.expected,
                        "diff": assertion.to_dict()["difference"],
                    }
                    for assertion in each.differences
                ],
                "invoices": list(each.invoices),
            }
            for each in judged
        ],
    }


def summary_of(judged: Sequence[Judged]) -> dict[str, int]:
    """How many scenarios there are, how many differ, are as expected, and could not be judged."""
    errors = sum(each.error is not None for each in judged)
    ok = sum(each.is_ok for each in judged)
    return {"total": len(judged), "diffs": len(judged) - ok - errors, "ok": ok, "errors": errors}
