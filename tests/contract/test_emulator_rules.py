"""RULES.md is a promise: each rule says how we know it and which test holds it; what is unknown is a knob."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.test_push_under_knobs import SETTINGS
from tests.emulator import RunningEmulator

FOLDER = Path(__file__).parent
RULES = FOLDER.parents[1] / "stripe_emulator" / "RULES.md"
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
KNOBS = re.compile(r"knobs? ((?:`\w+`(?:, | and )?)+)")


def rows() -> dict[str, list[str]]:
    """The cells of each rule, by id."""
    lines = [line for line in RULES.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0]: row for row in cells}


def knobs_of(rule: str) -> list[str]:
    """The knobs a rule names."""
    return [name for found in KNOBS.findall(rule) for name in re.findall(r"`(\w+)`", found)]


@pytest.mark.parametrize("name", rows())
def test_a_rule_has_a_grade_a_source_and_a_test(name: str) -> None:
    """No rule without knowing how we know, and none that nothing holds."""
    assert len(rows()[name]) == 5
    _, rule, grade, source, test = rows()[name]
    assert rule
    assert set(grade.split(" / ")) <= {"D", "O", "I", "U", "-"}
    assert len(source) > 3
    named = TEST.findall(test)
    assert named
    for file, function in named:
        assert f"def {function}(" in (FOLDER / file).read_text(encoding="utf-8")


def test_what_is_unknown_is_a_knob(emulator: RunningEmulator) -> None:
    """A rule graded U names a knob the emulator has, or says why it has none; no rule names one it has not."""
    knobs = {name for path in ("/metering", "/billing", "/deliveries") for name in emulator.control("POST", path, {})}
    for name, (_, rule, grade, _, _) in rows().items():
        assert set(knobs_of(rule)) <= knobs, name
        if "U" in grade:
            assert knobs_of(rule) or re.search(r"no knob: \w+", rule), name


def test_the_product_is_tried_under_every_unknown_setting_of_metering(emulator: RunningEmulator) -> None:
    """Each metering knob of a rule graded U has its other settings among those push and reconcile run under."""
    metering = emulator.control("POST", "/metering", {})
    unknown = {name for _, rule, grade, _, _ in rows().values() if "U" in grade for name in knobs_of(rule)}
    tried = {name for setting in SETTINGS for name in setting}
    # Error reports have no reader in the product yet: their shape cannot matter to it.
    assert (unknown & set(metering)) - tried == {"sample_member"}
