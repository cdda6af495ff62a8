"""The command line: quick to answer, clear when it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stripemeter.runtime.embedded_postgres import EmbeddedPostgres


def _type(home: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if "STRIPE" not in name and name != "DATABASE_URL"}
    ports = dict.fromkeys(("STRIPEMETER_API_PORT", "STRIPEMETER_DAGSTER_PORT", "STRIPEMETER_EMULATOR_PORT"), "0")
    return subprocess.run(
        [sys.executable, "-m", "stripemeter.cli.main", *words],
        check=False,
        capture_output=True,
        text=True,
        env={**kept, **ports, "STRIPEMETER_HOME": str(home), **settings},
        cwd=home,
        timeout=120,
    )


@pytest.fixture
def postgres_empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of a database without any table."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} template template0")
        yield postgres.database_url(name)
        connection.execute(f"drop database {name} with (force)")


def test_help_imports_nothing_heavy() -> None:
    """The table of contents needs no database driver, data frame, web framework or Dagster."""
    heavy = [
        "dagster",
        "polars",
        "fastapi",
        "uvicorn",
        "psycopg",
        "pydantic_settings",
        "stripe",
        "sqlalchemy",
        "httpx2",
    ]
    code = f"import sys, stripemeter.cli.main; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"


def test_help_names_every_command(tmp_path: Path) -> None:
    """`--help` exits 0."""
    answer = _type(tmp_path, "--help")
    assert answer.returncode == 0
    assert all(name in answer.stdout for name in ("up", "down", "status", "logs", "doctor", "migrate"))


@pytest.mark.parametrize("words", [("no-such-command",), ("up", "--no-such-option"), ("down", "--timeout", "soon")])
def test_wrong_usage_exits_2(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Usage errors are told from failures by their exit status."""
    answer = _type(tmp_path, *words)
    assert answer.returncode == 2
    assert "Usage" in answer.stderr


def test_a_refusal_is_one_line_with_its_code(tmp_path: Path) -> None:
    """An error of ours: exit 1, its code, what to do, and no traceback."""
    answer = _type(tmp_path, "migrate")
    assert answer.returncode == 1
    assert answer.stderr.startswith("error (not_found): ")
    assert "stripemeter up" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """--debug is for those who mend us."""
    answer = _type(tmp_path, "--debug", "migrate")
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr


def test_status_of_nothing(tmp_path: Path) -> None:
    """Nothing runs: exit 3, in text and in JSON."""
    assert _type(tmp_path, "status").returncode == 3
    answer = _type(tmp_path, "status", "--json")
    assert answer.returncode == 3
    assert json.loads(answer.stdout)["state"] == "stopped"


def test_down_of_nothing_succeeds(tmp_path: Path) -> None:
    """down is idempotent."""
    assert _type(tmp_path, "down").returncode == 0


def test_logs_of_nothing_says_what_there_is(tmp_path: Path) -> None:
    """An unknown service is refused with the names of the known ones."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "api-1.log").write_text("one\ntwo\n", encoding="ascii")
    assert "api-1" in _type(tmp_path, "logs", "apy").stderr
    assert _type(tmp_path, "logs", "api", "-n", "1").stdout == "two\n"


def test_the_emulator_says_what_it_is(tmp_path: Path) -> None:
    """`stripemeter emulator` serves on loopback, says that it is not Stripe, and ends when it is told to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "stripemeter.cli.main", "emulator", "--port", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as serving:
        assert serving.stdout is not None
        banner = serving.stdout.readline()
        serving.terminate()
        assert serving.wait(30) in (0, -signal.SIGTERM)
    assert banner == f"Stripe emulator (not Stripe) on http://127.0.0.1:{port}, test keys only\n"
    refused = _type(tmp_path, "emulator", "--port", str(port), "--host", "192.0.2.1")
    assert (refused.returncode, "not a loopback address" in refused.stderr) == (2, True)


def test_migrate_is_idempotent_and_dry_runs_change_nothing(tmp_path: Path, postgres_empty_url: str) -> None:
    """--dry-run lists what migrate applies; a second migrate finds nothing."""
    dry = _type(tmp_path, "migrate", "--dry-run", DATABASE_URL=postgres_empty_url)
    first = _type(tmp_path, "migrate", DATABASE_URL=postgres_empty_url)
    second = _type(tmp_path, "migrate", DATABASE_URL=postgres_empty_url)
    assert dry.stdout.replace("pending", "applied") == first.stdout
    assert "applied 0001" in first.stdout
    assert second.stdout == "nothing to apply\n"


def test_doctor_fails_on_pending_migrations(tmp_path: Path, postgres_empty_url: str) -> None:
    """A ✗ carries one command that mends it, and doctor exits 1."""
    answer = _type(tmp_path, "doctor", "--json", DATABASE_URL=postgres_empty_url)
    found = {one["check"]: one for one in json.loads(answer.stdout)}
    assert answer.returncode == 1
    assert found["migrations"]["verdict"] == "failed"
    assert found["migrations"]["fix"] == "stripemeter migrate"


def test_doctor_sees_a_restore_into_another_cluster(tmp_path: Path, database_url: str) -> None:
    """A fold cursor of another cluster means nothing here: ✗."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("insert into fold_cursors values ('counters', '700', 42, now())")
    answer = _type(tmp_path, "doctor", "--json", DATABASE_URL=database_url)
    found = {one["check"]: one for one in json.loads(answer.stdout)}
    assert answer.returncode == 1
    assert found["fold cursor"]["verdict"] == "failed"
    assert found["migrations"]["verdict"] == "ok"


def test_doctor_sees_that_pushing_is_fenced(tmp_path: Path, database_url: str) -> None:
    """From another database than usage was pushed from nothing goes out: ✗, with the command that mends it."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update push_epochs set timeline = 77")
    answer = _type(tmp_path, "doctor", "--json", DATABASE_URL=database_url)
    fence = next(one for one in json.loads(answer.stdout) if one["check"] == "push fence")
    assert (fence["verdict"], fence["fix"]) == ("failed", "stripemeter restore-fence")
    assert "another timeline" in fence["found"]


def test_doctor_sees_commits_that_would_not_last(tmp_path: Path, database_url: str) -> None:
    """synchronous_commit off breaks the promise behind every 2xx: ✗."""
    name = database_url.rpartition("/")[2]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"alter database {name} set synchronous_commit = off")
    answer = _type(tmp_path, "doctor", "--json", DATABASE_URL=database_url)
    durability = next(one for one in json.loads(answer.stdout) if one["check"] == "durability")
    assert durability["verdict"] == "failed"
    assert "synchronous_commit" in durability["found"]


@pytest.mark.parametrize(
    ("key", "verdict"), [("sk_live_x", "warned"), ("sk_test_x", "ok"), ("pk_live_x", "failed"), ("", "ok")]
)
def test_doctor_knows_the_mode_of_a_stripe_key(tmp_path: Path, key: str, verdict: str) -> None:
    """Live keys without the live switch are pointed out; the key itself is never printed."""
    answer = _type(tmp_path, "doctor", "--json", STRIPE_SECRET_KEY=key)
    stripe = next(one for one in json.loads(answer.stdout) if one["check"] == "stripe key")
    assert stripe["verdict"] == verdict
    assert not key or key not in answer.stdout
