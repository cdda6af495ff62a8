"""The supervisor keeps small real services alive, in order, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stripemeter.runtime.processes import members
from stripemeter.runtime.stack_record import is_held
from tests.faults.runtime_waiting import DEADLINE_SECONDS, wait_until


@dataclass(kw_only=True)
class SmallStack:
    """One scenario of `small_stack.py` in a process of its own."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[str] = field(init=False)

    def start(self, scenario: str, *, allowed: tuple[str, ...] = ("first", "second", "third")) -> None:
        """Run the scenario; services outside `allowed` never become ready."""
        for name in allowed:
            self.allow(name)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("small_stack.py")), str(self.folder), scenario],
            env={**os.environ, "SMALL_STACK_MARK": self.mark},
            stderr=subprocess.PIPE,
            text=True,
        )

    def allow(self, name: str) -> None:
        """Let a service become ready."""
        (self.folder / f"allow-{name}").touch()

    @property
    def facts(self) -> list[str]:
        """What happened so far."""
        journal = self.folder / "journal"
        return journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []

    def pids(self, name: str) -> list[int]:
        """Every pid a service was started with, oldest first."""
        return [int(fact.split()[2]) for fact in self.facts if fact.startswith(f"starting {name} ")]

    def await_ready(self) -> None:
        """Wait until the supervisor says that everything is ready."""
        wait_until((self.folder / "ready").exists, "the small stack")

    def end(self) -> str:
        """SIGTERM, and what it said on its way out."""
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=DEADLINE_SECONDS)
        return said


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """A small stack that is not started yet; killed after the test if it still runs."""
    stack = SmallStack(folder=tmp_path)
    yield stack
    if stack.process.poll() is None:
        stack.process.kill()
        stack.process.communicate()
    wait_until(lambda: not members(stack.mark), "the guardian")


def test_stages_start_in_order_and_stop_in_reverse(stack: SmallStack) -> None:
    """A stage starts when the one before it is ready, and leaves before it."""
    stack.start("ordered", allowed=("second", "third"))
    wait_until(lambda: "started first" in stack.facts, "the first service")
    stack.allow("first")
    stack.await_ready()
    stack.end()

    facts = stack.facts
    assert facts.index("running first") < facts.index("started second")
    assert facts.index("running first") < facts.index("started third")
    assert max(facts.index("left second"), facts.index("left third")) < facts.index("left first")
    assert stack.process.returncode == 0
    assert members(stack.mark) == []


def test_a_killed_service_is_started_again_alone(stack: SmallStack) -> None:
    """kill -9 of one service: it comes back under another pid, the others keep theirs."""
    stack.start("ordered")
    stack.await_ready()
    os.kill(stack.pids("second")[0], signal.SIGKILL)

    wait_until(lambda: stack.facts.count("running second") == 2, "the restart")

    assert len(set(stack.pids("second"))) == 2
    assert len(stack.pids("first")) == len(stack.pids("third")) == 1
    stack.end()


def test_a_service_that_never_starts_fails_the_whole_start(stack: SmallStack) -> None:
    """After a few tries the start is given up with the end of that service's log, and everything else is stopped."""
    stack.start("broken")
    _, said = stack.process.communicate(timeout=DEADLINE_SECONDS)

    assert stack.process.returncode == 1
    assert "second cannot start" in said
    assert "no such flux capacitor" in said
    assert "left first" in stack.facts
    assert members(stack.mark) == []


def test_a_service_that_ignores_sigterm_is_killed_after_its_grace(stack: SmallStack) -> None:
    """A deaf service delays the end by its grace and no longer."""
    stack.start("deaf")
    stack.await_ready()
    stack.end()

    assert "left first" not in stack.facts
    assert "stopped first" in stack.facts
    assert members(stack.mark) == []


def test_grandchildren_in_sessions_of_their_own_are_swept(stack: SmallStack) -> None:
    """What a service left running (Dagster's run workers are such) ends with the stack."""
    stack.start("parent")
    stack.await_ready()
    assert len(members(stack.mark)) == 2
    stack.end()

    assert members(stack.mark) == []


@pytest.mark.parametrize("scenario", ["ordered", "parent", "deaf"])
def test_nothing_survives_a_killed_supervisor(stack: SmallStack, scenario: str) -> None:
    """kill -9 of the supervisor: the guardian ends everything, and holds the home until it has."""
    stack.start(scenario)
    stack.await_ready()
    assert is_held(stack.folder)
    stack.process.kill()
    stack.process.communicate()

    wait_until(lambda: not is_held(stack.folder), "the guardian's leave")

    assert members(stack.mark) == []
