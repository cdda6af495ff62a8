"""The Stripe emulator as a test helper: a real process on a free port.

`from tests.emulator import emulator, emulator_server` in a conftest gives the fixtures; `start_emulator` is for tests
that kill and restart one.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stripe

stripe.enable_telemetry = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningEmulator:
    """One emulator process; `key` is an account of this test's own."""

    url: str
    key: str
    process: subprocess.Popen[bytes]

    def client(self, key: str | None = None) -> stripe.StripeClient:
        """The official SDK, pointed here, without retries of its own."""
        bases: Any = dict.fromkeys(("api", "files", "connect", "meter_events"), self.url)
        return stripe.StripeClient(
            key or self.key,
            base_addresses=bases,
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=10),
        )

    def control(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - any JSON
        """One call of the control plane, e.g. `control("POST", "/clock", {"freeze": 1})`."""
        request = urllib.request.Request(
            f"{self.url}/_emu{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def freeze(self, now: datetime) -> None:
        """Stop its clock."""
        self.control("POST", "/clock", {"freeze": int(now.astimezone(UTC).timestamp())})

    def fault(self, *faults: dict[str, Any]) -> None:
        """Replace its script of faults."""
        self.control("POST", "/faults", list(faults))

    def ledger(self) -> list[dict[str, Any]]:
        """Every meter event it received."""
        events: list[dict[str, Any]] = self.control("GET", "/ledger")["events"]
        return events

    def journal(self) -> list[dict[str, Any]]:
        """Every request it received."""
        requests: list[dict[str, Any]] = self.control("GET", "/journal")["requests"]
        return requests

    def kill(self) -> None:
        """End it at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def start_emulator(
    *,
    state: Path | None = None,
    port: int | None = None,
    key: str | None = None,
    cwd: Path | None = None,
    observed: Path | None = None,
) -> RunningEmulator:
    """A new emulator process that answers; `cwd` chooses another copy of the package, `observed` its knobs."""
    chosen = port or _free_port()
    arguments = [sys.executable, "-m", "stripe_emulator", "--port", str(chosen)]
    if state is not None:
        arguments += ["--state", str(state)]
    if observed is not None:
        arguments += ["--observed", str(observed)]
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=cwd or Path(__file__).parents[1]
    )
    running = RunningEmulator(
        url=f"http://127.0.0.1:{chosen}", key=key or f"sk_test_{uuid.uuid4().hex}", process=process
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            running.control("GET", "/health")
        except (urllib.error.URLError, ConnectionError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the emulator did not start on port {chosen}") from error
            time.sleep(0.02)  # its socket is the only sign it gives
        else:
            return running


@pytest.fixture(scope="session")
def emulator_server() -> Iterator[RunningEmulator]:
    """One emulator per test process."""
    running = start_emulator()
    yield running
    running.process.terminate()
    running.process.wait(10)


@pytest.fixture
def emulator(emulator_server: RunningEmulator) -> RunningEmulator:
    """The emulator with nothing in it, its clock real, and an account of this test's own."""
    emulator_server.control("DELETE", "/state")
    return RunningEmulator(url=emulator_server.url, key=f"sk_test_{uuid.uuid4().hex}", process=emulator_server.process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
