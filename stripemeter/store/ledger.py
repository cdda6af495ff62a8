"""The ledger, read: windows and days as frames, the fold's cursor, arrivals.

Belongs here: everything that reads `events` for counting, and the cursor over it. Does not: writing events
(`pipeline.ingest`), listing them for people (`store.listing`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import polars as pl

from stripemeter.errors import InvariantBroken
from stripemeter.metering.days import day_bounds
from stripemeter.metering.frames import LEDGER_EVENTS
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("ledger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far the fold has read, and in which cluster that number means something."""

    folded_below: int
    system_identifier: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """What arrived on one UTC day, and what became of it."""

    received_on: date
    received: int
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int


def load_cut(tx: Tx) -> tuple[int, int]:
    """(the cut, the cluster's system identifier): every transaction below the cut is finished."""
    cut, system_identifier = _one(tx, "load_cut", {})
    return int(cut), int(system_identifier)


def lock_cursor(tx: Tx) -> Cursor:
    """The fold's cursor, created if need be, locked until the transaction ends.

    Raises:
        InvariantBroken: the cursor was written in another cluster (the database was restored).
    """
    _, system_identifier = load_cut(tx)
    row = tx.execute(_Q["lock_cursor"]).fetchone()
    if row is None:
        tx.execute(_Q["create_cursor"], {"system_identifier": system_identifier})
        row = _one(tx, "lock_cursor", {})
    return _same_cluster(Cursor(folded_below=int(row[0]), system_identifier=row[1]), system_identifier)


def load_cursor(tx: Tx) -> int:
    """How far the fold has read; 0 when it never ran.

    Raises:
        InvariantBroken: the cursor was written in another cluster (the database was restored).
    """
    row = tx.execute(_Q["load_cursor"]).fetchone()
    if row is None:
        return 0
    _, system_identifier = load_cut(tx)
    return _same_cluster(Cursor(folded_below=int(row[0]), system_identifier=row[1]), system_identifier).folded_below


def advance_cursor(tx: Tx, folded_below: int) -> None:
    """Record that everything below is in the counters: in the transaction that put it there."""
    tx.execute(_Q["advance_cursor"], {"folded_below": str(folded_below)})


def has_events(tx: Tx, *, lower: int, upper: int) -> bool:
    """Whether any event lies in the xid window `[lower, upper)`."""
    return bool(_one(tx, "has_events", {"lower": str(lower), "upper": str(upper)})[0])


def bound_window(tx: Tx, *, lower: int, upper: int, max_events: int) -> int:
    """The greatest upper end that keeps the window near `max_events`; whole transactions only, at least one."""
    row = tx.execute(
        _Q["bound_window"], {"lower": str(lower), "upper": str(upper), "max_events": max_events}
    ).fetchone()
    if row is None:
        return upper
    beyond, first = row
    return max(int(beyond), int(first) + 1)


def load_arrivals(tx: Tx, days: int) -> list[Arrivals]:
    """What arrived on each of the last `days` UTC days, newest first; days without arrivals are absent."""
    return [
        Arrivals(
            received_on=row[0], received=row[1], accepted=row[2], duplicates=row[3], conflicts=row[4], rejected=row[5]
        )
        for row in tx.execute(_Q["load_arrivals"], {"days": days})
    ]


def load_slice(tx: Tx, day: date, *, tenant_id: str, customer_refs: Collection[str] | None, below: int) -> pl.DataFrame:
    """One tenant's events of a day that count, shape LEDGER_EVENTS, as this transaction sees them.

    Of these references of customers, when given; aliases are references of their own here.
    """
    start_at, end_at = day_bounds(day)
    rows = tx.execute(
        _Q["load_slice"],
        {
            "tenant_id": tenant_id,
            "customer_refs": None if customer_refs is None else sorted(customer_refs),
            "day": day,
            "start_at": start_at,
            "end_at": end_at,
            "below": str(below),
        },
        prepare=False,
    ).fetchall()
    schema: dict[str, Any] = {name: column.dtype.type for name, column in LEDGER_EVENTS.columns.items()}
    frame = pl.DataFrame(rows, schema={**schema, "quantity": pl.String}, orient="row")
    return LEDGER_EVENTS.validate(frame.with_columns(pl.col("quantity").str.to_decimal(scale=12)))


def load_last_arrival(tx: Tx) -> datetime | None:
    """When the newest event arrived; None while the ledger is empty."""
    arrived: datetime | None = _one(tx, "load_last_arrival", {})[0]
    return arrived


def ensure_month(tx: Tx, month_on: date) -> None:
    """Make the ledger partition of the day's month exist."""
    tx.execute(_Q["ensure_month"], {"month_on": month_on.replace(day=1)})


def restamp(tx: Tx) -> None:
    """Rewrite every stored xid for the cluster the database now lives in, keeping what is folded and what is not.

    For a database restored into another cluster, where old xids mean nothing. Locks the ledger against writers.
    """
    _, system_identifier = load_cut(tx)
    tx.execute(_Q["lock_ledger"])
    row = tx.execute(_Q["lock_cursor"]).fetchone()
    folded_below = row[0] if row is not None else "0"
    # Folded first: their new xid, 1, is below every cursor, while the unfolded rows' new one may be too (a young
    # cluster counts from about 750), and would then make them look folded to the second statement.
    tx.execute(_Q["restamp_folded"], {"folded_below": folded_below})
    tx.execute(_Q["restamp_unfolded"], {"folded_below": folded_below})
    tx.execute(_Q["restamp_cursor"], {"system_identifier": system_identifier})


def _same_cluster(cursor: Cursor, system_identifier: int) -> Cursor:
    if cursor.system_identifier != system_identifier:
        raise InvariantBroken(
            "this database was restored from another cluster: its transaction ids mean nothing here. Stop the stack's "
            "writers and run `stripemeter counters restamp`"
        )
    return cursor


def _one(tx: Tx, name: str, parameters: dict[str, Any]) -> tuple[Any, ...]:
    row = tx.execute(_Q[name], parameters).fetchone()
    if row is None:
        raise InvariantBroken(f"sql/queries/ledger.sql {name}: no row")
    return row
