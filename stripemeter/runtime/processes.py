"""What `/proc` says about processes that are not our children: who carries our mark, who is still the same process.

Belongs here: reading `/proc`, ending what carries a stack's mark. Does not: starting anything (`runtime.children`).

Standard library only: the guardian imports this module and must stay small.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

STACK_MARK = "STRIPEMETER_STACK"
"""Environment variable every process of a stack carries (a run worker inherits it); its value is unique per start."""
_POLL_SECONDS = 0.05


def started_ticks(pid: int) -> int | None:
    """Kernel start time of a live process, in clock ticks since boot; None when it is gone or a zombie.

    With the pid it names one process for ever: a reused pid has another start time.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields is not None and fields[0] != "Z" else None


def is_same_process(pid: int, ticks: int) -> bool:
    """Whether `pid` still is the process that started at `ticks`."""
    return started_ticks(pid) == ticks


def command_line(pid: int) -> list[str]:
    """Arguments of a process, as anybody may read them; empty when it is gone (or a kernel thread)."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).rstrip("\0").split("\0")
    except OSError:
        return []


def members(mark: str) -> list[int]:
    """Live processes that carry the mark of one stack, oldest pid first; never ourselves.

    A PostgreSQL backend overwrites its environment and cannot be found this way: it ends with its postmaster.
    """
    wanted = f"{STACK_MARK}={mark}".encode()
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sorted(pid for pid in found if pid != os.getpid() and started_ticks(pid) and _carries(pid, wanted))


def end_members(mark: str, *, grace_seconds: float, except_pids: frozenset[int] = frozenset()) -> None:
    """SIGTERM to whatever carries the mark, SIGKILL to what is left after the grace; returns when none is left."""
    remaining = _signal_members(mark, signal.SIGTERM, except_pids)
    deadline = time.monotonic() + grace_seconds
    while remaining:
        is_late = time.monotonic() >= deadline
        time.sleep(_POLL_SECONDS)
        remaining = _signal_members(mark, signal.SIGKILL if is_late else None, except_pids)


def end_process(pid: int, ticks: int, signals: list[signal.Signals], *, seconds_each: float) -> bool:
    """Send each signal in turn until the process is gone; False when it outlived them all."""
    for number in signals:
        if not is_same_process(pid, ticks):
            return True
        _kill(pid, number)
        deadline = time.monotonic() + seconds_each
        while is_same_process(pid, ticks):
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)
    return not is_same_process(pid, ticks)


def _signal_members(mark: str, number: signal.Signals | None, except_pids: frozenset[int]) -> list[int]:
    pids = [pid for pid in members(mark) if pid not in except_pids]
    for pid in pids:
        if number is not None:
            _kill(pid, number)
    return pids


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it left between the look and the signal
        os.kill(pid, number)


def _carries(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's: then it is not of a stack we could end
        return False


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
