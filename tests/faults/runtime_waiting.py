"""Waiting on conditions, and finding what a stack left behind, for the tests of the runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_SECONDS = 120
"""Generous: a condition that is not met by then never will be. A passing test waits for none of it."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return once the condition is true; fail naming `what` after `DEADLINE_SECONDS`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS} s for: {what}"
        time.sleep(0.05)


def processes_of(home: Path) -> list[str]:
    """Every live process that names the directory in its environment or arguments, as `pid arguments`."""
    wanted = str(home).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            is_zombie = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[
                0
            ] == "Z"
            if not is_zombie and (wanted in arguments or wanted in (entry / "environ").read_bytes()):
                found.append(f"{entry.name} {arguments.replace(bytes(1), b' ').decode(errors='replace')}")
        except OSError:  # it left while we looked
            continue
    return found
