"""What the tests of imports share: files, running an operation, a crash at a known place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from psycopg_pool import ConnectionPool

from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline import backfill as runner
from stripemeter.pipeline.backfill import run_backfill
from stripemeter.store.backfills import (
    Backfill,
    NewBackfill,
    advance_backfill,
    create_backfill,
    load_backfill,
)
from stripemeter.store.files import find_source, format_of
from stripemeter.store.postgres import transaction
from tests.laws.worlds import NOW

HEADING = "metric,customerRef,quantity,ts,idempotencyKey"


def line(number: int, quantity: str = "1") -> str:
    """A good row of HEADING."""
    return f"api_calls,cust_{number % 7},{quantity},2026-01-{number % 28 + 1:02}T00:00:00Z,key-{number}"


def write(path: Path, lines: list[str], heading: str = HEADING) -> Path:
    """A CSV file."""
    path.write_text("\n".join([heading, *lines]) + "\n", encoding="utf-8")
    return path


def asked(location: str | Path, **members: Any) -> NewBackfill:  # noqa: ANN401 - any member of the request
    """An import of a file for acme."""
    source = find_source(str(location))
    return NewBackfill(
        tenant_id="acme", reason="test", actor="test", source_type="file", source=source.location,
        source_version=source.version, source_format=format_of(source.location), source_size=source.size, **members,
    )  # fmt: skip


def create(pool: ConnectionPool, new: NewBackfill) -> UUID:
    """Record an operation."""
    with transaction(pool) as tx:
        return create_backfill(tx, new, now=NOW)


def run(database_url: str, backfill_id: UUID, report: Path | None = None) -> Backfill:
    """Run an operation in this process."""
    return run_backfill(database_url, backfill_id, limits=IngestLimits(), clock=lambda: NOW, report_path=report)


def stored(pool: ConnectionPool, backfill_id: UUID) -> Backfill:
    """The operation as the table has it."""
    with transaction(pool) as tx:
        return load_backfill(tx, backfill_id)


def import_file(
    pool: ConnectionPool,
    database_url: str,
    location: str | Path,
    report: Path | None = None,
    **members: Any,  # noqa: ANN401
) -> Backfill:
    """Create and run; returns what the table says afterwards, which is what the runner says."""
    backfill_id = create(pool, asked(location, **members))
    ended = run(database_url, backfill_id, report)
    found = stored(pool, backfill_id)
    assert (found.counts, found.status) == (ended.counts, "completed")
    return found


def report_of(path: Path) -> list[tuple[int, str, str]]:
    """(row, field, code) of each line of an error report."""
    errors = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    assert all(error["message"] for error in errors)
    return [(error["row"], error["field"], error["code"]) for error in errors]


def parquet(path: Path, rows: int) -> Path:
    """A Parquet file of several row groups."""
    pl.DataFrame(
        {
            "metric": ["api_calls"] * rows,
            "customerRef": [f"cust_{number % 7}" for number in range(rows)],
            "quantity": [Decimal(number) / 4 for number in range(rows)],
            "ts": [NOW - timedelta(minutes=number) for number in range(rows)],
            "idempotencyKey": [f"key-{number}" for number in range(rows)],
            "meta": [{"n": number} for number in range(rows)],
        },
        schema_overrides={"quantity": pl.Decimal(20, 2)},
    ).write_parquet(path, row_group_size=700)
    return path


class PowerCutError(Exception):
    """A crash at a known place."""


@contextmanager
def stopping_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> Iterator[None]:
    """Storing the batch after `batches` others dies after its last write, before its commit."""
    advance = advance_backfill
    seen = 0

    def cut(*arguments: Any, **members: Any) -> bool:  # noqa: ANN401 - passed on
        nonlocal seen
        seen += 1
        is_done = advance(*arguments, **members)
        if seen > batches:
            raise PowerCutError
        return is_done

    with monkeypatch.context() as patch:
        patch.setattr(runner, "advance_backfill", cut)
        yield


@contextmanager
def serving_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An S3 server with the bucket `usage`, known to this process by the usual variables."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    settings = {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y", "REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    assert httpx2.put(f"{url}/usage").status_code == 200
    try:
        yield
    finally:
        server.stop()
