"""`stripemeter up` as an operator lives it: the real services, killed, doubled, mistaken and stopped."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stripemeter.runtime.stack_record import ServiceRecord, StackRecord, read_record
from tests.faults.runtime_waiting import processes_of, wait_until


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Somebody at a terminal with one state directory; every port is any free one."""

    home: Path
    settings: Mapping[str, str]

    def type(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run one `stripemeter` command to its end."""
        kept = {name: value for name, value in os.environ.items() if "STRIPE" not in name and name != "DATABASE_URL"}
        ports = dict.fromkeys(("STRIPEMETER_API_PORT", "STRIPEMETER_DAGSTER_PORT", "STRIPEMETER_EMULATOR_PORT"), "0")
        own = {"STRIPEMETER_HOME": str(self.home), "STRIPEMETER_API_WORKERS": "1", **ports, **self.settings, **settings}
        return subprocess.run(
            [sys.executable, "-m", "stripemeter.cli.main", *words],
            check=False,
            capture_output=True,
            text=True,
            env={**kept, **own},
            timeout=240,
        )

    @property
    def record(self) -> StackRecord:
        """What the supervisor last wrote (cheaper than asking `status` again and again)."""
        record = read_record(self.home)
        assert record is not None
        return record

    def service(self, name: str) -> ServiceRecord:
        """One service of the record."""
        return next(service for service in self.record.services if service.name == name)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator whose stack (embedded database, emulator) runs; the last test kills it, `down` makes sure."""
    operator = Operator(home=tmp_path_factory.mktemp("stack") / "home", settings={})
    started = operator.type("up", "-d", "--wait", "--timeout", "200")
    assert started.returncode == 0, started.stderr
    assert "curl -s http://127.0.0.1:" in started.stdout
    yield operator
    if processes_of(operator.home):
        operator.type("down")
    assert processes_of(operator.home) == []


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Operator]:
    """An operator who has nothing yet; nothing may run when the test is over."""
    operator = Operator(home=tmp_path / "home", settings={})
    yield operator
    remains = processes_of(operator.home)
    if remains:
        operator.type("down")
    assert remains == []


def _post_example(printed: str) -> dict[str, Any]:
    """Send the request that `up` prints for trying it out."""
    words = shlex.split(next(line for line in printed.splitlines() if "curl -s" in line))
    url, body = words[2], words[-1]
    request = urllib.request.Request(url, data=body.encode(), headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


@pytest.mark.stack
def test_a_healthy_stack_says_so(operator: Operator) -> None:
    """status: exit 0, every service running, the password masked in text and whole in JSON; the printed curl works."""
    text = operator.type("status")
    found = json.loads(operator.type("status", "--json").stdout)

    assert text.returncode == 0
    names = ["postgres", "stripe-emulator", "api-1", "code-server", "dagster-webserver", "dagster-daemon"]
    assert [service["name"] for service in found["services"]] == names
    assert {service["state"] for service in found["services"]} == {"running"}
    password = (operator.home / "postgres" / "password").read_text(encoding="ascii").strip()
    assert password not in text.stdout
    assert password in found["database_url"]
    assert (operator.home / "stack.json").stat().st_mode & 0o077 == 0


@pytest.mark.stack
def test_doctor_finds_nothing_to_fix(operator: Operator) -> None:
    """On a healthy stack every finding is fine; its own ports are not in its way."""
    answer = operator.type("doctor", "--json")
    findings = json.loads(answer.stdout)
    assert [one for one in findings if one["verdict"] == "failed"] == []
    assert answer.returncode == 0


@pytest.mark.stack
def test_a_second_up_finds_the_first(operator: Operator) -> None:
    """`up` twice on one home: the second prints the same URLs, exits 0 and starts nothing."""
    before = operator.record

    again = operator.type("up")
    detached = operator.type("up", "-d", "--wait")

    assert again.returncode == detached.returncode == 0
    assert "already running" in again.stdout
    assert before.urls["api"] in again.stdout
    assert before.urls["dagster"] in detached.stdout
    assert operator.record == before


@pytest.mark.stack
def test_killed_services_come_back_where_they_were(operator: Operator) -> None:
    """kill -9 of PostgreSQL and of the API: same database URL, same API URL, nothing acknowledged is lost."""
    before = operator.record
    printed = operator.type("up").stdout
    assert _post_example(printed)["accepted"] == 1
    for name in ("postgres", "api-1"):
        pid = operator.service(name).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(operator.service(name).restarts == 1 for name in ("postgres", "api-1")), "the restarts")
    wait_until(lambda: operator.record.state == "running", "a healthy stack")

    assert operator.record.database_url == before.database_url
    assert operator.record.urls == before.urls
    assert _post_example(printed)["duplicates"] == 1


