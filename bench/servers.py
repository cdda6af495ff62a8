"""The HTTP servers of a bench: our API workers as the supervisor runs them, and FastAPI's no-op.

Belongs here: starting, waiting until every worker serves, ending. Does not: load.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.context import Context
from stripemeter.errors import Unavailable
from stripemeter.runtime import ports
from stripemeter.runtime.children import spawn
from stripemeter.runtime.services import answers_ok
from stripemeter.store.ledger import ensure_month
from stripemeter.store.postgres import connect

API_WORKERS = 2
_START_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running HTTP server: what to POST to, and its processes."""

    url: str
    pids: tuple[int, ...]


@contextmanager
def api_server(context: Context, database_url: str, *, workers: int = API_WORKERS) -> Iterator[Server]:
    """The ingest route served by `workers` API workers on one socket, all of them serving.

    This month's ledger partition exists, as it does in production (the daily housekeeping makes it).
    """
    with connect(database_url) as connection:
        ensure_month(connection, datetime.now(UTC).date())
    directory = context.scratch / "api"
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        listener = stack.enter_context(ports.listen("127.0.0.1", 0, setting="any"))
        port = int(listener.getsockname()[1])
        metrics = directory / f"metrics-{port}"
        env = {**_clean_environment(), "DATABASE_URL": database_url, "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
        pids = []
        for number in range(workers):
            log = directory / f"worker-{port}-{number}.log"
            argv = [context.python, "-m", "stripemeter_api.worker", "--fd", str(listener.fileno())]
            process = _start(stack, argv, env=env, log=log, fd=listener.fileno())
            _await(process, log, _says(log, "api_started"))
            pids.append(process.pid)
        yield Server(url=f"http://127.0.0.1:{port}/v1/events/ingest", pids=tuple(pids))


@contextmanager
def noop_server(context: Context) -> Iterator[Server]:
    """The FastAPI no-op on one uvicorn worker (uvloop, httptools, no access log)."""
    with ExitStack() as stack:
        listener = stack.enter_context(ports.listen("127.0.0.1", 0, setting="any"))
        port = int(listener.getsockname()[1])
        log = context.scratch / f"noop-{port}.log"
        argv = [context.python, "-m", "bench.noop", "--fd", str(listener.fileno())]
        process = _start(stack, argv, env=_clean_environment(), log=log, fd=listener.fileno())
        _await(process, log, answers_ok("127.0.0.1", port, "/openapi.json"))
        yield Server(url=f"http://127.0.0.1:{port}/noop", pids=(process.pid,))


def _start(
    stack: ExitStack, argv: Sequence[str], *, env: dict[str, str], log: Path, fd: int
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = spawn(argv, log=output, env=env, cwd=Path(__file__).parent.parent, pass_fds=[fd])
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await(process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"a server did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
        time.sleep(0.05)


def _says(log: Path, word: str) -> Callable[[], bool]:
    return lambda: word in log.read_text(encoding="utf-8", errors="replace")


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("STRIPE", "DATABASE_URL"))}
