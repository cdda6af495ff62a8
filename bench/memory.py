"""recount-memory: how much memory a recount of a whole ledger takes, day by day.

Belongs here: this bench. Does not: the process that is measured (`peak`).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bench.context import Context, say
from bench.ledger import HEAVY_DAY
from bench.measure import Budget, Row, series, value_at_most
from stripemeter.errors import Unavailable

_ROOT = Path(__file__).resolve().parents[1]
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peak:
    """What a recount of some days took."""

    events: int
    largest_day: int
    peak_bytes: int


def recount_memory(context: Context) -> list[Row]:
    """Peak memory of a process that recounts all days of the big ledger, of the heavy one, and of nothing."""
    scale = context.scale
    url, heavy_url = context.ledger(), context.ledger(scale.heavy_ledger)
    rows = [_row("recount of no day: the program itself", _recount(context, url, ()), None)]
    for what, where, days, budget in (
        ("recount_days of every day", url, scale.ledger.days, value_at_most(2)),
        ("recount_days of every day", heavy_url, scale.heavy_ledger.days, value_at_most(3)),
        ("recount of the heaviest day alone", heavy_url, (HEAVY_DAY,), value_at_most(2)),
    ):
        peak = _recount(context, where, days)
        say(f"recount-memory: {peak.events:,} events, {peak.peak_bytes / _GIB:.2f} GiB")
        rows.append(_row(f"{what}, {peak.events:,} events, {peak.largest_day:,} on one day", peak, budget))
    return rows


def _row(what: str, peak: _Peak, budget: Budget | None) -> Row:
    return Row(
        bench="recount-memory",
        what=what,
        unit="GiB",
        system=series([peak.peak_bytes / _GIB]),
        budget=budget,
        note="greatest resident set (VmHWM) of a process of its own; PostgreSQL's is not in it",
    )


def _recount(context: Context, url: str, days: Sequence[date]) -> _Peak:
    finished = subprocess.run(
        [context.python, "-m", "bench.peak", url, *(day.isoformat() for day in days)],
        check=False,
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    if finished.returncode != 0:
        raise Unavailable(f"the recount failed:\n{finished.stderr[-4000:]}")
    return _Peak(**json.loads(finished.stdout.splitlines()[-1]))
