"""A push, or a look at error reports or invoices, in a process of its own that dies, or waits, at a point of it.

`python -m tests.faults.push_process '{"url", "key", "database_url", "now", "verb", "seam", "when", "nth", "act"}'`.
With `"act": "die"` it kills itself with SIGKILL there; with `"hold"` it says `held` and goes on when a line comes in;
without a seam it is a plain push. `PushProcess` starts one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Literal

from stripemeter.billing.sink import Transport
from stripemeter.pipeline.closing import close_invoices
from stripemeter.pipeline.push import push_usage
from stripemeter.pipeline.push_doubts import settle_doubts
from stripemeter.pipeline.stripe_error_reports import read_reports
from stripemeter.store.postgres import open_pool
from tests.emulator import RunningEmulator
from tests.faults.seams import Point, hook
from tests.stripe_bench import NO_PAUSE, shadow_sink

ROOT = Path(__file__).parents[2]
Act = Literal["die", "hold"]
Verb = Literal["push", "close", "settle reports"]


class PushProcess:
    """One push, running."""

    def __init__(
        self,
        emulator: RunningEmulator,
        database_url: str,
        *,
        now: datetime,
        point: Point | None = None,
        act: Act = "die",
        verb: Verb = "push",
        transport: Transport = "v1",
    ) -> None:
        order = {"url": emulator.url, "key": emulator.key, "database_url": database_url, "now": now.isoformat()}
        order |= {"verb": verb, "transport": transport}
        if point is not None:
            order |= {"seam": point.seam, "when": point.when, "nth": str(point.nth), "act": act}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.push_process", json.dumps(order)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait_held(self) -> None:
        """Return when it waits at its point."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def go_on(self) -> None:
        """Let it leave its point, and end."""
        self.process.communicate(b"\n", timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.communicate(timeout=60)

    def wait_dead(self) -> None:
        """Return when it has killed itself at its point; it must not come to its end."""
        self.process.communicate(timeout=60)
        assert self.process.returncode == -signal.SIGKILL


def main(order: dict[str, str]) -> None:
    """Push, settle reports, or close under control, with what was ordered at its point."""
    if "seam" in order:
        point = Point(seam=order["seam"], when="after" if order["when"] == "after" else "before", nth=int(order["nth"]))
        hook(point, _die if order["act"] == "die" else _hold)
    emulator = RunningEmulator(url=order["url"], key=order["key"], process=None)  # type: ignore[arg-type] # not ours
    now, sink = datetime.fromisoformat(order["now"]), shadow_sink(emulator, transport=_transport(order))
    with open_pool(order["database_url"]) as pool:
        if order["verb"] == "close":
            close_invoices(pool, sink, now=now, control="control")
        elif order["verb"] == "settle reports":
            read_reports(pool, sink, now=now)
            settle_doubts(pool, sink, now=now)
        else:
            push_usage(pool, sink, now=now, retries=NO_PAUSE)


def _transport(order: dict[str, str]) -> Transport:
    return "v2_stream" if order["transport"] == "v2_stream" else "v1"


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hold() -> None:
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
