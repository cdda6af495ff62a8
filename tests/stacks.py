"""A whole stack for tests: run by the command an operator types, on free ports, in a home of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

DEADLINE_SECONDS = 180
"""Generous on purpose: these waits end on a condition, the deadline only ends a hang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One running stack."""

    home: Path
    env: dict[str, str]

    def cli(
        self, *arguments: str, check: bool = True, timeout_seconds: int = DEADLINE_SECONDS * 2
    ) -> subprocess.CompletedProcess[str]:
        """Run `stripemeter ...` against this stack; with `check`, a failure shows what it printed."""
        finished = subprocess.run(
            [sys.executable, "-m", "stripemeter.cli.main", *arguments],
            env=self.env,
            cwd=self.home,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )
        if check and finished.returncode != 0:
            raise AssertionError(
                f"stripemeter {' '.join(arguments)}: {finished.returncode}\n{finished.stdout}{finished.stderr}"
            )
        return finished

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        status: dict[str, Any] = json.loads(self.cli("status", "--json", check=False).stdout)
        return status

    @property
    def api_url(self) -> str:
        """Where the API listens."""
        return str(self.status()["urls"]["api"])

    @property
    def database_url(self) -> str:
        """The stack's database."""
        return str(self.status()["database_url"])

    def pid_of(self, service: str) -> int | None:
        """The pid of a service that runs, else None."""
        for found in self.status()["services"]:
            if found["name"] == service and found["state"] == "running":
                return int(found["pid"])
        return None

    def kill(self, service: str) -> None:
        """`kill -9` a service, and wait until the supervisor has put another in its place."""
        pid = self.pid_of(service)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pid_of(service) not in {None, pid}, f"{service} to be restarted")


@contextmanager
def running_stack(home: Path, **settings: str) -> Iterator[Stack]:
    """A healthy stack in `home` on free ports; stopped at the end, whatever happened."""
    # A setting of the shell that runs the tests must not leak into the stack.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STRIPE", "DAGSTER")) and name not in {"DATABASE_URL", "PROMETHEUS_MULTIPROC_DIR"}
    }
    ports = dict.fromkeys(("STRIPEMETER_API_PORT", "STRIPEMETER_DAGSTER_PORT", "STRIPEMETER_EMULATOR_PORT"), "0")
    stack = Stack(home=home, env={**inherited, "STRIPEMETER_HOME": str(home), **ports, **settings})
    home.mkdir(parents=True, exist_ok=True)
    try:
        stack.cli("up", "-d", "--wait")
        yield stack
    finally:
        stack.cli("down", check=False)


def wait_until(condition: Callable[[], bool], what: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
    """Return when the condition holds.

    Raises:
        TimeoutError: it did not within the deadline.
    """
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {deadline_seconds} s for {what}")
        time.sleep(0.1)


def is_folded(api_url: str) -> bool:
    """Whether every event the receiver answered for is in the counters."""
    try:
        answer = httpx2.get(f"{api_url}/health/ready", timeout=10)
        return answer.status_code == 200 and answer.json()["metrics"]["writerLag"] == 0
    except (httpx2.TransportError, KeyError):
        return False
