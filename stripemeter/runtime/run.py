"""The life of one stack: preflight, lock, guardian, supervisor, record, and nothing left behind.

Belongs here: putting the parts together in the right order. Does not: terminals (`stripemeter.cli`), detaching.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from stripemeter.errors import StripeMeterError, Unavailable
from stripemeter.runtime import log_files, preflight
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres, find_bin_directory
from stripemeter.runtime.guardian import Guardian, end_stack, start_guardian
from stripemeter.runtime.processes import end_members, started_ticks
from stripemeter.runtime.settings import Settings
from stripemeter.runtime.stack import Plan, build_stages, claim_addresses
from stripemeter.runtime.stack_record import (
    RECORD,
    ServiceRecord,
    StackRecord,
    acquire_lock,
    read_record,
    write_record,
)
from stripemeter.runtime.supervisor import State, Supervised, Supervisor

REMAINS_SECONDS = 180
"""How long the guardian of a killed stack may take to end it before `up` gives up waiting."""
_SWEEP_GRACE_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who is told what, in the process that runs the stack."""

    accepted: Callable[[StackRecord], None]
    changed: Callable[[Supervised], None]
    ready: Callable[[StackRecord], None]
    tick: Callable[[], None]


def run_stack(settings: Settings, listener: Listener) -> StackRecord | None:
    """Run a stack until it is told to stop.

    Returns:
        None after an orderly stop; the record of the stack that has this home already, when there is one.

    Raises:
        StripeMeterError: it could not start; nothing of it is left.
    """
    home = preflight.open_home(settings.state)
    lock = _take_home(home)
    if lock is None:
        return read_record(home)
    try:
        _end_remains(home)
        plan = _decide(settings, home)
        try:
            _Run(plan=plan, listener=listener, lock=lock).go()
        finally:
            plan.addresses.api.close()
    finally:
        os.close(lock)
    return None


def _take_home(home: Path) -> int | None:
    """The lock, or None when a living supervisor has it; waits for the guardian of a dead one to finish."""
    deadline = time.monotonic() + REMAINS_SECONDS
    first_look = time.monotonic()
    while True:
        lock = acquire_lock(home)
        if lock is not None:
            return lock
        record = read_record(home)
        if record is not None and record.is_supervised:
            return None
        # No record yet: somebody took the home a moment ago and is about to write one.
        if time.monotonic() > (deadline if record is not None else first_look + 30):
            raise Unavailable(f"{home} is locked by the remains of an earlier stack: see {home / 'logs'}")
        time.sleep(0.1)


def _end_remains(home: Path) -> None:
    """End what a supervisor and its guardian left when both were killed."""
    record = read_record(home)
    if record is not None:
        end_stack(record.mark, record.postgres)
        (home / RECORD).unlink()


def _decide(settings: Settings, home: Path) -> Plan:
    preflight.worker_directory()
    preflight.refuse_public_bind(settings.api_host)
    preflight.require_server_packages()
    if settings.database_url is not None:
        preflight.check_database_url(settings.database_url)
    bin_directory = None if settings.database_url is not None else find_bin_directory(settings.postgres_bin)
    addresses = claim_addresses(settings)
    try:
        server = None
        if bin_directory is not None:
            log = home / "logs" / "postgres.log"
            log_files.open_fresh(log)
            server = EmbeddedPostgres(directory=home / "postgres", bin_directory=bin_directory, log_file=log)
            server.prepare()
        return Plan(
            settings=settings,
            home=home,
            mark=uuid.uuid4().hex,
            database_url=settings.database_url or (server.database_url() if server is not None else ""),
            server=server,
            addresses=addresses,
        )
    except BaseException:
        addresses.api.close()
        raise


@dataclass(slots=True, kw_only=True)
class _Run:
    plan: Plan
    listener: Listener
    lock: int
    supervisor: Supervisor = field(init=False)
    record: StackRecord = field(init=False)
    guardian: Guardian = field(init=False)

    def __post_init__(self) -> None:
        stages = build_stages(self.plan, on_postgres=self._note_postgres, sweep=self._sweep)
        for stage in stages:
            for service in stage.services:
                if service.name != "postgres":  # its log is as old as initdb
                    log_files.open_fresh(service.log)
        self.supervisor = Supervisor(
            stages=stages, on_change=self._note_change, on_ready=self._note_ready, on_tick=self._tick
        )
        pid = os.getpid()
        self.record = StackRecord(
            mark=self.plan.mark,
            supervisor_pid=pid,
            supervisor_ticks=started_ticks(pid) or 0,
            started_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            state="starting",
            database_url=self.plan.database_url,
            urls=self.plan.addresses.urls(),
        )

    def go(self) -> None:
        self._write(state="starting")
        self.guardian = self._start_guardian()
        self.listener.accepted(self.record)
        try:
            self.supervisor.run()
        except StripeMeterError as error:
            self._write(state="failed", failure=str(error))
            raise
        else:
            (self.plan.home / RECORD).unlink(missing_ok=True)
        finally:
            self.guardian.dismiss()

    def _start_guardian(self) -> Guardian:
        return start_guardian(self.plan.mark, lock_fd=self.lock, log=self.plan.log("guardian"))

    def _note_postgres(self, process: subprocess.Popen[bytes]) -> None:
        self.guardian.watch_postgres(process.pid)
        ticks = started_ticks(process.pid)
        self.record = replace(self.record, postgres=(process.pid, ticks) if ticks is not None else None)

    def _note_change(self, one: Supervised) -> None:
        self._write(state=self._state())
        self.listener.changed(one)

    def _note_ready(self) -> None:
        self._write(state="running")
        self.listener.ready(self.record)

    def _tick(self) -> None:
        if self.guardian.process.poll() is not None:
            self.guardian = self._start_guardian()
            if self.record.postgres is not None:
                self.guardian.watch_postgres(self.record.postgres[0])
        self.listener.tick()

    def _sweep(self) -> None:
        earlier_stages = frozenset(one.pid for one in self.supervisor.all if one.pid is not None)
        end_members(self.plan.mark, grace_seconds=_SWEEP_GRACE_SECONDS, except_pids=earlier_stages)

    def _state(self) -> str:
        states = {one.state for one in self.supervisor.all}
        if states & {State.STOPPING, State.STOPPED}:
            return "stopping"
        if self.record.state in ("running", "degraded"):
            return "running" if states == {State.RUNNING} else "degraded"
        return "starting"

    def _write(self, *, state: str, failure: str | None = None) -> None:
        services = [
            ServiceRecord(
                name=one.service.name,
                pid=one.pid,
                state=one.state.value,
                restarts=one.restarts,
                url=one.service.url,
                log=str(one.service.log),
            )
            for one in self.supervisor.all
        ]
        self.record = replace(self.record, state=state, services=services, failure=failure)
        write_record(self.plan.home, self.record)
