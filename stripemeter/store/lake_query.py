"""Questions to the lake: DuckDB over its files, read-only.

Belongs here: opening DuckDB so that it sees the lake and nothing else, running one question. Does not: the views
(`sql/lake`), showing the answer (`stripemeter.cli.lake`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from stripemeter.errors import InvalidInput, NotFound
from stripemeter.store.lake import PART, Kind, LocalLake
from stripemeter.store.sql import load_queries, shipped

VIEWS: Mapping[str, Kind] = {
    "events": "events",
    "counters": "counters",
    "counter_items": "counter_items",
    "daily_usage": "counters",
}
"""What files each reads, in the order they are made: the last reads another."""
_READING = frozenset({duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Rows of a question. Decimals are Decimal, instants aware UTC, as DuckDB's types have them."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


def query_lake(lake: LocalLake, question: str) -> Answer:
    """What DuckDB answers to one SQL statement over the views `events`, `counters`, `counter_items` and `daily_usage`.

    A lake of an earlier release has no `counter_items` until one of its days is archived again.

    Raises:
        InvalidInput: not exactly one statement that reads, or DuckDB refuses it.
        NotFound: nothing is archived yet.
    """
    if not _holds(lake, "events"):
        raise NotFound(f"nothing is archived in {lake.root}: run `stripemeter lake archive DAY`")
    with _open(lake) as connection:
        try:
            statements = connection.extract_statements(question)
            if len(statements) != 1 or statements[0].type not in _READING:
                raise InvalidInput("ask one question: a single statement that reads, such as select", field="query")
            result = connection.execute(statements[0])
            columns = tuple(column[0] for column in result.description or ())
            return Answer(columns=columns, rows=result.fetchall())
        except duckdb.Error as error:
            raise InvalidInput(f"DuckDB: {error}", field="query") from error


def _open(lake: LocalLake) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    queries = load_queries("lake_query")
    connection.execute(queries["use_utc"])
    connection.execute(queries["point_at_lake"], [str(lake.root)])
    for view, kind in VIEWS.items():
        if _holds(lake, kind):  # DuckDB refuses a view of no files
            connection.execute(shipped(f"sql/lake/{view}.sql").read_text(encoding="utf-8"))
    for name in ("allow_lake", "close_the_rest", "lock_settings"):
        connection.execute(queries[name])
    return connection


def _holds(lake: LocalLake, kind: Kind) -> bool:
    return next(lake.root.glob(f"{kind}/*/*/{PART}"), None) is not None
