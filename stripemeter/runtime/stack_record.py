"""The record of a running stack in its home: who holds the home, what runs where.

Belongs here: `supervisor.lock` and `stack.json`. Does not: starting or stopping anything.

The lock (flock, shared by supervisor and guardian) is the truth about "running"; the record only describes it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stripemeter.errors import InvalidInput
from stripemeter.runtime.processes import is_same_process

RECORD = "stack.json"
LOCK = "supervisor.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """What runs under one name."""

    name: str
    pid: int | None
    state: str
    restarts: int
    url: str | None
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StackRecord:
    """One stack, as its supervisor last wrote it. Holds the database password: the file is 0600.

    `state` is starting, running, degraded (something is being restarted), stopping or failed (see `failure`).
    """

    mark: str
    supervisor_pid: int
    supervisor_ticks: int
    started_at: str
    state: str
    database_url: str
    urls: dict[str, str] = field(default_factory=dict)
    services: list[ServiceRecord] = field(default_factory=list)
    postgres: tuple[int, int] | None = None
    """Pid and start ticks of the embedded server."""
    failure: str | None = None

    @property
    def is_supervised(self) -> bool:
        """Whether its supervisor is alive."""
        return is_same_process(self.supervisor_pid, self.supervisor_ticks)


def write_record(home: Path, record: StackRecord) -> None:
    """Replace the record: readers see the old one or the new one, never half of one."""
    partial = home / f"{RECORD}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file, indent=2)
    partial.replace(home / RECORD)


def read_record(home: Path) -> StackRecord | None:
    """The last record written, whether or not its stack still runs; None when there never was one.

    Raises:
        InvalidInput: the file is not ours to read, or not a record.
    """
    path = home / RECORD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        services = [ServiceRecord(**service) for service in raw.pop("services")]
        postgres = raw.pop("postgres")
        return StackRecord(**raw, services=services, postgres=tuple(postgres) if postgres else None)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            f"cannot read {path}: {error}. Use the account that started the stack, or another STRIPEMETER_HOME",
            field="STRIPEMETER_HOME",
        ) from error


def acquire_lock(home: Path) -> int | None:
    """Take the home for a stack of our own; None when a stack has it. The descriptor is the lock: keep it open."""
    descriptor = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_held(home: Path) -> bool:
    """Whether a stack (or what ends the remains of one) has the home."""
    try:
        descriptor = os.open(home / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise InvalidInput(f"{home} belongs to another account", field="STRIPEMETER_HOME") from error
    with _closing(descriptor):
        try:
            # Shared, so that two who only look never take each other for a stack.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
