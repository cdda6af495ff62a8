"""What Dagster keeps and for how long.

Belongs here: deleting finished runs. Does not: ticks (`retention` in dagster.yaml prunes them), the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import dagster as dg

WHY_TAG = "stripemeter/why"
LATE = {WHY_TAG: "late"}
UNPUSHED = {WHY_TAG: "unpushed"}
SCHEDULED = {WHY_TAG: "scheduled"}

ROUTINE_RETENTION = timedelta(days=3)
"""Successful runs nobody asked for: at one a minute they are 46 MB of event log a day."""
RUN_RETENTION = timedelta(days=30)
"""Everything else: what an operator started, and what failed."""
REPORT_RETENTION = timedelta(days=1)
"""Run-less reports of the fold, except the newest of each day."""
_BATCH = 200

_ROUTINE = {WHY_TAG: [why for tags in (LATE, UNPUSHED, SCHEDULED) for why in tags.values()]}
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def delete_old_runs(instance: dg.DagsterInstance, now: datetime) -> int:
    """Delete runs past their retention, with their events; returns how many."""
    routine = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.SUCCESS], tags=_ROUTINE, created_before=now - ROUTINE_RETENTION
    )
    anything = dg.RunsFilter(statuses=_FINISHED, created_before=now - RUN_RETENTION)
    return _delete(instance, routine) + _delete(instance, anything)


def _delete(instance: dg.DagsterInstance, old: dg.RunsFilter) -> int:
    deleted = 0
    while batch := _load(instance, old):
        for run in batch:
            instance.delete_run(run.run_id)
        deleted += len(batch)
    return deleted


def _load(instance: dg.DagsterInstance, matching: dg.RunsFilter) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(matching, limit=_BATCH)
