"""The files of an embedded PostgreSQL: its configuration, its pid file, the server an earlier parent left behind.

Belongs here: what is read from and written to the data directory. Does not: starting or talking to the server.
"""

from __future__ import annotations

import os
import re
import signal
import time
from enum import Enum, auto
from pathlib import Path

from stripemeter.errors import Unavailable
from stripemeter.runtime.processes import command_line, started_ticks

_BYTES_PER_MB = 1024 * 1024
_HBA = "host all all 127.0.0.1/32 scram-sha-256\n"
_BACKENDS_SECONDS = 10
"""How long the children of a killed postmaster may take to notice; they look several times a second."""


class _Verdict(Enum):
    OURS = auto()
    FOREIGN = auto()
    UNSURE = auto()


def write_configuration(data: Path, *, port: int, shared_buffers_mb: int | None, fsync: bool) -> None:
    """Write `postgresql.conf` and `pg_hba.conf`: loopback TCP with a password, nothing else."""
    buffers = shared_buffers_mb or _default_buffers_mb()
    lines = {
        "listen_addresses": "'127.0.0.1'",
        "port": str(port),
        "unix_socket_directories": "''",
        "max_connections": "100",
        "shared_buffers": f"{buffers}MB",
        "effective_cache_size": f"{buffers * 2}MB",
        "synchronous_commit": "on",
        "fsync": "on" if fsync else "off",
        "full_page_writes": "on",
        "wal_compression": "on",  # pglz; PostgreSQL 14 knows no other word for it
        "wal_buffers": "16MB",
        "min_wal_size": "256MB",
        "max_wal_size": "8GB",
        "checkpoint_timeout": "15min",
        "jit": "off",
        "timezone": "'UTC'",
        "log_timezone": "'UTC'",
        "log_line_prefix": "'%m [%p] %a '",
        "idle_in_transaction_session_timeout": "60s",
        "max_prepared_transactions": "0",  # a forgotten one would freeze the fold's cut for ever
    }
    head = "# Written by StripeMeter at every start: edits are lost.\n"
    body = "".join(f"{name} = {value}\n" for name, value in lines.items())
    (data / "postgresql.conf").write_text(head + body, encoding="ascii")
    (data / "pg_hba.conf").write_text(_HBA, encoding="ascii")


def stop_leftover(data: Path, *, timeout_seconds: float) -> None:
    """Stop a server an earlier parent left on this data directory; any other process is left alone.

    The pid file is removed only when its pid is another program's today. A dead pid's file stays: PostgreSQL itself
    looks through it whether memory of the dead server is still in use.

    Raises:
        Unavailable: it does not stop within the timeout, or is another user's.
    """
    pid_file = data / "postmaster.pid"
    pid = _first_integer(pid_file)
    if pid is None:
        return
    if started_ticks(pid) is not None:
        match _verdict(pid, data):
            case _Verdict.OURS:
                _interrupt(pid, data, timeout_seconds)
            case _Verdict.FOREIGN:
                pid_file.unlink()
            case _Verdict.UNSURE:
                pass
    _wait_for_backends(data)


def _interrupt(pid: int, data: Path, timeout_seconds: float) -> None:
    try:
        os.kill(pid, signal.SIGINT)  # fast shutdown: sessions are ended, the checkpoint is written
    except PermissionError as error:
        raise Unavailable(f"another user's PostgreSQL (pid {pid}) runs on {data}: stop it first") from error
    except ProcessLookupError:
        return
    deadline = time.monotonic() + timeout_seconds
    while started_ticks(pid) is not None and _verdict(pid, data) is _Verdict.OURS:
        if time.monotonic() > deadline:
            raise Unavailable(f"an earlier PostgreSQL (pid {pid}) on {data} does not stop: see its log")
        time.sleep(0.05)


def _verdict(pid: int, data: Path) -> _Verdict:
    # The working directory is closed to us when the server is another user's and we lack CAP_SYS_PTRACE (root in a
    # container); the arguments never are.
    if _works_in(pid, data):
        return _Verdict.OURS
    arguments = command_line(pid)
    if not arguments or Path(arguments[0]).name not in ("postgres", "postmaster"):
        return _Verdict.FOREIGN
    named = arguments[arguments.index("-D") + 1 :][:1] if "-D" in arguments else []
    if not named or not Path(named[0]).is_absolute():
        return _Verdict.UNSURE
    return _Verdict.OURS if Path(named[0]).resolve() == data.resolve() else _Verdict.FOREIGN


def _wait_for_backends(data: Path) -> None:
    deadline = time.monotonic() + _BACKENDS_SECONDS
    while time.monotonic() < deadline:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        if not any(_works_in(pid, data) and started_ticks(pid) is not None for pid in pids):
            return
        time.sleep(0.05)


def _works_in(pid: int, data: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
    except OSError:
        return False


def _first_integer(path: Path) -> int | None:
    if not path.exists():
        return None
    found = re.match(r"\d+", path.read_text(encoding="ascii", errors="replace"))
    return int(found[0]) if found else None


def _default_buffers_mb() -> int:
    total_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _BYTES_PER_MB
    return max(128, min(total_mb // 4, 2048))
