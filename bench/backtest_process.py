"""A process of its own that backtests the bench's lake: `python -m bench.backtest_process URL LAKE MONTHS`.

Belongs here: the plans, the process. Does not: the lake (`backtest_lake`), what is too much (`backtest`).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.backtest_lake import FIRST, METRICS, TENANT, last_month
from bench.peak import peak_bytes
from stripemeter.pipeline.backtest_files import write_reports
from stripemeter.pipeline.backtests import run_backtest
from stripemeter.pricing.plans import parse_plan
from stripemeter.store.lake import LocalLake
from stripemeter.store.postgres import open_pool

_TIERS = [{"upTo": 1_000, "unitPrice": 0}, {"upTo": 10_000, "unitPrice": "0.012"}, {"unitPrice": "0.009"}]
_PLANS = [
    {"name": "flat", "currency": "USD", "metrics": {name: {"model": "flat", "unitPrice": "0.01"} for name in METRICS}},
    {
        "name": "graduated",
        "currency": "USD",
        "metrics": {name: {"model": "graduated", "tiers": _TIERS} for name in METRICS},
        "fees": [{"name": "platform", "amount": 10}],
    },
    {
        "name": "volume",
        "currency": "USD",
        "metrics": {name: {"model": "volume", "tiers": _TIERS} for name in METRICS},
        "minimums": [{"name": "floor", "amount": 20}],
    },
]


def main() -> int:
    """Price the months by the prices in force and three plans, write reports; print what it took as JSON."""
    url, root, months = sys.argv[1:]
    with open_pool(url, max_size=2) as pool, tempfile.TemporaryDirectory() as out:
        started, worked = time.perf_counter(), time.process_time()
        backtest = run_backtest(
            pool,
            LocalLake(root=Path(root)),
            tenant_id=TENANT,
            candidates=[parse_plan(plan) for plan in _PLANS],
            baseline=None,
            first=FIRST,
            last=last_month(int(months)),
            now=datetime.now(UTC),
        )
        write_reports(backtest, Path(out))
        seconds, processor = time.perf_counter() - started, time.process_time() - worked
    plans = [backtest.baseline, *(comparison.candidate for comparison in backtest.comparisons)]
    totals = {plan.name: plan.totals()["USD"] for plan in plans}
    found = {
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_bytes": peak_bytes(),
        "customers": backtest.customers,
        "totals": totals,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
