"""The embedded PostgreSQL survives what machines do to it, and harms nobody else's."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stripemeter.errors import StripeMeterError, Unavailable
from stripemeter.runtime.children import Identity, spawn, unprivileged_user
from stripemeter.runtime.embedded_postgres import EmbeddedPostgres, find_bin_directory
from stripemeter.runtime.processes import end_process, started_ticks
from tests.faults.runtime_waiting import processes_of, wait_until

SYSTEM_BIN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One initialised data directory for all tests of this file (initdb is most of their time)."""
    directory = tmp_path_factory.mktemp("embedded") / "pg"
    server = _server(directory)
    server.stop(server.start())
    return directory


@pytest.fixture
def server(directory: Path) -> Iterator[EmbeddedPostgres]:
    """A stopped server with fsync, and an empty table; it is stopped again when the test is over."""
    server = _server(directory, fsync=True)
    yield server
    for pid in [int(line.split()[0]) for line in processes_of(server.data)]:
        end_process(pid, started_ticks(pid) or 0, [signal.SIGINT], seconds_each=60)


def _server(directory: Path, *, bin_directory: Path | None = None, fsync: bool = False) -> EmbeddedPostgres:
    return EmbeddedPostgres(
        directory=directory, bin_directory=bin_directory or find_bin_directory(), shared_buffers_mb=128, fsync=fsync
    )


def _write(server: EmbeddedPostgres, text: str) -> None:
    with psycopg.connect(server.database_url(), autocommit=True) as connection:
        connection.execute("create table if not exists kept (words text)")
        connection.execute("truncate kept")
        connection.execute("insert into kept values (%(text)s)", {"text": text})


def _read(server: EmbeddedPostgres) -> list[str]:
    with psycopg.connect(server.database_url()) as connection:
        return [words for (words,) in connection.execute("select words from kept order by words")]


def test_a_restart_keeps_data_and_port(server: EmbeddedPostgres) -> None:
    """Stop, start: the same rows at the same URL, so whoever knows the URL reconnects."""
    process = server.start()
    url = server.database_url()
    _write(server, "before")
    server.stop(process)
    assert process.returncode == 0

    process = server.start()

    assert server.database_url() == url
    assert _read(server) == ["before"]
    server.stop(process)


def test_a_killed_server_recovers_what_was_committed(server: EmbeddedPostgres) -> None:
    """kill -9 loses nothing committed, and the next launch is on the same port."""
    process = server.start()
    url = server.database_url()
    _write(server, "committed")
    process.kill()
    process.wait()

    process = server.launch()
    wait_until(server.is_ready, "crash recovery")

    assert server.database_url() == url
    assert _read(server) == ["committed"]
    server.stop(process)


def test_a_leftover_server_of_a_dead_parent_is_stopped_and_taken_over(server: EmbeddedPostgres) -> None:
    """A server that outlived its parent is shut down cleanly; its data directory serves on."""
    user = unprivileged_user()
    leftover = spawn(
        [str(server.bin_directory / "postgres"), "-D", str(server.data)],
        log=subprocess.DEVNULL,
        cwd=Path("/"),
        identity=Identity(user=user, reads_anywhere=True) if user is not None else None,
        death_signal=None,
    )
    wait_until(server.is_ready, "the leftover server")
    _write(server, "by the leftover")

    process = server.start()

    assert leftover.wait() == 0, "a clean shutdown, not a kill"
    assert process.pid != leftover.pid
    assert _read(server) == ["by the leftover"]
    server.stop(process)


@pytest.mark.parametrize("name", ["postgres", "bystander"])
def test_a_pid_file_that_names_a_strangers_process_is_stale(server: EmbeddedPostgres, name: str) -> None:
    """After a reboot another process may wear the recorded pid, even another PostgreSQL: it is not touched."""
    user = unprivileged_user()
    stranger = subprocess.Popen(
        [name, "-c", "read line", name, "-D", "/elsewhere"],
        executable="/bin/sh",
        stdin=subprocess.PIPE,
        cwd="/",
        user=user.pw_uid if user is not None else None,
    )
    (server.data / "postmaster.pid").write_text(f"{stranger.pid}\n{server.data}\n", encoding="ascii")

    process = server.start()

    assert stranger.poll() is None
    server.stop(process)
    stranger.communicate(b"leave\n")
    assert stranger.returncode == 0


def test_a_taken_port_is_left_to_its_owner(server: EmbeddedPostgres) -> None:
    """A restart insists on the port services know; a fresh start moves to a free one."""
    taken = server.port
    with socket.create_server(("127.0.0.1", taken)):
        with pytest.raises(Unavailable, match=str(taken)):
            server.launch()

        process = server.start()

        assert server.port != taken
        server.stop(process)


def test_a_closed_parent_directory_needs_no_chmod(tmp_path: Path) -> None:
    """Under a directory closed to everybody else (0700) it works, also as root, and no permission is changed."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = _server(closed / "pg")
    parents = [closed, *closed.parents]
    modes = [path.stat().st_mode for path in parents]

    server.stop(server.start())

    assert [path.stat().st_mode for path in parents] == modes


def test_an_unfinished_initdb_is_begun_again(tmp_path: Path) -> None:
    """A first start that was killed half way leaves nothing that the next one trips over."""
    server = _server(tmp_path / "pg")
    (server.directory / "data.unfinished").mkdir(parents=True)
    (server.directory / "data.unfinished" / "PG_VERSION").write_text("18\n", encoding="ascii")

    process = server.start()

    assert not (server.directory / "data.unfinished").exists()
    server.stop(process)


def test_a_lost_password_is_said_at_once(server: EmbeddedPostgres) -> None:
    """A password file that does not fit the data directory is an error that names it, not a long wait."""
    password_file = server.directory / "password"
    password = password_file.read_text(encoding="ascii")
    password_file.write_text("another\n", encoding="ascii")
    try:
        with pytest.raises(StripeMeterError, match="password"):
            server.start()
        assert processes_of(server.data) == []
    finally:
        password_file.write_text(password, encoding="ascii")


@pytest.mark.skipif(not SYSTEM_BIN.exists(), reason="this machine has no PostgreSQL 15 of its distribution")
def test_the_distributions_binaries_work_too(tmp_path: Path) -> None:
    """Any bin directory of PostgreSQL 14 or later serves."""
    server = _server(tmp_path / "pg", bin_directory=SYSTEM_BIN)
    process = server.start()
    _write(server, "fifteen")
    assert _read(server) == ["fifteen"]
    server.stop(process)
