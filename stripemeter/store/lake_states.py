"""Archived counters in bulk: what they add up to over many days, as frames, by DuckDB over the lake's files.

Belongs here: opening DuckDB for these files, the two reads. Does not: questions people ask (`lake_query`), which days
are valid (`period_states`), one day's counters (`lake`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from stripemeter.errors import Unavailable
from stripemeter.metering.period_usage import ITEMS, STATES
from stripemeter.store.lake import LocalLake
from stripemeter.store.sql import load_queries

MEMORY_LIMIT = "1GB"
"""What DuckDB may take beside the program: a month of 10 000 customers needs a tenth of it."""
_Q = load_queries("lake_states")


class LakeStates:
    """Reads of counters' files; open it with `open_lake_states`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def read_states(self, files: Sequence[Path], *, tenant_id: str) -> pl.DataFrame:
        """A tenant's counters in these files added up: columns STATES, one row per key, any order.

        Raises:
            Unavailable: a file cannot be read, a sum has more than 38 digits, or memory does not suffice.
        """
        return self._read("read_states", STATES, files, tenant_id)

    def read_items(self, files: Sequence[Path], *, tenant_id: str, meters: Collection[str]) -> pl.DataFrame:
        """What a tenant's unique meters saw, of counter items' files: columns ITEMS, each value of a key once.

        Raises:
            Unavailable: as of `read_states`.
        """
        return self._read("read_items", ITEMS, files, tenant_id, sorted(meters))

    def _read(self, query: str, schema: Mapping[str, Any], files: Sequence[Path], *scope: object) -> pl.DataFrame:
        if not files:
            return pl.DataFrame(schema=schema)
        try:
            return pl.DataFrame(self._connection.sql(_Q[query], params=[list(map(str, files)), *scope])).cast(
                pl.Schema(schema)
            )
        except duckdb.Error as error:
            raise Unavailable(f"DuckDB cannot read the lake: {error}") from error


@contextmanager
def open_lake_states(lake: LocalLake) -> Iterator[LakeStates]:
    """DuckDB that sees the lake and nothing else, within MEMORY_LIMIT."""
    with duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": "false", "memory_limit": MEMORY_LIMIT}
    ) as connection:
        opening = load_queries("lake_query")
        connection.execute(opening["use_utc"])
        connection.execute(opening["point_at_lake"], [str(lake.root)])
        for name in ("allow_lake", "close_the_rest", "lock_settings"):
            connection.execute(opening[name])
        yield LakeStates(connection)
