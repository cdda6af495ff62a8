"""`stripemeter sim`: exit statuses, results, and reports against what is expected now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stripemeter.cli.main import app

_SCENARIO = """
metadata: {name: "calls <b>"}
inputs:
  customerId: acme
  periodStart: 2026-01-01
  periodEnd: 2026-02-01
  usageItems:
    - {metric: calls, quantity: 25, priceConfig: {model: flat, currency: USD, unitPrice: 0.10}}
expected: {total: 2.50}
"""
_OTHER = """{"metadata": {"name": "story"}, "start": "2026-01-01", "timeline": [
\t{"generate": {"metric": "jobs", "count": 9, "quantity": {"least": 1, "most": 99}, "until": "2026-01-02"}},
\t{"at": "P1D", "expect": {"events": {"accepted": 9}}}]}"""

Sim = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenarios, one in a folder below, and a file that is none."""
    (tmp_path / "scenarios" / "below").mkdir(parents=True)
    (tmp_path / "scenarios" / "calls.sim.yaml").write_text(_SCENARIO, encoding="utf-8")
    (tmp_path / "scenarios" / "below" / "story.sim.json").write_text(_OTHER, encoding="utf-8")
    (tmp_path / "scenarios" / "notes.yaml").write_text("no: scenario", encoding="utf-8")
    return tmp_path / "scenarios"


@pytest.fixture
def sim(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Sim:
    """Types a `sim` command beside the scenarios."""
    monkeypatch.chdir(folder.parent)
    return lambda *words: CliRunner().invoke(app, ["sim", *words])


def _rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_what_is_as_expected_exits_0_and_is_written_down(sim: Sim, folder: Path) -> None:
    """YAML and JSON, the results beside each other as the scenarios are; twice the same bytes."""
    assert sim("validate", "--dir", "scenarios").exit_code == 0
    ran = sim("run", "--dir", "scenarios")
    assert (ran.exit_code, ran.output.splitlines()[-1]) == (0, "Total: 2 • OK: 2 • Diffs: 0")
    result = folder.parent / "results" / "below" / "story.result.json"
    first = result.read_bytes()
    assert sim("run", "--scenario", "scenarios/below/story.sim.json", "--out", "results/below").exit_code == 0
    assert result.read_bytes() == first
    sim("run", "--scenario", "scenarios/below/story.sim.json", "--out", "results/below", "--seed", "2")
    assert result.read_bytes() != first
    assert sim("report", "--dir", "scenarios", "--fail-on-diff").exit_code == 0  # of the seed that was run


def test_a_wrong_expectation_exits_1_and_is_named(sim: Sim, folder: Path) -> None:
    """When run, and in a report of what was recorded before."""
    assert sim("run", "--dir", "scenarios").exit_code == 0
    _rewrite(folder / "calls.sim.yaml", "total: 2.50", "total: 2.60")
    told = "expected.total: expected 2.6, got 2.5 (-0.1)"
    report = sim("report", "--dir", "scenarios")
    assert (report.exit_code, told in report.output) == (0, True)
    assert sim("report", "--dir", "scenarios", "--fail-on-diff").exit_code == 1
    ran = sim("run", "--dir", "scenarios")
    assert (ran.exit_code, told in ran.output) == (1, True)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("total: 2.50", "totl: 2.50", "expected.totl: no such member"),
        ("quantity: 25", "quantity: many", "inputs.usageItems[0].quantity: must be a number"),
        ("quantity: 25", "quantity: 25, quantity: 26", "stands twice"),
        ("metadata", "- metadata", "cannot be read as YAML"),
    ],
)
def test_what_cannot_be_used_exits_2(sim: Sim, folder: Path, old: str, new: str, told: str) -> None:
    """The others are played all the same."""
    _rewrite(folder / "calls.sim.yaml", old, new)
    for command in ("validate", "run"):
        done = sim(command, "--dir", "scenarios")
        assert done.exit_code == 2
        assert told in done.output
        assert "story" in done.output


def test_a_report_of_another_story_or_of_none_exits_2(sim: Sim, folder: Path) -> None:
    """What was recorded says nothing about what would be seen now."""
    assert sim("report", "--dir", "scenarios").exit_code == 2
    sim("run", "--dir", "scenarios")
    _rewrite(folder / "calls.sim.yaml", "quantity: 25", "quantity: 26")
    report = sim("report", "--dir", "scenarios")
    assert report.exit_code == 2
    assert "is of another story than the scenario tells now: run it again" in report.output


def test_a_report_is_json_markdown_or_one_page(sim: Sim, folder: Path) -> None:
    """The original's JSON; what scenarios are called is escaped; a page loads nothing."""
    sim("run", "--dir", "scenarios")
    _rewrite(folder / "calls.sim.yaml", "total: 2.50", "total: 2.60")
    document = json.loads(sim("report", "--dir", "scenarios", "--format", "json").output)
    assert document["summary"] == {"total": 2, "diffs": 1, "ok": 1, "errors": 0}
    assert [(each["scenario"], len(each["diffs"])) for each in document["results"]] == [("story", 0), ("calls <b>", 1)]
    assert document["results"][1]["diffs"][0] == {
        "path": "expected.total",
        "instant": None,
        "actual": "2.5",
        "expected": "2.6",
        "diff": "-0.1",
    }
    markdown = sim("report", "--dir", "scenarios", "--format", "md").output
    assert "| expected.total | 2.6 | 2.5 | -0.1 |  |" in markdown
    assert r"calls \<b\>" in markdown
    sim("report", "--dir", "scenarios", "--format", "html", "--out", "out/report.html")
    page = (folder.parent / "out" / "report.html").read_text(encoding="utf-8")
    assert "Total: 2 • OK: 1 • Diffs: 1" in page
    assert "calls &lt;b&gt;" in page
    assert not any(word in page for word in ("<script", "http", "src=", "<link"))


@pytest.mark.parametrize("words", [[], ["--dir", "scenarios", "--scenario", "x"], ["--dir", "nowhere"]])
def test_what_to_play_must_be_said_once(sim: Sim, words: list[str]) -> None:
    """A folder without scenarios is no success."""
    assert sim("run", *words).exit_code == 2
