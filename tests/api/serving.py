"""How the API tests start workers, send events and put rows where no request can."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx2

START_SECONDS = 60

Api = httpx2.Client
StartApi = Callable[..., Api]
Ingest = Callable[..., dict[str, Any]]


def post_events(api: Api, events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """POST events through the real receiver, filling in what the caller does not care about; its answer."""
    defaults = {"tenantId": "acme", "metric": "api_calls", "customerRef": "c1", "quantity": 1}
    answer = api.post("/v1/events/ingest", json={"events": [{**defaults, **event} for event in events]})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def start_worker(fd: int, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """One worker process on an inherited listening socket, free of the developer's own settings."""
    ours = ("PG", "STRIPE", "PROMETHEUS", "API_", "DATABASE_URL", "LOG_LEVEL")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "stripemeter_api.worker", "--fd", str(fd)],
            env={**inherited, **environment},
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(fd,),
        )


def wait_alive(api: Api, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the worker answers: its socket queues connections from the first moment, so a request simply waits."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, f"the worker ended while starting:\n{log.read_text()}"
        try:
            assert api.get("/health/live").json() == {"status": "alive"}
        except httpx2.TransportError:
            assert time.monotonic() < deadline, f"no worker answered:\n{log.read_text()}"
        else:
            return


def all_pages(api: Api, path: str, member: str, **parameters: str | int) -> list[dict[str, Any]]:
    """The rows of every page of a listing, in order, by following its cursor."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {**parameters, **({"cursor": cursor} if cursor else {})}
        answer = api.get(path, params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        rows += page[member]
        assert page["hasMore"] == (page["nextCursor"] is not None)
        cursor = page["nextCursor"]
        if cursor is None:
            return rows
