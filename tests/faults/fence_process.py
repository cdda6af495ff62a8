"""The fence after a restore, in a process of its own that is killed at a point of it.

`python -m tests.faults.fence_process '{"url", "key", "database_url", "now", "seam", "when", "nth"}'`; `kill_fence` runs
one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from stripemeter.billing.stripe_sink import StripeSink
from stripemeter.pipeline.restore_fence import FenceOrder, restore_fence
from stripemeter.store import push_epochs, push_imports
from stripemeter.store.postgres import open_pool
from tests.emulator import RunningEmulator
from tests.faults.seams import SEAMS, Point, hook
from tests.stripe_bench import shadow_sink

ROOT = Path(__file__).parents[2]
FENCE_SEAMS = {
    "start epoch": (push_epochs, "start_epoch"),
    "read days": (StripeSink, "read_daily_quantities"),
    "import": (push_imports, "apply_changes"),
    "open epoch": (push_epochs, "open_epoch"),
}
"""Every step of `pipeline.restore_fence` that commits or reads Stripe."""


def kill_fence(emulator: RunningEmulator, database_url: str, *, now: datetime, point: Point) -> None:
    """Fence, and die at the point; it must not come to its end."""
    order = {"url": emulator.url, "key": emulator.key, "database_url": database_url, "now": now.isoformat()}
    order |= {"seam": point.seam, "when": point.when, "nth": str(point.nth)}
    command = [sys.executable, "-m", "tests.faults.fence_process", json.dumps(order)]
    assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == -signal.SIGKILL


def main(order: dict[str, str]) -> None:
    """Fence, with the end of this process at its point."""
    SEAMS.update(FENCE_SEAMS)
    point = Point(seam=order["seam"], when="after" if order["when"] == "after" else "before", nth=int(order["nth"]))
    hook(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
    emulator = RunningEmulator(url=order["url"], key=order["key"], process=None)  # type: ignore[arg-type] # not ours
    with open_pool(order["database_url"]) as pool:
        restore_fence(
            pool,
            [shadow_sink(emulator)],
            order=FenceOrder(actor="ann", reason="disk lost"),
            gone_back="",
            now=datetime.fromisoformat(order["now"]),
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
