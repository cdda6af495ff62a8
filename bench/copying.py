"""The limits of a ledger: COPY of the same rows, into a plain heap and under the same unique index.

Belongs here: rows encoded beforehand, tables to copy them into, timing. Does not: the product's tables.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg

ROWS_PER_COMMIT = 1_000
_KEY = "key_hash uuid primary key, payload_hash bigint not null,"
_SHAPE = """
    ts timestamptz not null,
    received_at timestamptz not null,
    quantity numeric(38, 12) not null,
    tenant_id text not null,
    metric text not null,
    customer_ref text not null,
    idempotency_key text not null,
    source text not null,
    resource_id text,
    meta jsonb
"""
_ROWS = """
copy (
    select
        {key} timestamptz '2026-11-01 00:00:00+00' + i * interval '1 millisecond', now(), 1.25::numeric(38, 12),
        'bench', 'api_calls', 'customer_' || lpad((i * 7919 % 1000)::text, 8, '0'), gen_random_uuid()::text, 'http',
        null::text, '{{"region":"eu-west-1","plan":"pro"}}'::jsonb
    from generate_series(1, {rows}) as i
) to stdout (format binary)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What one slot of COPY did."""

    rows: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


class CopyLimit:
    """A table to copy into; `with_key` gives it the ledger's unique 128-bit key, else it has no index."""

    def __init__(self, url: str, *, with_key: bool) -> None:
        self._with_key = with_key
        self._table = "limit_keyed" if with_key else "limit_heap"
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(f"create table {self._table} ({_KEY if with_key else ''} {_SHAPE})")

    def prepare(self, rows: int) -> list[bytes]:
        """`rows` fresh rows, encoded as COPY BINARY in chunks of one commit each."""
        return [self._encode(min(ROWS_PER_COMMIT, rows - done)) for done in range(0, rows, ROWS_PER_COMMIT)]

    def copy(self, chunks: list[bytes], *, seconds: float | None = None) -> Copied:
        """Copy chunks, one durable commit each, until they or the seconds are used up."""
        started = time.perf_counter()
        done = 0
        for chunk in chunks:
            with self._connection.cursor() as cursor:
                with cursor.copy(f"copy {self._table} from stdin (format binary)") as copy:
                    copy.write(chunk)
                done += cursor.rowcount
            if seconds is not None and time.perf_counter() - started >= seconds:
                break
        return Copied(rows=done, seconds=time.perf_counter() - started)

    def bytes_per_row(self) -> float:
        """Disk of the table with all its indexes, per row."""
        row = self._connection.execute(
            f"select pg_total_relation_size('{self._table}')::float8 / count(*) from {self._table}"
        ).fetchone()
        assert row is not None
        return float(row[0])

    def close(self) -> None:
        """Close the connection; the table goes with its database."""
        self._connection.close()

    def _encode(self, rows: int) -> bytes:
        key = "gen_random_uuid(), (random() * 9e18)::bigint," if self._with_key else ""
        with self._connection.cursor() as cursor, cursor.copy(_ROWS.format(key=key, rows=rows)) as copy:
            return b"".join(bytes(block) for block in copy)
