"""The soak's pusher: a process that pushes when told to, and can be made to kill itself, or the database, at a point.

`python -m tests.faults.soak_worker VARIANT URL DATABASE_URL` reads one order a line,
`{"now", "key", "seam", "when", "nth", "victim"}`, and answers each with a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from psycopg_pool import ConnectionPool

from stripemeter.billing import BillingSink, stripe_sink
from stripemeter.errors import StripeMeterError
from stripemeter.pipeline.push import push_usage
from stripemeter.store.postgres import open_pool
from tests.emulator import RunningEmulator
from tests.faults.naive_push import forget_to_read_back, push_naively
from tests.faults.seams import Point, hook
from tests.stripe_bench import NO_PAUSE, shadow_sink

TIMEOUT_SECONDS = 0.5
"""How long it waits for an answer: shorter than the soak's delays, so that requests outlive their senders."""


def main(variant: str, url: str, database_url: str) -> None:
    """Push as ordered until the input ends."""
    stripe_sink.READ_TIMEOUT_SECONDS = TIMEOUT_SECONDS  # type: ignore[assignment] # an int, for Stripe itself
    if variant == "blind-resend":
        forget_to_read_back()
    sinks: dict[str, BillingSink] = {}
    with open_pool(database_url, max_size=6) as pool:
        for line in sys.stdin:
            order = json.loads(line)
            if order["key"] not in sinks:
                sinks[order["key"]] = shadow_sink(RunningEmulator(url=url, key=order["key"], process=None))  # type: ignore[arg-type] # not ours
            unhook = _hook(order)
            told = _push(pool, sinks[order["key"]], variant, datetime.fromisoformat(order["now"]))
            unhook()
            sys.stdout.write(f"{told}\n")
            sys.stdout.flush()


def _push(pool: ConnectionPool, sink: BillingSink, variant: str, now: datetime) -> str:
    try:
        if variant in ("identifier-from-total", "row-after-send"):
            push_naively(pool, sink, now=now, is_name_of_total=variant == "identifier-from-total")
            return "pushed"
        report = push_usage(pool, sink, now=now, retries=NO_PAUSE)
    except StripeMeterError as error:
        return f"failed: {type(error).__name__}"
    return f"pushed {report.accepted + report.already_accepted}"


def _hook(order: dict[str, Any]) -> Callable[[], None]:
    if order.get("seam") is None:
        return lambda: None

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(order["victim"] or os.getpid(), signal.SIGKILL)

    return hook(Point(seam=order["seam"], when=order["when"], nth=order["nth"]), kill)


if __name__ == "__main__":
    main(*sys.argv[1:])
