"""Runs whose worker died with its code server.

Belongs here: finding such runs and saying so to Dagster. Does not: retrying them (Dagster does, by `run_retries`).

Dagster's own monitoring cannot ask the default launcher whether a worker lives, so a run of a killed stack would stay
STARTED, and hold its pool, until `max_runtime_seconds`: four hours without a recount.
"""

from __future__ import annotations

import os
import time

import dagster as dg

from stripemeter.runtime.processes import STACK_MARK, command_line, members, started_ticks

_LOADED_AT = time.time()
_UNDER_WAY = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def fail_orphaned_runs(instance: dg.DagsterInstance) -> int:
    """Fail every run that an earlier code server of this stack started and no living worker carries; returns how many.

    Called in the code server. A worker may outlive its code server: while any older one lives, nothing is judged.
    Outside a supervised stack nothing is known of workers, and nothing is done.
    """
    mark = os.environ.get(STACK_MARK)
    if mark is None or _older_worker_lives(mark):
        return 0
    records = instance.get_run_records(dg.RunsFilter(statuses=_UNDER_WAY), limit=100)
    orphans = [record for record in records if record.create_timestamp.timestamp() < _LOADED_AT]
    for record in orphans:
        instance.report_run_failed(record.dagster_run, "the worker of this run died with its code server")
    return len(orphans)


def _older_worker_lives(mark: str) -> bool:
    born = started_ticks(os.getpid()) or 0
    workers = [pid for pid in members(mark) if any("spawn_main" in part for part in command_line(pid))]
    return any((started_ticks(pid) or born) < born for pid in workers)
