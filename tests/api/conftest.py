"""Fixtures of the API tests: real worker processes on free ports.

Starting a worker takes seconds, so one worker and one database serve all tests that keep to a tenant of their own;
a test that breaks things asks for `own_database_url` and starts its own worker on it.
"""

from __future__ import annotations

import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx2
import psycopg
import pytest

from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from tests.api.serving import Api, Ingest, StartApi, post_events, start_worker, wait_alive
from tests.conftest import TEMPLATE


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The database all tests of the shared worker share."""
    yield from _database(postgres)


@pytest.fixture
def own_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An empty migrated database of this test's own."""
    yield from _database(postgres)


@pytest.fixture(scope="session")
def api(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A client of the shared worker."""
    with _Workers(tmp_path_factory.mktemp("api")) as workers:
        yield workers.start(DATABASE_URL=database_url)


@pytest.fixture
def start_api(tmp_path: Path) -> Iterator[StartApi]:
    """`start_api(DATABASE_URL=..., ...)`: one more worker of its own port and a client of it; all end with the test."""
    with _Workers(tmp_path) as workers:
        yield workers.start


@pytest.fixture
def tenant() -> str:
    """A tenant no other test knows."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def ingest(api: Api, tenant: str) -> Ingest:
    """`ingest(event, ...)`: POSTs events of this test's tenant, filling in what it does not care about; the answer."""

    def post(*events: dict[str, Any]) -> dict[str, Any]:
        return post_events(api, [{"tenantId": tenant, **event} for event in events])

    return post


class _Workers:
    """Workers that end, cleanly, with the block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._clients: list[Api] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        for process in self._processes:
            process.terminate()
        statuses = {process.wait(20) for process in self._processes}
        assert statuses <= {0}, f"a worker did not stop cleanly: {statuses}"

    def start(self, **environment: str) -> Api:
        log = self._directory / f"api-{len(self._processes)}.log"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            process = start_worker(listener.fileno(), log, environment)
            self._processes.append(process)
            client = httpx2.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20)
            self._clients.append(client)
        wait_alive(client, process, log)
        return client


def _database(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} template {TEMPLATE}")
    yield postgres.database_url(name)
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")
