"""Runs whose worker died with its code server do not stay under way."""

from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg
import pytest

from stripemeter.runtime.processes import STACK_MARK, started_ticks
from stripemeter_assets import orphans


@dg.op
def nothing() -> None:
    """Do nothing."""


@dg.job
def idle() -> None:
    """A job whose run is only written down."""
    nothing()


def _started_run(instance: dg.DagsterInstance) -> str:
    run = instance.create_run_for_job(idle)
    instance.report_dagster_event(
        dg.DagsterEvent(event_type_value="PIPELINE_START", job_name=idle.name, message="started"), run.run_id
    )
    return run.run_id


def _status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_run_of_an_earlier_code_server_fails(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started before this code server was loaded, no worker alive: it is failed, once."""
    monkeypatch.setenv(STACK_MARK, "orphans-test")
    run_id = _started_run(instance)
    assert orphans.fail_orphaned_runs(instance) == 0  # younger than this process: its worker may live
    monkeypatch.setattr(orphans, "_LOADED_AT", orphans._LOADED_AT + 10**6)
    assert orphans.fail_orphaned_runs(instance) == 1
    assert _status(instance, run_id) == dg.DagsterRunStatus.FAILURE
    assert orphans.fail_orphaned_runs(instance) == 0


def test_nothing_is_judged_while_an_older_worker_lives(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that outlived its code server may still finish its run."""
    worker = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()  # spawn_main"],
        stdin=subprocess.PIPE,
        env={**os.environ, STACK_MARK: "orphans-test"},
    )
    try:
        monkeypatch.setenv(STACK_MARK, "orphans-test")
        monkeypatch.setattr(orphans, "_LOADED_AT", orphans._LOADED_AT + 10**6)
        monkeypatch.setattr(
            "stripemeter_assets.orphans.started_ticks", lambda pid: 1 if pid == worker.pid else started_ticks(pid)
        )
        run_id = _started_run(instance)
        assert orphans.fail_orphaned_runs(instance) == 0
        assert _status(instance, run_id) == dg.DagsterRunStatus.STARTED
    finally:
        worker.communicate()
