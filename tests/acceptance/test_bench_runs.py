"""`python -m bench --quick`: every bench runs on this tree and produces rows. What they say is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHES

ROOT = Path(__file__).resolve().parents[2]
STACKS = ("start", "idle", "freshness", "late-through-dagster", "to-stripe")


@pytest.mark.parametrize("name", [name for name in BENCHES if name not in STACKS])
def test_a_bench_runs(name: str, tmp_path: Path) -> None:
    """Quick sizes, its own server: exit 0 and a row of its own."""
    _run(name, tmp_path)


@pytest.mark.stack
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", STACKS)
def test_a_bench_of_a_whole_stack_runs(name: str, tmp_path: Path) -> None:
    """The same with a stack of its own."""
    _run(name, tmp_path)


def _run(name: str, scratch: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "bench", name, "--quick", "--scratch", str(scratch)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    header, *rows = finished.stdout.splitlines()
    assert "ratio" in header
    assert len(rows) > 1, "a row and the verdict"
