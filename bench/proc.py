"""What `/proc` says of processes: families, processor time, memory.

Belongs here: reading. Does not: what the numbers mean.

Processor time per event hardly changes when other programs use the machine, where rates swing; so it stands beside
them and says where a missed budget goes.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pids: Iterable[int]) -> set[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = set(pids)
    waiting = list(found)
    while waiting:
        new = set(children.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its reaped children; 0 when it is gone."""
    fields = _stat(pid)
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS if fields else 0.0


def reaped_cpu_seconds() -> float:
    """Processor time of our own children that have ended: load generators."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pss_mb(pid: int) -> float:
    """Proportional set size in MB (10^6 bytes); 0 when it is gone or another user's."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024 / 1e6


def parent(pid: int) -> int:
    """The parent's pid; 0 when the process is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
