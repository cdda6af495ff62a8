"""`python -m bench [NAME ...]`: measure, print the table, save, render RESULTS.md."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from bench import (
    backtest,
    bulk,
    fold_growth,
    growth,
    ingest,
    lake,
    late_days,
    live_read,
    memory,
    pricing,
    pushing,
    recounting,
    report,
    whole_stack,
)
from bench.context import QUICK, Context, Scale, open_context, say
from bench.load import generator
from bench.measure import Row, Verdict

BENCHES: dict[str, Callable[[Context], list[Row]]] = {
    "ingest-single": ingest.ingest_single,
    "ingest-100": ingest.ingest_100,
    "ingest-1000": ingest.ingest_1000,
    "bulk": bulk.bulk,
    "growth": growth.growth,
    "fold-growth": fold_growth.fold_growth,
    "late": recounting.late,
    "recount": recounting.recount,
    "recount-lake": lake.recount_lake,
    "recount-memory": memory.recount_memory,
    "live-read": live_read.live_read,
    "push": pushing.push,
    "push-plan": pushing.push_plan,
    "reconcile": pushing.reconcile,
    "pricing": pricing.pricing,
    "backtest": backtest.backtest,
    "start": whole_stack.start,
    "idle": whole_stack.idle,
    "freshness": whole_stack.freshness,
    "late-through-dagster": late_days.late_through_dagster,
    "to-stripe": whole_stack.to_stripe,
}


def main() -> int:
    """Run the benches asked for; returns 1 when one of them failed to measure (a missed budget is a result)."""
    options = _parse()
    wanted = [*options.names, *(name for name in (options.only or "").split(",") if name)] or list(BENCHES)
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        print(f"no bench named {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    if generator() != "wrk":
        say(f"wrk is not installed: the load generator is {generator()}")
    rows: list[Row] = []
    failed: list[str] = []
    with open_context(QUICK if options.quick else Scale(), options.scratch) as context:
        for name in wanted:
            try:
                rows += _measure(name, context, is_saved=not options.quick)
            except Exception:  # noqa: BLE001 - the others are still worth measuring
                traceback.print_exc()
                failed.append(name)
    print(report.table(rows))
    if not options.quick:
        missing = report.render(list(BENCHES))
        print(f"RESULTS.md written{', without ' + ', '.join(missing) if missing else ''}")
    missed = sum(row.verdict is Verdict.MISSED for row in rows)
    print(f"{missed} budgets missed" if missed else "every budget measured is met")
    if failed:
        print(f"failed to measure: {', '.join(failed)}")
    return 1 if failed else 0


def _measure(name: str, context: Context, *, is_saved: bool) -> list[Row]:
    before = os.getloadavg()[0]
    say(f"{name} (load average {before:.1f})")
    rows = BENCHES[name](context)
    after = os.getloadavg()[0]
    if is_saved:
        command = f"python -m bench {name}"
        report.save(name, rows, command=command, generator=generator(), loads=(before, after))
    print(report.table(rows), file=sys.stderr, flush=True)
    return rows


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Limit and system side by side.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHES)}; all without one")
    parser.add_argument("--only", help="the same as names, comma-separated")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: proves that the bench runs; saves nothing")
    parser.add_argument("--scratch", type=Path, help="keep server and big ledger here, and use them again")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
