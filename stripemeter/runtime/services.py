"""What the supervisor runs: a service, a stage of services, and how to ask whether one is ready.

Belongs here: the shape of a service and the probes. Does not: which services a stack has (`runtime.stack`), restarting.
"""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stripemeter.runtime.children import spawn

_PROBE_SECONDS = 1
# Source: RFC 9113, 3.4 (both sides begin with SETTINGS) and 4.1 (frame header: length 3, type 1, flags 1, stream 4).
_FRAME_HEADER_BYTES = 9
_SETTINGS_FRAME = 4
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS_FRAME, 0, 0, 0, 0, 0])


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


def speaks_http2(port: int) -> Callable[[], bool]:
    """A probe: a gRPC server serves on the loopback port.

    It binds the port before it loads any code, so an accepted connection says nothing; its first HTTP/2 frame does.
    """

    def is_ready() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_PROBE_SECONDS) as connection:
                connection.sendall(_HTTP2_PREFACE)
                header = connection.recv(_FRAME_HEADER_BYTES)
        except OSError:
            return False
        return len(header) == _FRAME_HEADER_BYTES and header[3] == _SETTINGS_FRAME

    return is_ready
