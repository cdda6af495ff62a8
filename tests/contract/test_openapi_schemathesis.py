"""A running worker does what its OpenAPI document says: every operation, generated requests, good and bad.

Status codes, media types and bodies must be those of the document, what the schema forbids must be refused, and
nothing answers 5xx. Examples are derived from a fixed seed and bounded in number, so that a run is the same everywhere.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from stripemeter.runtime.embedded_postgres import EmbeddedPostgres
from stripemeter.store.sql import shipped
from tests.api.serving import post_events, start_worker, wait_alive
from tests.conftest import TEMPLATE

DOCUMENT = json.loads(shipped("api/openapi.json").read_text(encoding="utf-8"))
OPERATIONS = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig(seed=23))


@pytest.fixture(scope="module")
def worker_url(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A worker on a database of its own that holds a few events, so that reads have something to answer."""
    name = "test_schemathesis"
    with psycopg.connect(postgres.database_url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name} template {TEMPLATE}")
    log: Path = tmp_path_factory.mktemp("schemathesis") / "worker.log"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = start_worker(listener.fileno(), log, {"DATABASE_URL": postgres.database_url(name)})
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as api:
            wait_alive(api, process, log)
            facts = [{"ts": "2026-11-20T12:00:00Z", "tenantId": "demo", "idempotencyKey": str(n)} for n in range(5)]
            post_events(api, facts)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text(encoding="utf-8")


@OPERATIONS.parametrize()
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),  # generating a body of 255-character names is slow; the run is bounded
)
def test_every_operation_conforms(case: schemathesis.Case[Any], worker_url: str) -> None:
    """Status, headers and body of every answer are documented; never a 5xx."""
    # A schema cannot say all: 26 digits at most, a cursor that is ours, an end after its start are refused with 400.
    case.call_and_validate(base_url=worker_url, excluded_checks=[positive_data_acceptance])
