"""The labs that are shipped: each comes out as its comment computes it by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from stripemeter.cli.yaml_files import read_yaml
from stripemeter.simulation.running import ScenarioRun, judge, run_scenario
from stripemeter.simulation.scenarios import read_scenario

LABS = Path(__file__).resolve().parents[2] / "labs"
FAST = sorted(path.relative_to(LABS).as_posix() for path in LABS.rglob("*.sim.yaml") if path.parent.name != "full")


def test_every_lab_that_was_asked_for_is_there() -> None:
    """An empty folder would pass every test below."""
    assert {"commitments", "credit-grants", "dunning", "end-of-cycle", "mixed-cadence", "parity"} <= {
        name.removesuffix(".sim.yaml") for name in FAST
    }
    assert len(list((LABS / "golden").iterdir())) >= 30


@pytest.mark.parametrize("name", FAST)
def test_a_lab_comes_out_as_expected(name: str) -> None:
    """All differences, not the first."""
    run = _run(name)
    assert [each for each in run.assertions if not each.passed] == []
    assert run.assertions


@pytest.mark.parametrize("name", FAST)
def test_a_lab_with_a_wrong_expectation_fails(name: str) -> None:
    """The first number it expects, changed: no lab passes whatever it expects."""
    text = (LABS / name).read_text(encoding="utf-8")
    document = read_yaml(LABS / name)
    if "refused:" in text:
        document["expected"]["refused"] = "metadata"
    else:
        _spoil(document["expected"] if "inputs" in document else document["timeline"])
    assert not all(each.passed for each in judge(read_scenario(document), _run(name).observations))


@cache
def _run(name: str) -> ScenarioRun:
    return run_scenario(read_scenario(read_yaml(LABS / name)))


def _spoil(document: object) -> None:
    """Add 1 000 to a `total` that is expected, else expect another state of access."""
    for each in _objects(document):
        if "total" in each:
            each["total"] = each["total"] + 1000
            return
    for each in _objects(document):
        if "access" in each:
            each["access"]["state"] = "sorry"
            return
    raise AssertionError("expects no total")


def _objects(document: object) -> list[dict]:  # type: ignore[type-arg]
    if isinstance(document, list):
        return [found for each in document for found in _objects(each)]
    if isinstance(document, dict):
        inner = [found for each in document.values() for found in _objects(each)]
        return [document, *inner]
    return []
