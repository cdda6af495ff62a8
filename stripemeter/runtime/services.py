"""What the supervisor runs: a service, a stage of services, and how to ask whether one is ready.

Belongs here: the shape of a service and the probes. Does not: which services a stack has (`runtime.stack`), restarting.
"""

from __future__ import annotations

import http.client
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stripemeter.runtime import ports
from stripemeter.runtime.children import spawn

_PROBE_SECONDS = 2


def _nothing() -> None:
    """What a stage does around its services unless it says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process to keep alive.

    Args:
        name: unique in the stack; also names its log.
        launch: starts it as a direct child and returns at once. Raises a StripeMeterError when it cannot start now.
        is_ready: a quick probe, asked only while the process is alive and until it first says yes.
        log: where its output goes.
        url: what to show an operator; None when there is nothing to visit.
        stop_signal: how it is asked to leave.
        last_signal: how it is made to leave when the grace is over, or the operator will not wait.
        grace_seconds: how long it may take to leave by itself.
        start_seconds: how long it may take to become ready the first time.
    """

    name: str
    launch: Callable[[], subprocess.Popen[bytes]]
    is_ready: Callable[[], bool]
    log: Path
    url: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    last_signal: signal.Signals = signal.SIGKILL
    grace_seconds: float = 15
    start_seconds: float = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Services that start together, once every earlier stage is ready and `before` has returned.

    Args:
        services: started at once, stopped at once.
        before: work that must precede them (migrations); a StripeMeterError from it fails the start.
        after: work that follows their end, also when they never started (ending what they left behind).
    """

    services: Sequence[Service]
    before: Callable[[], None] = _nothing
    after: Callable[[], None] = _nothing


def command(
    argv: Sequence[str], *, env: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()
) -> Callable[[], subprocess.Popen[bytes]]:
    """A launcher of one command whose output is appended to the log."""

    def launch() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return spawn(argv, log=output, env=env, pass_fds=pass_fds)

    return launch


def answers_ok(host: str, port: int, path: str) -> Callable[[], bool]:
    """A probe: GET answers 200."""

    def is_ready() -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=_PROBE_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return is_ready


def accepts(port: int) -> Callable[[], bool]:
    """A probe: something accepts loopback connections on the port."""
    return lambda: ports.answers(port)
