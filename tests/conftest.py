"""Fixtures every test may use: a real PostgreSQL per test process, a fresh migrated database per test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg_pool import ConnectionPool

from stripemeter.runtime.embedded_postgres import EmbeddedPostgres, find_bin_directory
from stripemeter.store.migrations import migrate
from stripemeter.store.postgres import open_pool
from tests.stacks import Stack, running_stack

TEMPLATE = "stripemeter_template"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One embedded server per test process, ended with it; `fsync` is off, its own tests turn it on."""
    server = EmbeddedPostgres(
        directory=tmp_path_factory.mktemp("postgres"),
        bin_directory=find_bin_directory(_configured_bin()),
        shared_buffers_mb=128,
        fsync=False,
    )
    process = server.start()
    with psycopg.connect(server.database_url("postgres"), autocommit=True) as connection:
        # An autovacuum worker's transaction would hold back the fold's cut now and then: right, but never reproducible.
        connection.execute("alter system set autovacuum = off")
        connection.execute("select pg_reload_conf()")
        connection.execute(f"create database {TEMPLATE}")
    migrate(server.database_url(TEMPLATE))
    yield server
    server.stop(process)


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The URL of an empty migrated database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} template {TEMPLATE}")
    own_push_epoch(postgres.database_url(name))
    yield postgres.database_url(name)
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def pool(database_url: str) -> Iterator[ConnectionPool]:
    """A pool on this test's database."""
    with open_pool(database_url, max_size=8) as opened:
        yield opened


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One whole stack for every test of the group `stack`: each leaves it healthy, whatever it did to it."""
    with running_stack(tmp_path_factory.mktemp("stack") / "home") as running:
        yield running


def own_push_epoch(database_url: str) -> None:
    """Let usage be pushed from a database that was made from the template: as a copy, it is fenced."""
    with psycopg.connect(database_url) as connection:
        connection.execute("update push_epochs set database_oid = (select database_oid from push_place)")


def _configured_bin() -> Path | None:
    configured = os.environ.get("STRIPEMETER_POSTGRES_BIN")
    return Path(configured) if configured else None
