"""Connections to Postgres: one way to open them, one way to run a transaction.

Belongs here: connection settings, pools, translating "the server is gone" into `Unavailable`.
Does not: queries (`sql/queries`), what a transaction does (the other modules of this package).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from stripemeter.errors import Unavailable

Row = tuple[Any, ...]
Tx = psycopg.Connection[Row]
"""A connection inside an open transaction. Functions that take one never commit."""

# A writer that sits idle inside a transaction freezes the fold for everybody (the xid8 cut cannot pass it).
CONNECTION_OPTIONS = "-c timezone=UTC -c idle_in_transaction_session_timeout=60s"


def connect(database_url: str, *, application_name: str = "stripemeter", autocommit: bool = False) -> Tx:
    """One connection of its own, UTC, for a process that needs no pool.

    Raises:
        Unavailable: the server does not answer or refuses the login.
    """
    try:
        return psycopg.connect(
            database_url,
            autocommit=autocommit,
            options=CONNECTION_OPTIONS,
            application_name=application_name,
            connect_timeout=10,
        )
    except psycopg.OperationalError as error:
        raise Unavailable(f"cannot connect to Postgres: {error}") from error


def open_pool(database_url: str, *, min_size: int = 0, max_size: int = 8, timeout_seconds: int = 5) -> ConnectionPool:
    """A pool that opens in the background; waiting longer than the timeout for a connection is `Unavailable`."""
    return ConnectionPool(
        database_url,
        min_size=min_size,
        max_size=max_size,
        timeout=timeout_seconds,
        # Its default backs off for up to five minutes, and the pool stays empty that long after the server is back.
        reconnect_timeout=timeout_seconds,
        kwargs={"options": CONNECTION_OPTIONS, "application_name": "stripemeter", "connect_timeout": 5},
        check=ConnectionPool.check_connection,
        open=True,
    )


def database_url_of(pool: ConnectionPool) -> str:
    """The URL a pool was opened with, for a reader that speaks another protocol."""
    conninfo = pool.conninfo
    return conninfo if isinstance(conninfo, str) else conninfo()


@contextmanager
def transaction(pool: ConnectionPool) -> Iterator[Tx]:
    """One transaction on a pooled connection: commits at the end of the block, rolls back on any error.

    Raises:
        Unavailable: no connection within the pool's timeout, or the server went away.
    """
    try:
        with pool.connection() as connection:
            yield connection
    except (PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Unavailable(f"Postgres is not available: {error}") from error
