"""Which services a stack has, in which order, with which environment.

Belongs here: turning settings into stages. Does not: running them (`runtime.supervisor`), their life (`runtime.run`).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg

from stripemeter.errors import Unavailable
from stripemeter.runtime import dagster_home, ports
from stripemeter.runtime.embedded_postgres import RECOVERY_SECONDS, EmbeddedPostgres
from stripemeter.runtime.processes import STACK_MARK
from stripemeter.runtime.services import Service, Stage, answers_ok, command, speaks_http2
from stripemeter.runtime.settings import Settings
from stripemeter.store.migrations import migrate

EMULATOR_KEY = "sk_test_emulator"
RUNS_GRACE_SECONDS = 65
"""The code server waits for its runs up to Dagster's own 60 s before it leaves."""
_PYTHON = (sys.executable, "-P", "-m")  # -P: a stripe.py in the working directory must not shadow the real one


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where everything listens. The API's socket is open for good; the other ports were free a moment ago."""

    api: socket.socket
    dagster_port: int
    code_server_port: int
    emulator_port: int | None

    @property
    def api_host(self) -> str:
        """What to put into a URL for the API."""
        host = str(self.api.getsockname()[0])
        return f"[{host}]" if ":" in host else host

    @property
    def api_port(self) -> int:
        """The API's port."""
        return int(self.api.getsockname()[1])

    def urls(self) -> dict[str, str]:
        """What an operator may open, by name."""
        api = f"http://{self.api_host}:{self.api_port}"
        found = {"api": api, "docs": f"{api}/docs", "dagster": f"http://127.0.0.1:{self.dagster_port}"}
        if self.emulator_port is not None:
            found["emulator"] = f"http://127.0.0.1:{self.emulator_port}"
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One stack, decided: nothing of it runs yet but the listening socket."""

    settings: Settings
    home: Path
    mark: str
    database_url: str
    server: EmbeddedPostgres | None
    addresses: Addresses

    def log(self, name: str) -> Path:
        """Where a service writes."""
        return self.home / "logs" / f"{name}.log"


def claim_addresses(settings: Settings) -> Addresses:
    """Open the API's socket and find the other ports free, before anything starts.

    Raises:
        Unavailable: a port is taken; the message names it, the setting and, if known, the holder.
    """
    with ExitStack() as claims:

        def claim(port: int, setting: str) -> int:
            bound = claims.enter_context(ports.listen("127.0.0.1", port, setting=setting))
            return int(bound.getsockname()[1])

        # Held together until all are chosen: two that ask for any port must not get the same one.
        api = ports.listen(settings.api_host, settings.api_port, setting="STRIPEMETER_API_PORT")
        try:
            return Addresses(
                api=api,
                dagster_port=claim(settings.dagster_port, "STRIPEMETER_DAGSTER_PORT"),
                code_server_port=claim(0, "a free port"),
                emulator_port=claim(settings.emulator_port, "STRIPEMETER_EMULATOR_PORT")
                if settings.wants_emulator
                else None,
            )
        except BaseException:
            api.close()
            raise


def environment(plan: Plan) -> dict[str, str]:
    """The environment of every child: ours, plus where everything is, minus everything that phones home."""
    own = {
        STACK_MARK: plan.mark,
        "DATABASE_URL": plan.database_url,
        "STRIPEMETER_HOME": str(plan.home),
        "STRIPEMETER_API_PORT": str(plan.addresses.api_port),
        "STRIPEMETER_DAGSTER_PORT": str(plan.addresses.dagster_port),
        "DAGSTER_HOME": str(plan.home / "dagster"),
        "DAGSTER_PG_URL": dagster_home.dagster_pg_url(plan.database_url),
        "PROMETHEUS_MULTIPROC_DIR": str(plan.home / "metrics"),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        # Each loop of Dagster's daemon opens connections: these two can wait (5 and 30 s by default).
        "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "30",
        "FRESHNESS_DAEMON_INTERVAL_SECONDS": "300",
        "DO_NOT_TRACK": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if plan.addresses.emulator_port is not None:
        own["STRIPEMETER_EMULATOR_PORT"] = str(plan.addresses.emulator_port)
        own["STRIPE_TEST_SECRET_KEY"] = EMULATOR_KEY
        own["STRIPEMETER_STRIPE_API_BASE"] = f"http://127.0.0.1:{plan.addresses.emulator_port}"
    # A proxy from the operator's shell must not sit between our own processes (gRPC reads these too).
    direct = ",".join(part for part in (os.environ.get("NO_PROXY", ""), "127.0.0.1,localhost,::1") if part)
    return {**os.environ, **own, "NO_PROXY": direct, "no_proxy": direct}


def build_stages(
    plan: Plan, *, on_postgres: Callable[[subprocess.Popen[bytes]], None], sweep: Callable[[], None]
) -> list[Stage]:
    """The stages of a stack, in starting order.

    Args:
        plan: the stack.
        on_postgres: told of every start of the embedded server.
        sweep: ends what workers and code server left behind, once they have stopped.
    """
    env = environment(plan)
    emulator = [_emulator(plan, env)] if plan.addresses.emulator_port is not None else []
    stages = [
        Stage(services=emulator, before=lambda: _prepare(plan)),
        # Runs may need the emulator until they end: it leaves after them.
        Stage(services=[*_api_workers(plan, env), _code_server(plan, env)], after=sweep),
        Stage(services=[_webserver(plan, env), _daemon(plan, env)]),
    ]
    if plan.server is not None:
        stages.insert(0, Stage(services=[_postgres(plan.server, on_postgres)]))
    return stages


def _prepare(plan: Plan) -> None:
    """Migrate, and make the files the services read."""
    try:
        migrate(plan.database_url)
        dagster_home.create_schema(plan.database_url)
    except psycopg.Error as error:
        raise Unavailable(f"migrating the database failed: {error}") from error
    dagster_home.write_dagster_home(plan.home / "dagster", code_server_port=plan.addresses.code_server_port)
    # Counters of processes that are gone: Prometheus would add them to ours.
    shutil.rmtree(plan.home / "metrics", ignore_errors=True)
    (plan.home / "metrics").mkdir()


def _postgres(server: EmbeddedPostgres, on_postgres: Callable[[subprocess.Popen[bytes]], None]) -> Service:
    def launch() -> subprocess.Popen[bytes]:
        process = server.launch()
        on_postgres(process)
        return process

    return Service(
        name="postgres",
        launch=launch,
        is_ready=server.is_ready,
        log=server.log,
        stop_signal=signal.SIGINT,  # fast shutdown
        last_signal=signal.SIGQUIT,  # immediate: no checkpoint, the next start recovers
        grace_seconds=60,
        start_seconds=RECOVERY_SECONDS,
    )


def _emulator(plan: Plan, env: Mapping[str, str]) -> Service:
    port = plan.addresses.emulator_port or 0
    # What it acknowledged must outlive it: the outbox will not send it again.
    state = str(plan.home / "stripe_emulator.sqlite")
    argv = [*_PYTHON, "stripe_emulator", "--port", str(port), "--state", state]
    return Service(
        name="stripe-emulator",
        launch=command(argv, env=env, log=plan.log("stripe-emulator")),
        is_ready=answers_ok("127.0.0.1", port, "/_emu/health"),
        log=plan.log("stripe-emulator"),
        url=plan.addresses.urls()["emulator"],
    )


def _api_workers(plan: Plan, env: Mapping[str, str]) -> list[Service]:
    listening = plan.addresses.api.fileno()
    host = plan.addresses.api_host.strip("[]")
    return [
        Service(
            name=f"api-{number}",
            launch=command(
                [*_PYTHON, "stripemeter_api.worker", "--fd", str(listening)],
                env=env,
                log=plan.log(f"api-{number}"),
                pass_fds=[listening],
            ),
            is_ready=answers_ok(host, plan.addresses.api_port, "/health/live"),
            log=plan.log(f"api-{number}"),
            url=plan.addresses.urls()["api"],
        )
        for number in range(1, plan.settings.api_workers + 1)
    ]


def _code_server(plan: Plan, env: Mapping[str, str]) -> Service:
    port = plan.addresses.code_server_port
    argv = [
        *(*_PYTHON, "dagster", "api", "grpc", "-m", "stripemeter_assets.definitions"),
        *("--host", "127.0.0.1", "--port", str(port), "--location-name", dagster_home.LOCATION),
        *("--use-python-environment-entry-point", "--empty-working-directory"),
    ]
    return Service(
        name="code-server",
        launch=command(argv, env=env, log=plan.log("code-server")),
        is_ready=speaks_http2(port),
        log=plan.log("code-server"),
        grace_seconds=RUNS_GRACE_SECONDS,
    )


def _webserver(plan: Plan, env: Mapping[str, str]) -> Service:
    port = plan.addresses.dagster_port
    workspace = str(plan.home / "dagster" / "workspace.yaml")
    argv = [*_PYTHON, "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", workspace]
    return Service(
        name="dagster-webserver",
        launch=command(argv, env=env, log=plan.log("dagster-webserver")),
        is_ready=answers_ok("127.0.0.1", port, "/server_info"),
        log=plan.log("dagster-webserver"),
        url=plan.addresses.urls()["dagster"],
    )


def _daemon(plan: Plan, env: Mapping[str, str]) -> Service:
    workspace = str(plan.home / "dagster" / "workspace.yaml")
    start = command([*_PYTHON, "dagster._daemon", "run", "-w", workspace], env=env, log=plan.log("dagster-daemon"))
    launched_at = time.monotonic()

    def launch() -> subprocess.Popen[bytes]:
        nonlocal launched_at
        launched_at = time.monotonic()
        return start()

    def is_ready() -> bool:
        # It opens no port: its heartbeat in the database is its only sign of life. An earlier daemon's does not count.
        age = dagster_home.daemon_heartbeat_age_seconds(plan.database_url)
        return age is not None and age < time.monotonic() - launched_at

    return Service(name="dagster-daemon", launch=launch, is_ready=is_ready, log=plan.log("dagster-daemon"))
