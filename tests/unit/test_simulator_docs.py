"""What docs/simulator.md shows is what comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stripemeter.cli.main import app
from stripemeter.simulation.entries import Action
from stripemeter.simulation.expectations import STATE
from stripemeter.simulation.stories import STORY
from stripemeter.simulation.timelines import TimelineReader

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"```yaml\n(?P<scenario>[^`]*)```\n\n```console\n\$ stripemeter (?P<words>.*)\n(?P<shown>[^`]*)```")


def test_the_worked_example_prints_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario as printed, the command as printed."""
    (block,) = BLOCKS.finditer(PAGE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team.sim.yaml").write_text(block["scenario"], encoding="utf-8")
    done = CliRunner().invoke(app, block["words"].split())
    assert done.output == block["shown"]
    (tmp_path / "team.sim.yaml").write_text(block["scenario"].replace("6.01", "6.00"), encoding="utf-8")
    assert CliRunner().invoke(app, block["words"].split()).exit_code == 0


def test_the_page_names_every_member() -> None:
    """Of a story, of an entry, of what can be expected."""
    names = {*STORY, *STATE, *TimelineReader.MEMBERS}
    assert {name for name in names if f"`{name}" not in PAGE} == set()
    assert len(TimelineReader.MEMBERS) == len(Action.__args__)
