"""The counters, written: merged by the fold, replaced by a recount, compared by a proof.

Belongs here: moving frames of counters into Postgres under the day's lock. Does not: computing them
(`metering.aggregation`), reading usage (`store.usage`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import reduce

import polars as pl

from stripemeter.metering.frames import COUNTERS
from stripemeter.store.postgres import Tx
from stripemeter.store.sql import load_queries

_Q = load_queries("counters")
_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))
"""What COPY's text format reads as something else, the escape character first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterMismatch:
    """A counter whose stored state is not what the ledger makes; a missing side is the empty text."""

    day: date
    tenant_id: str
    customer_ref: str
    meter: str
    segment_start: datetime
    counted: str
    ledger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTotal:
    """Counted usage of one meter on one day, over all tenants and customers."""

    meter: str
    events: int
    counters: int
    quantity: Decimal


def lock_days(tx: Tx, days: Iterable[date]) -> None:
    """Become the only writer of these days' counters until the transaction ends; ascending, so nobody deadlocks."""
    for day in sorted(days):
        tx.execute(_Q["lock_day"], {"day": day})


def merge_counters(tx: Tx, counters: pl.DataFrame) -> None:
    """Add the states of newly folded events (shape COUNTERS) to what is stored. The days must be locked."""
    _stage(tx, counters)
    tx.execute(_Q["merge_incoming"])


def replace_day(tx: Tx, day: date, counters: pl.DataFrame) -> int:
    """Make the day's counters exactly these (shape COUNTERS); returns how many rows changed. The day must be locked."""
    _stage(tx, counters)
    deleted = tx.execute(_Q["delete_surplus"], {"day": day}).rowcount
    return deleted + tx.execute(_Q["replace_day"], {"day": day}).rowcount


def compare_day(tx: Tx, day: date, counters: pl.DataFrame) -> list[CounterMismatch]:
    """Where the day's stored counters differ from these (shape COUNTERS); empty when they are equal."""
    _stage(tx, counters)
    return [
        CounterMismatch(
            day=day,
            tenant_id=row[0],
            customer_ref=row[1],
            meter=row[2],
            segment_start=row[3],
            counted=row[4],
            ledger=row[5],
        )
        for row in tx.execute(_Q["compare_day"], {"day": day})
    ]


def load_day_totals(tx: Tx, day: date) -> tuple[MeterTotal, ...]:
    """Counted usage per meter of a day, most events first."""
    return tuple(
        MeterTotal(meter=row[0], events=row[1], counters=row[2], quantity=row[3])
        for row in tx.execute(_Q["load_day_totals"], {"day": day})
    )


def _stage(tx: Tx, counters: pl.DataFrame) -> None:
    frame = COUNTERS.validate(counters)
    tx.execute(_Q["drop_incoming"])
    tx.execute(_Q["create_incoming"])
    with tx.cursor() as cursor, cursor.copy(_Q["copy_incoming"]) as copy:
        copy.write(_as_copy_text(frame))
    tx.execute(_Q["analyze_incoming"])


def _as_copy_text(frame: pl.DataFrame) -> str:
    r"""The frame in COPY's text format.

    Not as CSV: before version 18 a quoted line that is only `\\.` ends a CSV copy, and a name may hold one.
    """
    escaped = frame.with_columns(
        reduce(lambda text, pair: text.str.replace_all(*pair, literal=True), _ESCAPES, pl.col(pl.String))
    )
    return escaped.write_csv(
        include_header=False, separator="\t", quote_style="never", datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ"
    )
