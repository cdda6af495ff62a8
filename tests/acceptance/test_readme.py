"""The README's five minutes, run literally as printed (with this stack's port)."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.stacks import Stack

pytestmark = [pytest.mark.stack, pytest.mark.xdist_group("stack"), pytest.mark.timeout(600)]

README = Path(__file__).resolve().parents[2] / "README.md"
_WALK = re.compile(r"## Five minutes\n(?P<text>.*?)\n## ", re.DOTALL)
_BLOCK = re.compile(r"```(?P<kind>sh|json)\n(?P<text>.*?)```", re.DOTALL)


def test_every_command_of_the_five_minutes_answers_as_printed(stack: Stack) -> None:
    """Each curl succeeds, and prints at least what the JSON block under it shows."""
    walk = _WALK.search(README.read_text(encoding="utf-8"))
    assert walk is not None
    printed = ""
    compared = 0
    for block in _BLOCK.finditer(walk["text"]):
        if block["kind"] == "sh":
            script = block["text"].replace("http://127.0.0.1:3000", stack.api_url)
            finished = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", script], check=False, capture_output=True, text=True, timeout=60
            )
            assert finished.returncode == 0, f"{script}\n{finished.stderr}"
            printed = finished.stdout
            assert "problem+json" not in printed
            assert '"status":4' not in printed.replace(" ", ""), printed
        else:
            assert _shows(json.loads(printed), json.loads(block["text"])), f"expected {block['text']}got {printed}"
            compared += 1
    assert compared >= 4
    assert "process_" in printed  # the last command greps the metrics the original's README promised
    assert "http_request_duration" in printed


def _shows(answer: object, expected: object) -> bool:
    """Whether everything printed in the README is in the answer; the answer may say more."""
    if isinstance(expected, dict) and isinstance(answer, dict):
        return all(name in answer and _shows(answer[name], value) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(answer, list):
        return len(answer) == len(expected) and all(map(_shows, answer, expected))
    return answer == expected
