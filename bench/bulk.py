"""bulk: `stripemeter ingest` of a CSV file against plain COPY of the same rows into a heap without an index.

Belongs here: this bench. Does not: importing (`pipeline.backfill`).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from bench.context import Context
from bench.measure import Row, at_least, interleave, seconds_of, series
from stripemeter.metering.events import IngestLimits
from stripemeter.pipeline.backfill import run_backfill
from stripemeter.store.backfills import NewBackfill, create_backfill
from stripemeter.store.files import find_source
from stripemeter.store.postgres import connect

COLUMNS = "metric,customer_ref,quantity,ts,idempotency_key"
_HEAP = """
create table bulk_heap (
    metric text not null, customer_ref text not null, quantity numeric(38, 12) not null, ts timestamptz not null,
    idempotency_key text not null
)
"""
_BLOCK = 1 << 20


def bulk(context: Context) -> list[Row]:
    """Rows per second of importing `copy_rows` fresh rows per round, beside COPY of the same file."""
    rows = context.scale.copy_rows
    with context.database("bulk") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_HEAP)
        path = context.scratch / "bulk.csv"
        counted: list[int] = []

        def limit() -> float:
            _write(path, rows)  # fresh keys, which the slot after this one imports
            return rows / seconds_of(lambda: _copy(url, path))

        def system() -> float:
            return rows / seconds_of(lambda: counted.append(_import(url, path)))

        limits, systems = interleave(context.scale.rounds, limit, system)
        path.unlink()
        if counted != [rows] * context.scale.rounds:
            raise RuntimeError(f"not every row was accepted: {counted} of {rows} each")
    return [
        Row(
            bench="bulk",
            what=f"import of a CSV file, {rows:,} rows, each batch durable",
            unit="rows/s",
            system=series(systems),
            limit=series(limits),
            limit_name="COPY of the same file into a heap without an index, one commit",
            budget=at_least(0.33),
        )
    ]


def _write(path: Path, rows: int) -> None:
    start = datetime(2026, 10, 1, tzinfo=UTC)
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{COLUMNS}\n")
        for number in range(rows):
            ts = (start + timedelta(milliseconds=number)).isoformat()
            file.write(f"api_calls,customer_{number * 7919 % 1000:08},1.25,{ts},{uuid.uuid4()}\n")


def _copy(url: str, path: Path) -> None:
    with (
        psycopg.connect(url) as connection,
        connection.cursor() as cursor,
        cursor.copy(f"copy bulk_heap ({COLUMNS}) from stdin (format csv, header)") as copy,
        path.open("rb") as file,
    ):
        while block := file.read(_BLOCK):
            copy.write(block)


def _import(url: str, path: Path) -> int:
    source = find_source(str(path))
    asked = NewBackfill(
        tenant_id="bench",
        reason="bench",
        actor="bench",
        source_type="file",
        source=source.location,
        source_version=source.version,
        source_format="csv",
        source_size=source.size,
    )
    with connect(url) as tx:
        backfill_id = create_backfill(tx, asked, now=datetime.now(UTC))
    return run_backfill(url, backfill_id, limits=IngestLimits(), clock=lambda: datetime.now(UTC)).counts.accepted
