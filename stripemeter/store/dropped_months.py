"""Months whose ledger rows live in the lake alone: the table `dropped_months`, and reading such a month.

Belongs here: where a day lies, its archived events as they count now. Does not: when a month may go
(`pipeline.retention`), files (`store.lake`), questions to its rows (`store.archived_rows`).

A dropped month may have rows in Postgres again: events that came later. A day of it is both, each event once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import polars as pl

from stripemeter.errors import InvariantBroken
from stripemeter.metering.days import day_bounds, days_between, month_start, next_month
from stripemeter.metering.frames import ARCHIVED_EVENTS, LEDGER_EVENTS
from stripemeter.store import ledger
from stripemeter.store.archived_days import load_archived_day
from stripemeter.store.lake import Lake, load_events, open_lake, publish_day
from stripemeter.store.postgres import Tx
from stripemeter.store.scan import LedgerScanner
from stripemeter.store.sql import load_queries

_Q = load_queries("dropped_months")


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedMonth:
    """A month without its ledger rows: how many the lake has, where that lake is, since when."""

    month_on: date
    events: int
    lake: str
    dropped_at: datetime


def load_dropped_month(tx: Tx, month_on: date) -> DroppedMonth | None:
    """A month, by its first day; None while Postgres has its rows."""
    row = tx.execute(_Q["load_dropped_month"], {"month_on": month_on}).fetchone()
    return None if row is None else DroppedMonth(month_on=row[0], events=row[1], lake=row[2], dropped_at=row[3])


def list_dropped_months(tx: Tx) -> set[date]:
    """First days of all dropped months."""
    return {row[0] for row in tx.execute(_Q["list_dropped_months"])}


def list_partitions(tx: Tx, *, before: date) -> list[date]:
    """First days of the months before a day that have ledger rows in Postgres or had; ascending."""
    return [row[0] for row in tx.execute(_Q["list_partitions"], {"before": before})]


def replace_lake(tx: Tx, month_on: date, lake: str) -> None:
    """Look for a dropped month in another lake from now on."""
    tx.execute(_Q["replace_lake"], {"month_on": month_on, "lake": lake})


def has_partition(tx: Tx, month_on: date) -> bool:
    """Whether the month has a ledger partition."""
    return tx.execute(_Q["has_partition"], {"month_on": month_on}).fetchone() == (True,)


def has_unfolded(tx: Tx, first: date, last: date, *, below: int) -> bool:
    """Whether the days from first to last have rows the fold has not read."""
    bounds = {"start_at": day_bounds(first)[0], "end_at": day_bounds(last)[1], "below": str(below)}
    return tx.execute(_Q["has_unfolded"], bounds).fetchone() == (True,)


def lock_ledger(tx: Tx) -> None:
    """Keep everybody off the ledger until the transaction ends; gives up (Unavailable) after five seconds."""
    tx.execute(_Q["limit_waiting"])
    tx.execute(_Q["lock_ledger_alone"])


def drop_partition(tx: Tx, dropped: DroppedMonth) -> None:
    """Drop the month's rows and record where they are. The ledger must be locked."""
    tx.execute(_Q["drop_partition"], {"month_on": dropped.month_on})
    tx.execute(
        _Q["record_dropped_month"],
        {
            "month_on": dropped.month_on,
            "event_count": dropped.events,
            "lake": dropped.lake,
            "dropped_at": dropped.dropped_at,
        },
    )


def load_day(tx: Tx, scanner: LedgerScanner, day: date, *, below: int) -> pl.DataFrame:
    """`LedgerScanner.scan_day`, wherever the day lies. The day must be locked.

    Raises:
        InvariantBroken: the day was dropped and the lake does not have it.
        Unavailable: Postgres or the lake does not answer.
    """
    events = scanner.scan_day(day, below=below)
    archived = _load_archived(tx, day)
    return events if archived is None else _united(events, counting(archived))


def load_slice(tx: Tx, day: date, *, tenant_id: str, customer_refs: Collection[str] | None, below: int) -> pl.DataFrame:
    """`ledger.load_slice`, wherever the day lies. The day must be locked.

    Raises:
        InvariantBroken: the day was dropped and the lake does not have it.
        Unavailable: Postgres or the lake does not answer.
    """
    events = ledger.load_slice(tx, day, tenant_id=tenant_id, customer_refs=customer_refs, below=below)
    archived = _load_archived(tx, day)
    if archived is None:
        return events
    own = archived.filter(pl.col("tenant_id") == tenant_id)
    if customer_refs is not None:
        own = own.filter(pl.col("customer_ref").is_in(sorted(customer_refs)))
    return _united(events, counting(own))


