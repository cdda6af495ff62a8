"""The ledger read as frames, for counting: a window of transactions or a day.

Belongs here: the Arrow connection these reads go through, and comparing counters with what it reads. Does not: cursors
and locks (`store.ledger`), counting.

Rows below a cut are final: every later snapshot shows the same ones. So these reads need no part in the transaction
that uses them, and go through a driver that delivers columns, three times as fast as rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from typing import Any

import polars as pl
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi
from psycopg_pool import ConnectionPool

from stripemeter.errors import Unavailable
from stripemeter.metering.aggregation import Counted
from stripemeter.metering.days import day_bounds
from stripemeter.metering.frames import ARCHIVED_EVENTS, GROUP, LEDGER_EVENTS
from stripemeter.store.postgres import database_url_of
from stripemeter.store.sql import load_queries

_Q = load_queries("scan")


class LedgerScanner:
    """Reads on one connection, opened by the first of them; opening costs more than most days. Not for two threads."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: Any = None

    def scan_window(self, *, lower: int, upper: int) -> pl.DataFrame:
        """Events of the xid window `[lower, upper)`, shape LEDGER_EVENTS. The window must lie below a cut.

        Raises:
            Unavailable: the server does not answer.
        """
        return LEDGER_EVENTS.validate(self._scan("scan_window", (str(lower), str(upper))))

    def scan_day(self, day: date, *, below: int) -> pl.DataFrame:
        """Events of one UTC day with xid below the fold's cursor that count, shape LEDGER_EVENTS.

        Raises:
            Unavailable: the server does not answer.
        """
        return LEDGER_EVENTS.validate(self._scan("scan_day", (*day_bounds(day), str(below), day, 1, 0)))

    def scan_day_shares(self, day: date, *, below: int, shares: int) -> Iterator[pl.DataFrame]:
        """`scan_day` in as many frames, all of one snapshot, each customer's events in one of them.

        Raises:
            Unavailable: the server does not answer.
        """
        self._read("keep_snapshot", ())
        try:
            for share in range(shares):
                frame = self._read("scan_day", (*day_bounds(day), str(below), day, shares, share))
                yield LEDGER_EVENTS.validate(_with_decimals(frame))
        finally:
            self._end()

    def scan_archive_day(self, day: date, *, below: int) -> pl.DataFrame:
        """As `scan_day`, with everything an event carries; shape ARCHIVED_EVENTS, any order.

        Raises:
            Unavailable: the server does not answer.
        """
        return ARCHIVED_EVENTS.validate(self._scan("scan_archive_day", (*day_bounds(day), str(below), day)))

    def holds_counters(self, day: date, counted: Counted) -> bool:
        """Whether the stored counters of a day are exactly these. The day must be locked.

        Raises:
            Unavailable: the server does not answer.
        """
        stored = self._fetch("scan_counters", (day,))
        states = counted.counters
        decimals = {name: kind for name, kind in states.schema.items() if isinstance(kind, pl.Decimal)}
        typed = stored.with_columns(
            pl.col(name).str.to_decimal(scale=kind.scale or 0) for name, kind in decimals.items()
        )
        if not typed.cast(states.schema).sort(GROUP).equals(_carried(states).sort(GROUP)):
            return False
        items = self._fetch("scan_items", (day,)).cast(counted.items.schema)
        return items.sort(*GROUP, "item").equals(counted.items.sort(*GROUP, "item"))

    def close(self) -> None:
        """Let the connection go; a later read opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _scan(self, name: str, parameters: tuple[object, ...]) -> pl.DataFrame:
        return _with_decimals(self._fetch(name, parameters))

    def _fetch(self, name: str, parameters: tuple[object, ...]) -> pl.DataFrame:
        frame = self._read(name, parameters)
        self._end()
        return frame

    def _read(self, name: str, parameters: tuple[object, ...]) -> pl.DataFrame:
        try:
            if self._connection is None:
                self._connection = dbapi.connect(self._database_url)
            with closing(self._connection.cursor()) as cursor:
                cursor.execute(_Q[name], parameters)
                return pl.DataFrame(cursor.fetch_arrow())
        except AdbcError as error:
            self.close()
            raise Unavailable(f"cannot read the ledger: {error}") from error

    def _end(self) -> None:
        """The next read sees what is committed by then."""
        if self._connection is None:  # lost
            return
        try:
            self._connection.rollback()
        except AdbcError as error:
            self.close()
            raise Unavailable(f"cannot read the ledger: {error}") from error


@contextmanager
def open_scanner(pool: ConnectionPool) -> Iterator[LedgerScanner]:
    """A scanner of the pool's database, closed at the end of the block."""
    with closing(LedgerScanner(database_url_of(pool))) as scanner:
        yield scanner


def _with_decimals(events: pl.DataFrame) -> pl.DataFrame:
    return events.with_columns(pl.col("quantity").str.to_decimal(scale=12))


def _carried(states: pl.DataFrame) -> pl.DataFrame:
    """The states with whole units carried out of the sum's fraction, as Postgres takes a sum apart."""
    carry = pl.col("sum_fraction").floor()
    return states.with_columns(
        sum_whole=pl.col("sum_whole") + carry.cast(pl.Decimal(38, 0)), sum_fraction=pl.col("sum_fraction") - carry
    ).cast(states.schema)
