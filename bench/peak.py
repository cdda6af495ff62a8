"""A process of its own that recounts days and says how much memory it took: `python -m bench.peak URL DAY ...`.

Belongs here: the process. Does not: which days of which ledger, what is too much (`memory`).
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path

from stripemeter.pipeline.recount_days import FailedDay, recount_days
from stripemeter.store.postgres import open_pool


def main() -> int:
    """Print {"events", "largest_day", "peak_bytes"} as JSON; 1 when a day failed."""
    url, *named = sys.argv[1:]
    events = largest = 0
    with open_pool(url, max_size=2) as pool:
        for recounted in recount_days(pool, [date.fromisoformat(day) for day in named]):
            if isinstance(recounted, FailedDay):
                print(recounted, file=sys.stderr)
                return 1
            events += recounted.events
            largest = max(largest, recounted.events)
    print(json.dumps({"events": events, "largest_day": largest, "peak_bytes": peak_bytes()}))
    return 0


def peak_bytes() -> int:
    """The greatest resident set of this program: not of ru_maxrss, which begins with that of whoever started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


if __name__ == "__main__":
    sys.exit(main())