def load_archive_day(tx: Tx, scanner: LedgerScanner, lake: Lake, day: date, *, below: int) -> pl.DataFrame:
    """`LedgerScanner.scan_archive_day`, with what this lake alone has. The day must be locked.

    Raises:
        InvariantBroken: the day was dropped and the lake does not have it.
        Unavailable: Postgres or the lake does not answer.
    """
    events = scanner.scan_archive_day(day, below=below)
    archived = _load_archived(tx, day, lake)
    return events if archived is None else _united(events, archived)


def find_archived(tx: Tx, ts: datetime, tenant_id: str, idempotency_key: str) -> pl.DataFrame | None:
    """The event of a key in the lake, one row or none, when the month of its ts was dropped.

    Raises:
        InvariantBroken: the day was dropped and the lake does not have it.
        Unavailable: the lake does not answer.
    """
    day = ts.date()
    month = load_dropped_month(tx, month_start(day))
    if month is None or load_archived_day(tx, day) is None:
        return None
    return _load(open_lake(month.lake), day, month).filter(
        pl.col("tenant_id") == tenant_id, pl.col("idempotency_key") == idempotency_key
    )


def scan_archived_backfill(tx: Tx, backfill_id: UUID) -> Iterator[pl.DataFrame]:
    """Events an operation brought, of each archived day of the dropped months; shape ARCHIVED_EVENTS, states of then.

    Raises:
        InvariantBroken: a dropped day is not in the lake.
        Unavailable: Postgres or the lake does not answer.
    """
    for month_on in sorted(list_dropped_months(tx)):
        month = load_dropped_month(tx, month_on)
        for day in days_between(month_on, next_month(month_on) - timedelta(days=1)):
            if month is not None and load_archived_day(tx, day) is not None:
                yield _load(open_lake(month.lake), day, month).filter(pl.col("backfill_id") == str(backfill_id))


def counting(archived: pl.DataFrame) -> pl.DataFrame:
    """Those of archived events that count, in the lane they count in; shape LEDGER_EVENTS."""
    return (
        archived.filter(pl.col("state").is_in(["counted", "late"]))
        .with_columns(
            is_history=pl.lit(value=False),  # lateness was judged when they were folded
            is_late=pl.col("state") == "late",
        )
        .select(list(LEDGER_EVENTS.columns))
    )


def _load_archived(tx: Tx, day: date, lake: Lake | None = None) -> pl.DataFrame | None:
    """Archived events of a day of a dropped month, with their states of now; None when Postgres has the month."""
    month = load_dropped_month(tx, month_start(day))
    if month is None:
        return None
    archived = load_archived_day(tx, day)
    if archived is None:  # it had no events when its month was dropped
        return None
    place = lake or open_lake(month.lake)
    publish_day(place, day, archived.files)
    events = _load(place, day, month, sha256=archived.events_sha256)
    start_at, end_at = day_bounds(day)
    rows = tx.execute(_Q["load_states"], {"day": day, "start_at": start_at, "end_at": end_at}).fetchall()
    states = pl.DataFrame(rows, schema={"seq": pl.Int64, "now": pl.String}, orient="row")
    return ARCHIVED_EVENTS.validate(
        events.join(states, on="seq", how="left")
        .with_columns(state=pl.col("now").fill_null("counted"))
        .select(list(ARCHIVED_EVENTS.columns))
    )


def _load(lake: Lake, day: date, month: DroppedMonth, *, sha256: str | None = None) -> pl.DataFrame:
    try:
        return load_events(lake, day, sha256=sha256)
    except InvariantBroken as error:
        raise InvariantBroken(
            f"Postgres has no rows of {day} any more, and {error}. Only a backup of the lake ({month.lake}) has them"
        ) from error


def _united(events: pl.DataFrame, archived: pl.DataFrame) -> pl.DataFrame:
    # Archived again since, rows that came later are in both.
    return pl.concat([events, archived]).unique(subset="seq", keep="first")
