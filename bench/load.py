"""The load generator: closed loop, keep-alive, every event with a key of its own.

Belongs here: driving `wrk` (or the asyncio stand-in) and reading its figures. Does not: what is being driven.

`wrk` is C and leaves the cores to what is measured. Without it a generator in Python takes so much of two cores that
ratios between slow and fast servers flatten: the report names which one was used.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stripemeter.errors import InvariantBroken

_SCRIPT = Path(__file__).parent / "events.lua"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one slot of load saw; latencies in milliseconds, at saturation."""

    requests: int
    seconds: float
    p50: float
    p95: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def generator() -> str:
    """Which generator this machine has."""
    return "wrk" if shutil.which("wrk") else "asyncio (install wrk for figures that count)"


def drive(url: str, *, connections: int, seconds: float, events: int) -> Load:
    """POST bodies of `events` fresh events over `connections` keep-alive connections for `seconds`.

    Raises:
        InvariantBroken: an answer was not 2xx, a connection broke, or nothing was answered.
    """
    salt = secrets.token_hex(10)
    ts = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    wrk = shutil.which("wrk")
    if wrk is not None:
        command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s", "-s"]
        command += [str(_SCRIPT), url, "--", salt, str(events), ts]
    else:
        command = [
            sys.executable,
            "-m",
            "bench.asyncio_load",
            url,
            str(connections),
            str(seconds),
            salt,
            str(events),
            ts,
        ]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds + 60)
    if finished.returncode != 0:
        raise InvariantBroken(f"the load generator failed: {finished.stdout}{finished.stderr}")
    figures = json.loads(finished.stdout.splitlines()[-1])
    if figures["bad"] or not figures["requests"]:
        raise InvariantBroken(f"{url}: not every answer was 2xx: {figures}")
    return Load(
        requests=figures["requests"],
        seconds=figures["seconds"],
        p50=figures["p50"],
        p95=figures["p95"],
        p99=figures["p99"],
    )
