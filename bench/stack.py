"""A whole stack of its own: free ports, a fresh home, ended with its block.

Belongs here: `stripemeter up` as an operator types it, its end, and the stack's processes in `/proc`.
Does not: measuring.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.context import Context
from bench.proc import family
from stripemeter.errors import Unavailable
from stripemeter.runtime.processes import members
from stripemeter.runtime.stack_record import StackRecord, is_held, read_record

_STOP_SECONDS = 180
_NO_EMULATOR = {"STRIPE_TEST_SECRET_KEY": "sk_test_bench", "STRIPEMETER_STRIPE_API_BASE": "http://127.0.0.1:9"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A running stack, and how long its start took."""

    home: Path
    record: StackRecord
    health: str
    start_seconds: float

    def pids(self) -> set[int]:
        """Every live process of it: marked ones, the supervisor, PostgreSQL and whatever descends from them."""
        postgres = {self.record.postgres[0]} if self.record.postgres is not None else set()
        found = {*members(self.record.mark), self.record.supervisor_pid} | postgres
        return family(found)


def has_emulator() -> bool:
    """Whether this tree has the Stripe emulator."""
    return importlib.util.find_spec("stripe_emulator") is not None


@contextmanager
def stack(context: Context) -> Iterator[Stack]:
    """A stack from a fresh home to healthy; stopped and removed afterwards.

    Raises:
        Unavailable: it did not become healthy, or did not stop.
    """
    home = Path(tempfile.mkdtemp(prefix="home-", dir=context.scratch))
    environment = _environment(home)
    started = time.monotonic()
    try:
        _stripemeter(context, environment, "up", "-d", "--wait", "--timeout", "240")
        record = read_record(home)
        if record is None:
            raise Unavailable("the stack left no record")
        health = _await_ready(record.urls["api"])
        yield Stack(home=home, record=record, health=health, start_seconds=time.monotonic() - started)
    finally:
        _stop(home)
        shutil.rmtree(home, ignore_errors=True)


def _stop(home: Path) -> None:
    """As Ctrl-C would: not through the command line, which may be what is broken."""
    record = read_record(home)
    if record is None or not record.is_supervised:
        return
    os.kill(record.supervisor_pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while is_held(home):
        if time.monotonic() > deadline:
            raise Unavailable(f"the stack of {home} does not stop: see its logs")
        time.sleep(0.1)


def _await_ready(api: str) -> str:
    """Until /health/ready answers 200; the status it gives (healthy, or degraded: serving, with something to mend)."""
    deadline = time.monotonic() + 60
    target = urlsplit(api)
    answer = b""
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=5)
        connection.request("GET", "/health/ready")
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status == http.client.OK:
            return str(json.loads(answer)["status"])
        time.sleep(0.05)
    raise Unavailable(f"the stack is not ready: {answer!r}")


def _stripemeter(context: Context, environment: dict[str, str], *arguments: str) -> None:
    finished = subprocess.run(
        [context.python, "-m", "stripemeter.cli.main", *arguments],
        check=False,
        env=environment,
        cwd=context.scratch,  # no .env of a developer's
        capture_output=True,
        text=True,
        timeout=400,
    )
    if finished.returncode != 0:
        raise Unavailable(f"stripemeter {' '.join(arguments)} failed:\n{finished.stdout}{finished.stderr}"[-4000:])


def _environment(home: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STRIPE", "DATABASE_URL", "DAGSTER", "API_"))
    }
    own = {
        "STRIPEMETER_HOME": str(home),
        "STRIPEMETER_API_PORT": "0",
        "STRIPEMETER_DAGSTER_PORT": "0",
        "STRIPEMETER_EMULATOR_PORT": "0",
        "PYTHONSAFEPATH": "1",
    }
    return {**kept, **own, **({} if has_emulator() else _NO_EMULATOR)}