@pytest.mark.stack
def test_two_stacks_live_side_by_side(operator: Operator, newcomer: Operator, database_url: str) -> None:
    """Another home, other ports, a database of its own (DATABASE_URL); ended before it was whole, the first stays."""
    second = Operator(home=newcomer.home, settings={"DATABASE_URL": database_url})

    started = second.type("up", "-d")
    assert started.returncode == 0, started.stderr
    wait_until(lambda: second.service("api-1").state == "running", "the second stack's API")

    assert "postgres" not in [service.name for service in second.record.services]
    assert _post_example(started.stdout)["accepted"] == 1
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from events").fetchone() == (1,)
    assert "is stopped" in second.type("down").stdout
    assert processes_of(second.home) == []
    assert "was not running" in second.type("down").stdout
    assert operator.type("status").returncode == 0


@pytest.mark.stack
def test_a_killed_supervisor_leaves_nothing(operator: Operator) -> None:
    """kill -9 of the guardian, then of the supervisor: every process ends, the database cleanly; status: stopped."""
    (first,) = _guardians(operator.home)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: _guardians(operator.home) not in ([first], []), "another guardian")
    os.kill(operator.record.supervisor_pid, signal.SIGKILL)

    wait_until(lambda: not processes_of(operator.home), "the end of every process")

    assert operator.type("status").returncode == 3
    assert not (operator.home / "postgres" / "data" / "postmaster.pid").exists()


def _guardians(home: Path) -> list[int]:
    return [int(line.split()[0]) for line in processes_of(home) if "stripemeter.runtime.guardian" in line]


@pytest.mark.parametrize("setting", ["STRIPEMETER_API_PORT", "STRIPEMETER_DAGSTER_PORT", "STRIPEMETER_EMULATOR_PORT"])
def test_a_taken_port_is_refused_by_name(newcomer: Operator, setting: str) -> None:
    """The message names the port, who holds it, and the setting that moves it; nothing is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = newcomer.type("up", **{setting: str(port)})

    assert refused.returncode == 1
    assert str(port) in refused.stderr
    assert setting in refused.stderr
    assert f"process {os.getpid()}" in refused.stderr
    assert not (newcomer.home / "postgres").exists()


@pytest.mark.parametrize(
    ("database_url", "reason"),
    [
        ("nonsense", "not a PostgreSQL URL"),
        ("mysql://user:secret@127.0.0.1/db", "not a PostgreSQL URL"),
        ("user:secret@127.0.0.1/db", "not a PostgreSQL URL"),
        ("postgresql://user:secret@127.0.0.1:1/db", "refused"),
        ("postgresql://user:secret@no-such-host.invalid/db", "no-such-host.invalid"),
    ],
)
def test_a_wrong_database_url_is_refused_by_name(newcomer: Operator, database_url: str, reason: str) -> None:
    """Before anything starts: the message names DATABASE_URL and the reason, never the password."""
    refused = newcomer.type("up", DATABASE_URL=database_url)

    assert refused.returncode == 1
    assert "DATABASE_URL" in refused.stderr
    assert reason in refused.stderr
    assert "secret" not in refused.stderr
    assert not (newcomer.home / "stack.json").exists()


def test_a_wrong_password_is_refused_by_name(newcomer: Operator, database_url: str) -> None:
    """A login the server refuses is DATABASE_URL's fault too."""
    wrong = re.sub(r":[^:@/]+@", ":secret@", database_url)
    refused = newcomer.type("up", DATABASE_URL=wrong)

    assert refused.returncode == 1
    assert "DATABASE_URL" in refused.stderr
    assert "password authentication failed" in refused.stderr
    assert "secret" not in refused.stderr


def test_an_unwritable_home_is_refused_by_name(tmp_path: Path) -> None:
    """A state directory that cannot be made is named, with the setting."""
    (tmp_path / "file").touch()
    refused = Operator(home=tmp_path / "file" / "home", settings={}).type("up")

    assert refused.returncode == 1
    assert "STRIPEMETER_HOME" in refused.stderr
    assert str(tmp_path / "file" / "home") in refused.stderr


def test_a_public_address_is_refused(newcomer: Operator) -> None:
    """Requests are not authenticated, so only this machine may reach the API."""
    refused = newcomer.type("up", STRIPEMETER_API_HOST="0.0.0.0")

    assert refused.returncode == 1
    assert "STRIPEMETER_API_HOST" in refused.stderr


def test_a_service_that_cannot_start_fails_up_with_its_log(newcomer: Operator, tmp_path: Path) -> None:
    """`up --wait` ends with the reason and the log of the service to blame, and PostgreSQL is stopped again."""
    broken = tmp_path / "broken" / "stripe_emulator"
    broken.mkdir(parents=True)
    (broken / "__init__.py").touch()
    (broken / "__main__.py").write_text("raise SystemExit('the flux capacitor is missing')\n", encoding="ascii")

    failed = newcomer.type("up", "-d", "--wait", PYTHONPATH=str(tmp_path / "broken"))

    assert failed.returncode == 1
    assert "stripe-emulator cannot start" in failed.stderr
    assert "the flux capacitor is missing" in failed.stderr
    assert processes_of(newcomer.home) == []
    assert "stripe-emulator cannot start" in newcomer.type("status").stdout
